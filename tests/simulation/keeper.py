"""The keeper of a simulated runner: renews what is held while it is its own, and ends it when its time is over."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cas_events.domain import events
from tests.simulation.rules import FENCED, LOST, Execution, LostRaceError, Step, Wait
from tests.simulation.server import ACK_WAIT_S, Stored

if TYPE_CHECKING:
    from tests.simulation.runner import Process


def keep(process: Process) -> Step:
    """Renew what is held while it is ours; end it when its time is over."""
    while True:
        yield Wait(float("inf"), partial(is_renewal_due, process))
        execution = process.running
        if execution is None or not execution.held or execution.lost:
            continue
        if process.server.now_s > execution.deadline_s:
            execution.deadline_s = float("inf")
            yield from fail_timed_out(process, execution)
            continue
        execution.renew_at_s = process.server.now_s + ACK_WAIT_S / 3
        if process.rules.keeper_reads_before_it_renews:
            last = yield (process.server.read_last,)
            if last is LOST:
                continue
            if last is None or last.seq != execution.fence_seq:
                lose(process, execution)
                continue
        if execution.held:
            note_renewal(process, execution)
            yield (process.server.renew, execution.item)


def note_renewal(process: Process, execution: Execution) -> None:
    """Count what is sent after the fence fell; once is possible, between the read and its answer."""
    if process.server.last is not None and process.server.last.seq != execution.fence_seq:
        execution.stale_renewals += 1
        process.world.stale_renewals = max(process.world.stale_renewals, execution.stale_renewals)


def is_renewal_due(process: Process) -> bool:
    execution = process.running
    if execution is None or not execution.held or execution.lost:
        return False
    return process.server.now_s >= execution.renew_at_s or process.server.now_s > execution.deadline_s


def lose(process: Process, execution: Execution) -> None:
    execution.lost = True
    process.ask_to_stop(execution, FENCED)


def fail_timed_out(process: Process, execution: Execution) -> Step:
    event = Stored(
        events.FAILED,
        execution.claim.attempt,
        execution.next_index,
        process.name,
        tries=execution.claim.tries,
        command_seq=execution.command_seq,
        reason="timeout",
        made_by=object(),
    )
    execution.next_index += 1
    try:
        yield from process.append(event, execution.fence_seq)
        yield (process.server.ack, execution.item)
    except LostRaceError:
        pass
    lose(process, execution)
