"""One attempt of one task in this process: from the claimed `started` to what ends the attempt.

The agent's code runs in the same asyncio task as the delivery that started it. Whoever wants it to stop (a cancel, a
timeout, a lost fence, a shutdown) says why and cancels that task; code that does not end within the grace is left
behind: its attempt is ended over its head, and nothing that it still does can be appended.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Mapping
from enum import Enum
from functools import partial
from typing import Any

from cas_events.domain import events
from cas_events.domain.commands import Cancel
from cas_events.domain.decide import Claim
from cas_events.jetstream.queue import Delivery
from cas_events.observe.tracing import NO_TRACE, AttemptTrace
from cas_events.runner.attempts import Attempt
from cas_events.runner.clock import AttemptClock
from cas_events.runner.containment import ASK_AGAIN_AFTER, cancel_again
from cas_events.runner.context import TaskContext, task_scope
from cas_events.runner.endings import Stop, append_end
from cas_events.runner.facts import TaskFacts
from cas_events.runner.family import Family
from cas_events.runner.gate import leave
from cas_events.runner.holds import Hold, Offer
from cas_events.runner.ledger import LostRaceError
from cas_events.runner.registry import AgentSpec
from cas_events.runner.task_state import TaskState
from cas_events.runner.telemetry import Telemetry
from cas_events.runner.terms import terms_of
from cas_events.runner.tracing import TracedTelemetry
from cas_events.runner.turns import has_ended
from cas_events.runner.workplace import Workplace
from cas_events.wire.commands import decode_cancel

_log = logging.getLogger(__name__)

KEEPER_SLACK_S = 2.0  # the keeper fails a task only when the loop had its chance to


class _Phase(Enum):
    CLAIMING = 1
    RUNNING = 2
    ENDING = 3


class Execution:
    """One attempt.

    Args:
        place: what the process shares.
        spec: the agent.
        facts: the task.
        offer: the delivery that it answers to.
        claim: what the delivery table said.
        trace: told what happens.

    Attributes:
        attempt: the attempt, as adapters of agent frameworks see it.
        is_answered: it ended in a question whose answer was stored already, so its delivery is to be decided anew.
    """

    def __init__(
        self,
        place: Workplace,
        spec: AgentSpec,
        facts: TaskFacts,
        offer: Offer,
        claim: Claim,
        trace: AttemptTrace = NO_TRACE,
    ) -> None:
        self.trace = trace
        self.place = place
        self.spec = spec
        self.facts = facts
        self.offer = offer
        self.delivery = offer.delivery
        self.claim = claim
        self.metadata = facts.execute.metadata
        self.terms = terms_of(spec, facts.execute)
        self.timeout_problem = ""
        self._clock = AttemptClock(self.terms, heard_s=self._heard_s, on_timeout=self._time_out)
        self.encoder = facts.encoder(place.source, claim.attempt)
        self.indexes = itertools.count(1 if claim.after_resumed else 0)
        self._phase = _Phase.CLAIMING
        self.stop: Stop | None = None
        self.cancelled = Cancel()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._scope: TaskContext | None = None
        self._telemetry: Telemetry | None = None
        self._family = Family(place, facts, offer, attempt=claim.attempt)
        self.lock_seq = claim.expected_seq
        self.has_run = claim.attempt > 1
        self.began_s = time.monotonic()
        self.attempt = Attempt(place, spec, facts, number=claim.attempt, fence_seq=0)
        self.is_answered = False
        self.ended = asyncio.Event()

    def governs(self, command_seq: int) -> bool:
        """Whether this attempt answers to a command."""
        return self.facts.command_seq == command_seq

    # --- asking it to stop -----------------------------------------------------------------------------------------------

    @property
    def is_stopping(self) -> bool:
        """Whether the agent's code has been asked to end."""
        return self.stop is not None

    def cancel(self, cancel: Cancel) -> None:
        """A stored cancel was read: end the task."""
        self.cancelled = cancel
        self._ask_to_stop(Stop.CANCEL)

    def drain(self) -> None:
        """The process is about to shut down: code that can stop at a safe point does, and is handed over."""
        self.attempt.drain()

    def hand_over(self) -> None:
        """The process shuts down: leave the task to another runner."""
        self._ask_to_stop(Stop.HANDOVER)

    def lose(self) -> None:
        """The task is no longer ours: stop the code, append nothing."""
        self._ask_to_stop(Stop.FENCED)

    def _time_out(self, problem: str) -> None:
        self.timeout_problem = problem
        self._ask_to_stop(Stop.TIMEOUT)

    def _heard_s(self) -> float:
        if self._family.is_awaited:
            return time.monotonic()  # A child has bounds of its own.
        return self.began_s if self._telemetry is None else self._telemetry.emitted_s

    def _ask_to_stop(self, stop: Stop) -> None:
        if self._phase is _Phase.ENDING or (self.stop is not None and self.stop >= stop):
            return
        is_first, self.stop = self.stop is None, stop
        if not is_first or self._phase is not _Phase.RUNNING or self._task is None:
            return  # It is ending already, or the claim will look at the reason before it runs any code.
        self._task.cancel()
        self._family.stop()
        self._clock.call_later(self.place.grace_s * ASK_AGAIN_AFTER, self._ask_again)
        self._clock.call_later(self.place.grace_s, self._leave_behind)

    def _ask_again(self) -> None:
        if self._phase is _Phase.RUNNING and self._task is not None:
            cancel_again(self._task, self._scope)

    def _leave_behind(self) -> None:
        """The grace is over and the code still runs: end the attempt over its head."""
        if self._phase is _Phase.RUNNING:
            _log.warning(
                "agent code ignores its end task=%s agent=%s", self.facts.task_id, self.facts.agent_id
            )
            self._phase = _Phase.ENDING
            self.place.spawn(self._end(None, None))

    # --- running ---------------------------------------------------------------------------------------------------------

    def begin(self, fence_seq: int) -> None:
        """The claim is stored and nothing speaks against it: hold the lease.

        Args:
            fence_seq: sequence of `started`.
        """
        self.lock_seq = self.attempt.fence_seq = fence_seq
        now_s = time.monotonic()
        timeout_s = self.terms.timeout_s
        ack_wait_s = self.offer.source.ack_wait_s
        hold = Hold(
            task_id=self.facts.task_id,
            agent_id=self.facts.agent_id,
            lifecycle_subject=self.place.names.lifecycle(self.facts.agent_id, self.facts.task_id),
            fence_seq=fence_seq,
            delivery=self.delivery,
            ack_wait_s=ack_wait_s,
            encoder=self.encoder,
            indexes=self.indexes,
            command_seq=self.facts.command_seq,
            tries=self.claim.tries,
            timeout_s=timeout_s,
            deadline_s=None if timeout_s is None else now_s + timeout_s + self.place.grace_s + KEEPER_SLACK_S,
            on_lost=self.lose,
            renew_at_s=now_s + ack_wait_s / 3,
            must_be_settled=self._family.may_exist or self.spec.has_lanes,
        )
        self.place.desk.hold(hold)

    async def run(self, input_: Any) -> None:
        """Run the agent's code and end the attempt."""
        output: Any = None
        error: BaseException | None = None
        self._task = asyncio.current_task()
        self._phase = _Phase.RUNNING
        self.began_s = time.monotonic()
        if self.stop is None:
            self.has_run = True
            context = self._scope = self._context()
            self._clock.start()
            try:
                with task_scope(context), self.trace.scope():
                    output = await self.spec.begin(context, input_)
            except asyncio.CancelledError as cancelled:
                if self.stop is None and self._task is not None and self._task.cancelling():
                    raise  # The process itself is being torn down.
                error = cancelled
            except BaseException as raised:  # Even an agent's SystemExit is only its own failure.
                error = raised
        if self._phase is not _Phase.RUNNING:
            return  # It was left behind; its attempt has been ended already.
        self._phase = _Phase.ENDING
        while self._task is not None and self._task.cancelling():
            self._task.uncancel()
        await self._end(output, error)

    def _context(self) -> TaskContext:
        context = TaskContext(
            task_id=self.facts.task_id,
            agent_id=self.facts.agent_id,
            attempt=self.claim.attempt,
            metadata=self.metadata,
            make_emitter=self._make_telemetry,
            is_cancelled=lambda: self.stop is not None,
            log_level=self.spec.log_level_number,
            held=self.attempt,
        )
        context.redaction = self.place.redaction
        context.is_over = self.ended.is_set
        context.state = TaskState(
            self.place,
            self.facts,
            loop=self._loop,
            is_over=lambda: self.stop is Stop.FENCED or self.ended.is_set(),
        )
        return self._family.attach(context, lambda: None if self.stop is not None else self.lock_seq)

    def _make_telemetry(self) -> Telemetry:
        """Made when the agent first emits something; many never do."""
        storage = self.place.keeper.storage  # By way of self it would be a cycle.
        make = partial(TracedTelemetry, self.trace) if self.trace.wants_steps else Telemetry
        self._telemetry = make(
            encoder=self.encoder,
            names=self.place.names,
            agent_id=self.facts.agent_id,
            publisher=self.place.publisher,
            blobs=self.place.blobs,
            indexes=self.indexes,
            loop=self._loop,
            spawn=self.place.spawn,
            is_blocked=lambda: storage.is_tight,
            limits=self.place.limits,
            redaction=self.place.redaction,
        )
        if self._phase is _Phase.ENDING:
            self._telemetry.close()
        return self._telemetry

    # --- ending ----------------------------------------------------------------------------------------------------------

    async def _end(self, output: Any, error: BaseException | None) -> None:
        """Append what ends the attempt, then settle the delivery."""
        try:
            if self.stop is not Stop.FENCED:
                if self._telemetry is not None:
                    await self._telemetry.barrier()
                await append_end(self, output, error)
        except LostRaceError as lost:
            _log.info("task %s was ended by another writer at %d", self.facts.task_id, lost.seq)
            await self._settle_lost()
        finally:
            self.release()

    def release(self) -> None:
        """Let go of the lease and the place."""
        self._clock.stop()
        if self._telemetry is not None:
            self._telemetry.close()
        self._family.close()
        hold = self.place.desk.release(self.facts.key)
        if hold is not None:
            self.delivery = hold.delivery
        if self.place.running.get(self.facts.key) is self:
            del self.place.running[self.facts.key]
        self.trace.end()
        self.ended.set()

    async def finish(self, type_: str, members: Mapping[str, Any]) -> None:
        """Append a terminal event, end the children that it ends, and acknowledge the delivery."""
        await self.append(type_, members)
        await self._family.end(type_)
        await leave(self.place, self.facts)
        self.place.ack(self.current_delivery())

    async def retire(self, type_: str, members: Mapping[str, Any]) -> Cancel | None:
        """Append an event after which nobody owns the task; the cancel that was stored meanwhile, if any.

        Nobody else would act at once on a cancel that was stored while the owner appended.
        """
        self.lock_seq = await self.append(type_, members)
        stored = await self.place.last_command(self.place.names.cancel(self.facts.task_id))
        return None if stored is None else decode_cancel(stored.data)

    async def append(self, type_: str, members: Mapping[str, Any], *, expected_seq: int | None = None) -> int:
        """Append the attempt's next lifecycle event under the lock and return its sequence."""
        seq = await self.place.ledger.append(
            self.encoder,
            type_,
            agent_id=self.facts.agent_id,
            index=next(self.indexes),
            time_ns=time.time_ns(),
            members={**members, "tries": self.claim.tries, "command_seq": self.facts.command_seq},
            expected_seq=self.lock_seq if expected_seq is None else expected_seq,
            member_bytes_max=self.place.limits.claim_bytes_max if type_ == events.COMPLETED else None,
            is_held=self._is_held if self._phase is _Phase.ENDING else None,
        )
        self.trace.appended(type_, seq, members)
        if self._phase is _Phase.ENDING:
            self.place.meter.ran(self.facts.agent_id, type_, time.monotonic() - self.began_s)
        if type_ in events.TERMINAL_TYPES:
            has_ended(self.place, self.facts)
        if type_ == events.COMPLETED and self.attempt.on_completed is not None:
            self.place.spawn(self.attempt.on_completed())
        return seq

    def _is_held(self) -> bool:
        hold = self.place.desk.holds.get(self.facts.key)
        return hold is not None and not hold.is_lost

    async def _settle_lost(self) -> None:
        last = await self.place.ledger.last(self.facts.agent_id, self.facts.task_id)
        if last is not None and last.is_terminal:
            await self._family.end(last.type)
            await leave(self.place, self.facts)
            self.place.ack(self.current_delivery())

    def current_delivery(self) -> Delivery:
        """The newest delivery of the governing command."""
        hold = self.place.desk.holds.get(self.facts.key)
        return self.delivery if hold is None else hold.delivery
