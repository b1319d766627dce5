"""How an attempt of a simulated runner ends: for good, with a retry, a hand-over or a question (PROTOCOL sections 4 to 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cas_events.domain import events
from cas_events.domain.decide import NAK_DELAY_MAX_S, after_error
from cas_events.domain.retry import backoff_s
from tests.simulation.rules import CANCEL, HANDOVER, RETRY, TIMEOUT, Execution, Step

if TYPE_CHECKING:
    from tests.simulation.runner import Process


def append_end(process: Process, execution: Execution, plan: Any) -> Step:
    tries = execution.claim.tries
    if execution.stop == CANCEL:
        yield from finish(process, execution, events.CANCELLED)
    elif execution.stop == TIMEOUT:
        yield from finish(process, execution, events.FAILED, reason="timeout")
    elif execution.stop == HANDOVER:
        yield from retry_later(process, execution, 0.0, handover=True)
    elif plan.ends == "interrupt":
        yield from interrupt(process, execution)
    elif plan.ends in {"error", "fatal"}:
        verdict = after_error(retryable=plan.ends == "error", tries=tries, max_attempts=process.max_attempts)
        if verdict == "retry":
            delay_s = plan.hint_s
            if delay_s is None:
                delay_s = backoff_s(RETRY, tries=tries, draw=plan.draw)
            yield from retry_later(process, execution, delay_s, handover=False)
        else:
            yield from finish(process, execution, events.FAILED, reason=verdict)
    else:
        yield from finish(process, execution, events.COMPLETED)


def finish(process: Process, execution: Execution, type_: str, reason: str = "") -> Step:
    yield from process.append_own(execution, type_, reason=reason)
    yield (process.server.ack, execution.item)


def retry_later(process: Process, execution: Execution, delay_s: float, *, handover: bool) -> Step:
    execution.lock_seq = yield from process.append_own(
        execution, events.RETRYING, delay_s=delay_s, handover=handover
    )
    cancel = yield from process.ask(process.server.read_cancel)
    if cancel:
        yield from finish(process, execution, events.CANCELLED)
    elif delay_s > NAK_DELAY_MAX_S:
        yield from process.ask(process.server.store_wake, execution.claim.attempt, delay_s)
        yield (process.server.ack, execution.item)
    else:
        yield (process.server.nak, execution.item, delay_s)


def interrupt(process: Process, execution: Execution) -> Step:
    """PROTOCOL sections 5 to 7: the command is acked; the answer comes as a command of its own."""
    name = f"i-{execution.claim.attempt}"
    execution.lock_seq = yield from process.append_own(execution, events.INTERRUPTED, interrupts=(name,))
    cancel = yield from process.ask(process.server.read_cancel)
    if cancel:
        yield from finish(process, execution, events.CANCELLED)
        return
    answer = yield from process.ask(process.server.read_answer, (name,))
    if answer is None or not process.rules.owner_looks_for_answers:
        yield (process.server.ack, execution.item)
        return
    # The answer was stored before the interrupt, and its own delivery may have been ignored.
    process.release(execution)
    yield from process.handle(execution.item)
