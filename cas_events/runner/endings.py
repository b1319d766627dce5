"""What an attempt ends with: which lifecycle event, and what becomes of the delivery (PROTOCOL sections 4 to 8).

The reason why the code was asked to end comes first, then what the code did: it asked a question, raised or returned.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from cas_events.domain import events
from cas_events.domain.commands import Cancel
from cas_events.domain.decide import HANDOVER, NAK_DELAY_MAX_S, after_error
from cas_events.domain.retry import backoff_s
from cas_events.errors import NotJsonError, PayloadTooLargeError
from cas_events.runner.failures import error_members
from cas_events.runner.gate import leave
from cas_events.runner.questions import DrainedError, TaskInterruptedError, ask
from cas_events.runner.terms import retry_after_s
from cas_events.runner.timers import store_wake

if TYPE_CHECKING:
    from cas_events.runner.execution import Execution


class Stop(IntEnum):
    """Why agent code is asked to end; a greater reason overrules a lesser one."""

    HANDOVER = 1
    TIMEOUT = 2
    CANCEL = 3
    FENCED = 4


async def append_end(execution: Execution, output: Any, error: BaseException | None) -> None:
    """Append what ends an attempt, and settle its delivery.

    Args:
        execution: the attempt; it is not fenced, as far as is known.
        output: what its code returned.
        error: what its code raised instead.

    Raises:
        LostRaceError: another writer was faster.
    """
    duration = {"duration_s": round(time.monotonic() - execution.began_s, 6)}
    match execution.stop:
        case Stop.CANCEL:
            await _cancel(execution, execution.cancelled)
        case Stop.TIMEOUT:
            problem = {"type": "TimeoutError", "message": execution.timeout_problem}
            await execution.finish(events.FAILED, {"error": problem, "reason": "timeout", **duration})
        case Stop.HANDOVER:
            await _hand_over(execution)
        case _ if isinstance(error, DrainedError):
            await _hand_over(execution)
        case _ if isinstance(error, TaskInterruptedError):
            await _ask(execution, error)
        case _ if error is not None:
            await _after_error(execution, error)
        case _:
            await _complete(execution, output, duration)


async def _ask(execution: Execution, interruption: TaskInterruptedError) -> None:
    try:
        cancel = await ask(execution, interruption)
    except NotJsonError as problem:
        await execution.finish(
            events.FAILED, {"error": error_members(problem, execution.place.redaction), "reason": "error"}
        )
        return
    if cancel is not None:
        await _cancel(execution, cancel)


async def _cancel(execution: Execution, cancel: Cancel) -> None:
    await execution.finish(events.CANCELLED, cancelled_members(cancel, started=execution.has_run))


def cancelled_members(cancel: Cancel, *, started: bool) -> dict[str, Any]:
    """`data` of a `cancelled` event."""
    return {"reason": cancel.reason, "requested_by": cancel.requested_by, "started": started}


async def _complete(execution: Execution, output: Any, duration: Mapping[str, Any]) -> None:
    try:
        await execution.finish(events.COMPLETED, {"output": output, **duration})
    except (NotJsonError, PayloadTooLargeError) as problem:
        members = {"error": error_members(problem, execution.place.redaction), "reason": "error", **duration}
        await execution.finish(events.FAILED, members)


async def _after_error(execution: Execution, error: BaseException) -> None:
    members, tries, terms = (
        error_members(error, execution.place.redaction),
        execution.claim.tries,
        execution.terms,
    )
    verdict = after_error(
        retryable=execution.spec.is_retryable(error), tries=tries, max_attempts=terms.max_attempts
    )
    if verdict != "retry":
        await execution.finish(events.FAILED, {"error": members, "reason": verdict})
        return
    delay_s = retry_after_s(error)
    if delay_s is None:
        delay_s = backoff_s(terms.retry, tries=tries, draw=random.random())  # noqa: S311
    await _retry_later(execution, members, round(delay_s, 3), next_try=tries + 1)


async def _hand_over(execution: Execution) -> None:
    problem = {"type": HANDOVER, "message": "the runner shuts down"}
    await _retry_later(execution, problem, 0.0, next_try=execution.claim.tries)


async def _retry_later(
    execution: Execution, problem: Mapping[str, Any], delay_s: float, *, next_try: int
) -> None:
    place = execution.place
    cancel = await execution.retire(
        events.RETRYING, {"error": problem, "delay_s": delay_s, "next_try": next_try}
    )
    if cancel is not None:
        await _cancel(execution, cancel)
    elif delay_s > NAK_DELAY_MAX_S:
        await store_wake(place, execution.facts, attempt=execution.claim.attempt, delay_s=delay_s)
        await leave(place, execution.facts, attempt=execution.claim.attempt)
        place.ack(execution.current_delivery())
    else:
        place.nak(execution.current_delivery(), delay_s)
