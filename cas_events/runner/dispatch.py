"""From a delivery to an attempt: the delivery table of PROTOCOL section 4, carried out.

``domain.decide`` says what to do; this module reads what the decision needs, carries it out, and decides anew when
another writer was faster. On a first delivery the append goes out at once, with the cancel and the duplicate read
beside it; what they find is appended right after `started`, before user code runs.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any, Literal

import msgspec

from cas_events.domain.commands import Execute
from cas_events.domain.decide import (
    NAK_DELAY_MAX_S,
    Ack,
    Action,
    AskOwner,
    Claim,
    Hint,
    Last,
    Nak,
    ReadAnswers,
    decide,
)
from cas_events.domain.events import RETRYING
from cas_events.errors import ConnectionLostError, NoRespondersError
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.queue import Delivery
from cas_events.runner.answering import act_on_answers
from cas_events.runner.claiming import claim_and_run
from cas_events.runner.descent import end_children
from cas_events.runner.gate import leave_by
from cas_events.runner.holds import Offer
from cas_events.runner.jobs import Job
from cas_events.runner.ledger import LostRaceError
from cas_events.runner.questions import Answer, ignore, was_answered
from cas_events.runner.registry import AgentSpec
from cas_events.runner.timers import store_wake, woken_command
from cas_events.runner.workplace import Workplace

_log = logging.getLogger(__name__)

ASK_OWNER_S = 0.3  # how long a runner has to answer whether it holds a task
ASK_AGAIN_S = 1.0  # at the latest, when its silence may be our own connection's youth


class Dispatcher:
    """Deals with deliveries of tasks and wakes."""

    def __init__(self, place: Workplace) -> None:
        self._place = place

    async def handle(self, offer: Offer) -> None:
        """Deal with one delivery; whatever happens, it is settled or comes again."""
        if offer.source.agent_id not in self._place.agents:
            self._place.nak(offer.delivery, 0.0)  # Its agent has left this process.
            return
        job = await self._read(offer)
        if job is None:
            self._place.ack(offer.delivery)
            return
        mine = self._place.running.get(job.key)
        if mine is not None and mine.governs(job.hint.command_seq):
            mine.delivery = offer.delivery  # Delivered again while it is being claimed.
            return
        is_first = job.hint.kind == "execute" and offer.delivery.delivered == 1 and mine is None
        last = None if is_first else await self._place.ledger.last(job.spec.agent_id, job.task_id)
        while True:
            action = decide(job.hint, last, now_s=job.now_s)
            try:
                if not await self._carry_out(job, action, last, is_first=is_first):
                    return
            except LostRaceError:
                _log.debug("task %s: another writer was faster, deciding anew", job.task_id)
            is_first = False
            last = await self._place.ledger.last(job.spec.agent_id, job.task_id)

    # --- reading what was delivered ----------------------------------------------------------------------------------------

    async def _read(self, offer: Offer) -> Job | None:
        """What a delivery is about; None if there is nothing to do about it."""
        delivery = offer.delivery
        if offer.source.kind == "wake":
            return await self._read_wake(offer)
        spec = self._place.agents[offer.source.agent_id]
        subject = self._place.names.parse_command(delivery.subject)
        if subject is None:
            await self._ignore(delivery, spec.agent_id, "an id in the subject is no token")
            return None
        if subject.kind == "resume":
            return await self._read_resume(offer, spec, subject.task, subject.interrupt)
        hint = Hint(kind="execute", command_seq=delivery.seq, delivered=delivery.delivered)
        return Job(
            offer=offer,
            spec=spec,
            task_id=subject.task,
            hint=hint,
            command=delivery.data,
            command_time_ns=delivery.time_ns,
        )

    async def _read_wake(self, offer: Offer) -> Job | None:
        due = self._place.names.parse_due(offer.delivery.subject)
        if due is None or due[0] not in self._place.agents:
            return None
        agent_id, task_id, attempt = due
        command = await self._place.last_command(self._place.names.execute(agent_id, task_id))
        if command is None:
            return None
        hint = Hint(
            kind="wake",
            # After an answer to an interrupt it is the resume that governs.
            command_seq=(attempt and woken_command(offer.delivery.data)) or command.seq,
            wake_attempt=attempt,
            delivered=offer.delivery.delivered,
        )
        return self._job(offer, self._place.agents[agent_id], task_id, hint, command)

    async def _read_resume(self, offer: Offer, spec: AgentSpec, task_id: str, interrupt: str) -> Job | None:
        command = await self._place.last_command(self._place.names.execute(spec.agent_id, task_id))
        if command is None:
            await self._ignore(offer.delivery, spec.agent_id, "no such task")
            return None
        hint = Hint(
            kind="resume",
            command_seq=offer.delivery.seq,
            interrupt=interrupt,
            delivered=offer.delivery.delivered,
        )
        answer = Answer(interrupt, offer.delivery.data, offer.delivery.seq, offer.delivery.subject)
        return replace(self._job(offer, spec, task_id, hint, command), answer=answer)

    def _job(self, offer: Offer, spec: AgentSpec, task_id: str, hint: Hint, command: StoredMessage) -> Job:
        return Job(
            offer=offer,
            spec=spec,
            task_id=task_id,
            hint=hint,
            command=command.data,
            command_time_ns=command.time_ns,
        )

    # --- carrying out --------------------------------------------------------------------------------------------------------

    async def _carry_out(self, job: Job, action: Action, last: Last | None, *, is_first: bool) -> bool:
        """Do what the table says; whether the delivery is to be decided anew."""
        match action:
            case Claim():
                return await claim_and_run(self._place, job, action, last, is_first=is_first)
            case AskOwner(runner=runner, fence_seq=fence_seq, then=claim):
                match await self._ask_owner(job, runner, fence_seq):
                    case "dead":
                        return await claim_and_run(self._place, job, claim, last, is_first=False)
                    case "unsure":
                        self._place.nak(job.delivery, min(ASK_AGAIN_S, max(self._young_for_s(job), 0.05)))
            case Nak(delay_s=delay_s):
                await self._wait(job, last, delay_s)
            case ReadAnswers():
                assert last is not None
                return await act_on_answers(self._place, job, action, last)
            case Ack(ignored=reason):
                if reason and not await self._is_repetition(job, last):
                    await self._ignore(job.delivery, job.spec.agent_id, reason)
                await self._settle(job, last)
        return False

    async def _settle(self, job: Job, last: Last | None) -> None:
        """Nothing is left to do about this delivery but, maybe, what the task's end means for its children."""
        if last is not None and last.is_terminal:  # Who ended it may have died before they were told.
            await end_children(self._place, *job.key, last.type)
            await leave_by(self._place, job)
        self._place.ack(job.delivery)

    async def _is_repetition(self, job: Job, last: Last | None) -> bool:
        """Whether a resume that answers nothing any more has been taken, and its acknowledgement was lost."""
        if last is None or not job.hint.interrupt:
            return False
        return await was_answered(self._place, job.spec.agent_id, job.task_id, job.hint.interrupt, last)

    async def _wait(self, job: Job, last: Last | None, delay_s: float | None) -> None:
        """Look again after a while, or a lease; a long wait is a schedule, since what is nak'd keeps its place."""
        if delay_s is None or delay_s <= NAK_DELAY_MAX_S or last is None:
            self._place.nak(job.delivery, job.offer.source.ack_wait_s if delay_s is None else delay_s)
            return
        await store_wake(self._place, job.facts(Execute()), attempt=last.attempt, delay_s=delay_s)
        if last.type == RETRYING:
            await leave_by(self._place, job, attempt=last.attempt)
        self._place.ack(job.delivery)

    async def _ignore(self, delivery: Delivery, agent_id: str, reason: str) -> None:
        await ignore(self._place, agent_id, (delivery.seq, delivery.subject, delivery.data), reason)

    async def _ask_owner(self, job: Job, runner: str, fence_seq: int) -> Literal["mine", "dead", "unsure"]:
        """Ask the runner that wrote `started` whether it still holds the task."""
        if runner == self._place.runner_id:
            return "mine" if job.key in self._place.desk.holds else "dead"
        question = msgspec.json.encode({"task": job.task_id, "fence": fence_seq})
        try:
            answer = await self._place.connection.request(
                self._place.names.runner_service(runner), question, timeout_s=ASK_OWNER_S
            )
            if msgspec.json.decode(answer.data, type=dict[str, Any]).get("mine") is True:
                return "mine"
        except (NoRespondersError, ConnectionLostError, msgspec.DecodeError) as error:
            # Silence proves nothing while our own connection is young: after a server's restart the owner may just
            # not be back yet.
            if self._young_for_s(job) > 0:
                return "unsure"
            _log.info("runner %s is silent about task %s (%s): taking over", runner, job.task_id, error)
        return "dead"

    def _young_for_s(self, job: Job) -> float:
        """Seconds until our own connection has been up for a lease."""
        up_since_s = self._place.connection.connected_since_s
        if up_since_s is None:
            return job.offer.source.ack_wait_s
        return up_since_s + job.offer.source.ack_wait_s - time.monotonic()
