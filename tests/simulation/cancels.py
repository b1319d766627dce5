"""Cancels in a simulated runner: heard, or delivered and acknowledged only when the task has ended (PROTOCOL section 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cas_events.domain import events
from tests.simulation.rules import CANCEL, GRACE_S, LostRaceError, Step, Wait
from tests.simulation.server import ACK_WAIT_S, Item

if TYPE_CHECKING:
    from tests.simulation.runner import Process


def hear_cancel(process: Process) -> Step:
    """Heard on core NATS: confirmed by a read, then acted on."""
    cancel = yield from process.ask(process.server.read_cancel)
    if cancel and process.running is not None:
        process.ask_to_stop(process.running, CANCEL)


def handle_cancel(process: Process, item: Item) -> Step:
    is_over = yield from is_final(process, item)
    if is_over or not process.rules.cancel_is_acked_when_the_task_has_ended:
        yield (process.server.ack, item)
    else:
        rest_s = item.stored_s + GRACE_S + ACK_WAIT_S - process.wall_s()
        yield (process.server.nak, item, max(rest_s, 0.5))


def is_final(process: Process, item: Item) -> Step:
    mine = process.running
    if mine is not None:
        process.ask_to_stop(mine, CANCEL)
        yield Wait(process.server.now_s + GRACE_S, lambda: mine.ended)
        if not mine.ended:
            return False
    if not (yield from process.ask(process.server.read_execute)):
        return True
    while True:
        last = yield from process.last()
        if last is not None and last.is_terminal:
            return True
        has_owner = last is not None and last.type in {events.STARTED, events.RESUMED}
        if has_owner and process.wall_s() - item.stored_s < GRACE_S + ACK_WAIT_S:
            return False
        try:
            if has_owner:
                process.world.doubted.add(last.seq)  # type: ignore[union-attr]
            yield from process.append_over(last, events.CANCELLED)
        except LostRaceError:
            continue
