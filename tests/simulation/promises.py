"""DESIGN's promises 1 to 6 as functions over the history of a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

from cas_events.domain import events
from cas_events.domain.events import Event
from cas_events.domain.follow import Sequencer
from tests.simulation.server import Stored
from tests.simulation.world import ViolationError, World

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

# What may follow what in a lifecycle (PROTOCOL sections 3 to 8); the empty type is the beginning.
ENDS = events.TERMINAL_TYPES - {events.REJECTED}
MAY_FOLLOW = {
    "": {events.STARTED, events.CANCELLED, events.FAILED},
    events.STARTED: {events.STARTED, events.RETRYING, events.INTERRUPTED, *ENDS},
    events.RETRYING: {events.STARTED, events.CANCELLED, events.FAILED},
    events.INTERRUPTED: {events.RESUMED, events.CANCELLED},
    events.RESUMED: {events.STARTED, events.CANCELLED, events.FAILED},
}
OF_THE_OWNER = {events.RETRYING, events.INTERRUPTED, events.COMPLETED}


def require(condition: object, number: int, words: str) -> None:
    if not condition:
        raise ViolationError(f"promise {number}: {words}")


def check(world: World) -> None:
    """Every promise, after peace."""
    lifecycle = [event for event in world.server.log if event.is_lifecycle]
    one_terminal_event(lifecycle)
    strict_sequence(lifecycle)
    only_the_owner(lifecycle)
    tries_are_counted(lifecycle, world.max_attempts)
    nobody_is_robbed(world, lifecycle)
    cancel_is_final(world, lifecycle)
    follower_sees_everything(world.server.log, world.rng)


def one_terminal_event(lifecycle: list[Stored]) -> None:
    ends = [event for event in lifecycle if event.type in events.TERMINAL_TYPES]
    require(len(ends) == 1, 1, f"{len(ends)} terminal events")


def strict_sequence(lifecycle: list[Stored]) -> None:
    before, attempt, index = "", 0, -1
    for event in lifecycle:
        require(event.type in MAY_FOLLOW.get(before, ()), 2, f"{event} after {before or 'nothing'}")
        opens = event.attempt == attempt + 1 and event.index == 0
        continues = event.attempt == attempt and event.index > index
        require(opens or continues, 2, f"{event} after attempt {attempt}.{index}")
        before, attempt, index = event.type, event.attempt, event.index


def only_the_owner(lifecycle: list[Stored]) -> None:
    """Within an attempt, only the process that opened it appends."""
    owners: dict[int, str] = {}
    resumed: set[int] = set()
    for event in lifecycle:
        if event.type == events.RESUMED:
            resumed.add(event.attempt)
        took_over = event.type == events.STARTED and event.attempt in resumed
        owner = event.source if took_over else owners.setdefault(event.attempt, event.source)
        owners[event.attempt] = owner
        require(event.source == owner, 3, f"{event} in an attempt of {owner}")
        if event.type in OF_THE_OWNER:
            require(event.index > 0, 3, f"{event} ends an attempt that it opened")


def tries_are_counted(lifecycle: list[Stored], max_attempts: int) -> None:
    before: Stored | None = None
    for event in lifecycle:
        if event.type == events.STARTED:
            require(event.tries <= max_attempts, 4, f"{event}, of {max_attempts} at most")
            expected = 1
            if before is not None and before.type == events.STARTED:
                expected = before.tries + 1
            elif before is not None and before.type == events.RETRYING:
                expected = before.tries + (0 if before.handover else 1)
            require(event.tries == expected, 4, f"{event} after {before}")
        before = event


def nobody_is_robbed(world: World, lifecycle: list[Stored]) -> None:
    """A task that its live owner holds is taken by nobody who had no reason to think it gone."""
    for before, event in zip(lifecycle, lifecycle[1:], strict=False):
        if before.type == events.STARTED and event.attempt > before.attempt:
            process, execution = world.holders.get(before.seq, (None, None))
            if process is None or execution is None or process not in world.processes:
                continue
            require(before.seq in world.doubted, 3, f"{event} robbed the owner of {before}")


def cancel_is_final(world: World, lifecycle: list[Stored]) -> None:
    if world.server.cancel_seq:
        require(lifecycle and lifecycle[-1].type in events.TERMINAL_TYPES, 5, "a cancelled task goes on")
        late = [event for event in lifecycle if event.type == events.CANCELLED]
        require(len(late) <= 1, 5, "cancelled twice")
    else:
        require(all(event.type != events.CANCELLED for event in lifecycle), 5, "cancelled by nobody")


def follower_sees_everything(log: list[Stored], rng: Random) -> None:
    """Live in any order and with losses, then the catch-up read: every event once, in order, the end last."""
    stored = [as_event(event) for event in log]
    live = [event for event in stored if rng.random() < 0.7]
    if rng.random() < 0.3:
        rng.shuffle(live)
    sequencer = Sequencer()
    seen = [event for arrival in live for event in sequencer.offer(arrival)]
    for event in stored:
        seen += sequencer.offer(event)
    seen += sequencer.settle(final_before=EPOCH)
    keys = [(event.attempt, event.index) for event in seen]
    require(keys == sorted(set(keys)), 6, f"out of order or twice: {keys}")
    require(sequencer.is_done, 6, "the follower does not end")
    have = set(keys)
    newest: tuple[int, int] = (0, 0)
    for event in stored:
        key = (event.attempt, event.index)
        overtaken = event.attempt < newest[0] or (seen and key > (seen[-1].attempt, seen[-1].index))
        newest = max(newest, key)
        require(key in have or overtaken, 6, f"{event.type} {key} was not seen")


def as_event(event: Stored) -> Event:
    return Event(
        type=event.type,
        task_id="t",
        agent_id="a",
        attempt=event.attempt,
        index=event.index,
        time=EPOCH + timedelta(seconds=event.stored_s),
        data={},
        seq=event.seq,
        stream="S",
    )
