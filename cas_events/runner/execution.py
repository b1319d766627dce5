"""One attempt of one task in this process: from the claimed `started` to what ends the attempt.

The agent's code runs in the same asyncio task as the delivery that started it. Whoever wants it to stop (a cancel, a
timeout, a lost fence, a shutdown) says why and cancels that task; code that does not end within the grace is left
behind: its attempt is ended over its head, and nothing that it still does can be appended.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Mapping
from enum import Enum, IntEnum
from typing import Any

from cas_events.domain import events
from cas_events.domain.commands import Cancel
from cas_events.domain.decide import HANDOVER, NAK_DELAY_MAX_S, Claim, after_error
from cas_events.domain.retry import backoff_s
from cas_events.errors import NotJsonError, PayloadTooLargeError
from cas_events.runner.clock import AttemptClock
from cas_events.runner.context import TaskContext, task_scope
from cas_events.runner.facts import TaskFacts
from cas_events.runner.failures import error_members
from cas_events.runner.holds import Hold, Offer
from cas_events.runner.ledger import LostRaceError
from cas_events.runner.registry import AgentSpec
from cas_events.runner.telemetry import Telemetry
from cas_events.runner.terms import retry_after_s, terms_of
from cas_events.runner.timers import store_wake
from cas_events.runner.workplace import Workplace
from cas_events.wire.commands import decode_cancel

_log = logging.getLogger(__name__)

KEEPER_SLACK_S = 2.0  # the keeper fails a task only when the loop had its chance to


class Stop(IntEnum):
    """Why agent code is asked to end; a greater reason overrules a lesser one."""

    HANDOVER = 1
    TIMEOUT = 2
    CANCEL = 3
    FENCED = 4


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
    """

    def __init__(
        self, place: Workplace, spec: AgentSpec, facts: TaskFacts, offer: Offer, claim: Claim
    ) -> None:
        self._place = place
        self._spec = spec
        self.facts = facts
        self.offer = offer
        self.delivery = offer.delivery
        self.claim = claim
        self.metadata = facts.execute.metadata
        self.terms = terms_of(spec, facts.execute)
        self._timeout_problem = ""
        self._clock = AttemptClock(self.terms, heard_s=self._heard_s, on_timeout=self._time_out)
        self.encoder = facts.encoder(place.source, claim.attempt)
        self.indexes = itertools.count(1 if claim.after_resumed else 0)
        self._phase = _Phase.CLAIMING
        self._stop: Stop | None = None
        self._cancel = Cancel()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._telemetry: Telemetry | None = None
        self._lock_seq = claim.expected_seq
        self._has_run = claim.attempt > 1
        self._began_s = time.monotonic()
        self.ended = asyncio.Event()

    def governs(self, command_seq: int) -> bool:
        """Whether this attempt answers to a command."""
        return self.facts.command_seq == command_seq

    # --- asking it to stop -----------------------------------------------------------------------------------------------

    @property
    def is_stopping(self) -> bool:
        """Whether the agent's code has been asked to end."""
        return self._stop is not None

    def cancel(self, cancel: Cancel) -> None:
        """A stored cancel was read: end the task."""
        self._cancel = cancel
        self._ask_to_stop(Stop.CANCEL)

    def hand_over(self) -> None:
        """The process shuts down: leave the task to another runner."""
        self._ask_to_stop(Stop.HANDOVER)

    def lose(self) -> None:
        """The task is no longer ours: stop the code, append nothing."""
        self._ask_to_stop(Stop.FENCED)

    def _time_out(self, problem: str) -> None:
        self._timeout_problem = problem
        self._ask_to_stop(Stop.TIMEOUT)

    def _heard_s(self) -> float:
        return self._began_s if self._telemetry is None else self._telemetry.emitted_s

    def _ask_to_stop(self, stop: Stop) -> None:
        if self._phase is _Phase.ENDING or (self._stop is not None and self._stop >= stop):
            return
        is_first, self._stop = self._stop is None, stop
        if not is_first or self._phase is not _Phase.RUNNING or self._task is None:
            return  # It is ending already, or the claim will look at the reason before it runs any code.
        self._task.cancel()
        self._clock.call_later(self._place.grace_s, self._leave_behind)

    def _leave_behind(self) -> None:
        """The grace is over and the code still runs: end the attempt over its head."""
        if self._phase is _Phase.RUNNING:
            _log.warning(
                "agent code ignores its end task=%s agent=%s", self.facts.task_id, self.facts.agent_id
            )
            self._phase = _Phase.ENDING
            self._place.spawn(self._end(None, None))

    # --- running ---------------------------------------------------------------------------------------------------------

    def begin(self, fence_seq: int) -> None:
        """The claim is stored and nothing speaks against it: hold the lease.

        Args:
            fence_seq: sequence of `started`.
        """
        self._lock_seq = fence_seq
        now_s = time.monotonic()
        timeout_s = self.terms.timeout_s
        ack_wait_s = self.offer.source.ack_wait_s
        hold = Hold(
            task_id=self.facts.task_id,
            agent_id=self.facts.agent_id,
            lifecycle_subject=self._place.names.lifecycle(self.facts.agent_id, self.facts.task_id),
            fence_seq=fence_seq,
            delivery=self.delivery,
            ack_wait_s=ack_wait_s,
            encoder=self.encoder,
            indexes=self.indexes,
            command_seq=self.facts.command_seq,
            tries=self.claim.tries,
            timeout_s=timeout_s,
            deadline_s=None
            if timeout_s is None
            else now_s + timeout_s + self._place.grace_s + KEEPER_SLACK_S,
            on_lost=self.lose,
            renew_at_s=now_s + ack_wait_s / 3,
        )
        self._place.desk.hold(hold)

    async def run(self, input_: Any) -> None:
        """Run the agent's code and end the attempt."""
        output: Any = None
        error: BaseException | None = None
        self._task = asyncio.current_task()
        self._phase = _Phase.RUNNING
        self._began_s = time.monotonic()
        if self._stop is None:
            self._has_run = True
            context = self._context()
            self._clock.start()
            try:
                with task_scope(context):
                    output = await self._spec.run(context, input_)
            except asyncio.CancelledError as cancelled:
                if self._stop is None and self._task is not None and self._task.cancelling():
                    raise  # The process itself is being torn down.
                error = cancelled
            except BaseException as raised:  # Even an agent's SystemExit is only its own failure.
                error = raised
        if self._phase is not _Phase.RUNNING:
            return  # It was left behind; its attempt has been ended already.
        self._phase = _Phase.ENDING
        if self._task is not None and self._task.cancelling():
            self._task.uncancel()
        await self._end(output, error)

    def _context(self) -> TaskContext:
        return TaskContext(
            task_id=self.facts.task_id,
            agent_id=self.facts.agent_id,
            attempt=self.claim.attempt,
            metadata=self.metadata,
            make_emitter=self._make_telemetry,
            is_cancelled=lambda: self._stop is not None,
        )

    def _make_telemetry(self) -> Telemetry:
        """Made when the agent first emits something; many never do."""
        storage = self._place.keeper.storage  # By way of self it would be a cycle.
        self._telemetry = Telemetry(
            encoder=self.encoder,
            names=self._place.names,
            agent_id=self.facts.agent_id,
            publisher=self._place.publisher,
            blobs=self._place.blobs,
            indexes=self.indexes,
            loop=self._loop,
            spawn=self._place.spawn,
            is_blocked=lambda: storage.is_tight,
            limits=self._place.limits,
        )
        if self._phase is _Phase.ENDING:
            self._telemetry.close()
        return self._telemetry

    # --- ending ----------------------------------------------------------------------------------------------------------

    async def _end(self, output: Any, error: BaseException | None) -> None:
        """Append what ends the attempt, then settle the delivery."""
        try:
            if self._stop is not Stop.FENCED:
                await self._append_end(output, error)
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
        hold = self._place.desk.release(self.facts.key)
        if hold is not None:
            self.delivery = hold.delivery
        if self._place.running.get(self.facts.key) is self:
            del self._place.running[self.facts.key]
        self.ended.set()

    async def _append_end(self, output: Any, error: BaseException | None) -> None:
        if self._telemetry is not None:
            await self._telemetry.barrier()
        duration = {"duration_s": round(time.monotonic() - self._began_s, 6)}
        match self._stop:
            case Stop.CANCEL:
                await self._finish(events.CANCELLED, self._cancelled_members())
            case Stop.TIMEOUT:
                problem = {"type": "TimeoutError", "message": self._timeout_problem}
                await self._finish(events.FAILED, {"error": problem, "reason": "timeout", **duration})
            case Stop.HANDOVER:
                await self._hand_over()
            case _ if error is not None:
                await self._after_error(error)
            case _:
                await self._complete(output, duration)

    async def _complete(self, output: Any, duration: Mapping[str, Any]) -> None:
        try:
            await self._finish(events.COMPLETED, {"output": output, **duration})
        except (NotJsonError, PayloadTooLargeError) as problem:
            await self._finish(
                events.FAILED, {"error": error_members(problem), "reason": "error", **duration}
            )

    async def _after_error(self, error: BaseException) -> None:
        members = error_members(error)
        verdict = after_error(
            retryable=self._spec.is_retryable(error),
            tries=self.claim.tries,
            max_attempts=self.terms.max_attempts,
        )
        if verdict != "retry":
            await self._finish(events.FAILED, {"error": members, "reason": verdict})
            return
        delay_s = retry_after_s(error)
        if delay_s is None:
            delay_s = backoff_s(self.terms.retry, tries=self.claim.tries, draw=random.random())  # noqa: S311
        await self._retry_later(members, round(delay_s, 3), next_try=self.claim.tries + 1)

    async def _hand_over(self) -> None:
        problem = {"type": HANDOVER, "message": "the runner shuts down"}
        await self._retry_later(problem, 0.0, next_try=self.claim.tries)

    async def _retry_later(self, problem: Mapping[str, Any], delay_s: float, *, next_try: int) -> None:
        seq = await self.append(events.RETRYING, {"error": problem, "delay_s": delay_s, "next_try": next_try})
        self._lock_seq = seq
        # A cancel that was stored while the owner appended has nobody else to act on it at once.
        stored = await self._place.last_command(self._place.names.cancel(self.facts.task_id))
        if stored is not None:
            self._cancel = decode_cancel(stored.data)
            await self._finish(events.CANCELLED, self._cancelled_members())
        elif delay_s > NAK_DELAY_MAX_S:
            await store_wake(self._place, self.facts, attempt=self.claim.attempt, delay_s=delay_s)
            self._place.ack(self._current_delivery())
        else:
            self._place.nak(self._current_delivery(), delay_s)

    def _cancelled_members(self) -> dict[str, Any]:
        return {
            "reason": self._cancel.reason,
            "requested_by": self._cancel.requested_by,
            "started": self._has_run,
        }

    async def _finish(self, type_: str, members: Mapping[str, Any]) -> None:
        await self.append(type_, members)
        self._place.ack(self._current_delivery())

    async def append(self, type_: str, members: Mapping[str, Any], *, expected_seq: int | None = None) -> int:
        """Append the attempt's next lifecycle event under the lock and return its sequence."""
        return await self._place.ledger.append(
            self.encoder,
            type_,
            agent_id=self.facts.agent_id,
            index=next(self.indexes),
            time_ns=time.time_ns(),
            members={**members, "tries": self.claim.tries, "command_seq": self.facts.command_seq},
            expected_seq=self._lock_seq if expected_seq is None else expected_seq,
            member_bytes_max=self._place.limits.claim_bytes_max if type_ == events.COMPLETED else None,
            is_held=self._is_held if self._phase is _Phase.ENDING else None,
        )

    def _is_held(self) -> bool:
        hold = self._place.desk.holds.get(self.facts.key)
        return hold is not None and not hold.is_lost

    async def _settle_lost(self) -> None:
        last = await self._place.ledger.last(self.facts.agent_id, self.facts.task_id)
        if last is not None and last.is_terminal:
            self._place.ack(self._current_delivery())

    def _current_delivery(self) -> Any:
        hold = self._place.desk.holds.get(self.facts.key)
        return self.delivery if hold is None else hold.delivery
