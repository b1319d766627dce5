"""DESIGN's promises 1 to 6, and the rate of 8, as functions over the history of a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random

from cas_events.domain import events
from cas_events.domain.breaker import CLOSED, HALF_OPENED, OPENED
from cas_events.domain.events import Event
from cas_events.domain.follow import Sequencer
from tests.simulation.breaking import outcome
from tests.simulation.rules import TICKS_BURST, TICKS_PER_S
from tests.simulation.server import Stored
from tests.simulation.world import SKEW_S, World, require

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

# What may follow what in a lifecycle (PROTOCOL sections 3 to 8); the empty type is the beginning.
ENDS = events.TERMINAL_TYPES - {events.REJECTED}
MAY_FOLLOW = {
    "": {events.STARTED, events.CANCELLED, events.FAILED},
    events.STARTED: {events.STARTED, events.RETRYING, events.INTERRUPTED, *ENDS},
    events.RETRYING: {events.STARTED, events.CANCELLED, events.FAILED},
    events.INTERRUPTED: {events.RESUMED, events.CANCELLED, events.FAILED},
    events.RESUMED: {events.STARTED, events.CANCELLED, events.FAILED},
}
OF_THE_OWNER = {events.RETRYING, events.INTERRUPTED, events.COMPLETED}


def check(world: World) -> None:
    """Every promise, after peace."""
    lifecycle = [event for event in world.server.log if event.is_lifecycle]
    one_terminal_event(lifecycle)
    strict_sequence(lifecycle)
    only_the_owner(lifecycle)
    tries_are_counted(lifecycle, world.max_attempts)
    delays_are_kept(lifecycle)
    nobody_is_robbed(world, lifecycle)
    the_fenced_stop_renewing(world)
    cancel_is_final(world, lifecycle)
    floods_are_held_back(world.server.log)
    breaker_is_lawful(world)
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


def delays_are_kept(lifecycle: list[Stored]) -> None:
    """No try before its time, give or take how far the clocks are apart."""
    for before, event in pairwise(lifecycle):
        if before.type == events.RETRYING and event.type == events.STARTED:
            waited_s = event.stored_s - before.stored_s
            require(
                waited_s >= before.delay_s - SKEW_S - 1e-6,
                4,
                f"{event} after {waited_s:.1f} s of {before.delay_s:.1f}",
            )


def the_fenced_stop_renewing(world: World) -> None:
    """One renewal may be on its way when the fence falls; a second would keep a successor's lease alive for ever."""
    require(world.stale_renewals <= 1, 3, f"a fenced owner renewed {world.stale_renewals} times")


def nobody_is_robbed(world: World, lifecycle: list[Stored]) -> None:
    """A task that its live owner holds is taken by nobody who had no reason to think it gone."""
    for before, event in pairwise(lifecycle):
        if before.type == events.STARTED and event.attempt > before.attempt:
            process, execution = world.holders.get(before.seq, (None, None))
            if process is None or execution is None or process not in world.processes:
                continue
            require(before.seq in world.doubted, 3, f"{event} robbed the owner of {before}")


def cancel_is_final(world: World, lifecycle: list[Stored]) -> None:
    require(not world.server.cancels_dropped, 5, "a cancel was acknowledged while the task went on")
    if world.server.cancel_seq:
        require(lifecycle and lifecycle[-1].type in events.TERMINAL_TYPES, 5, "a cancelled task goes on")
        late = [event for event in lifecycle if event.type == events.CANCELLED]
        require(len(late) <= 1, 5, "cancelled twice")
    else:
        require(all(event.type != events.CANCELLED for event in lifecycle), 5, "cancelled by nobody")


def breaker_is_lawful(world: World) -> None:
    """One history of transitions for the whole fleet, each for a reason that the log shows, none before its time."""
    phase, since, probe_at_s = "closed", 0, 0.0
    for move in world.server.moves:
        allowed = {"closed": {OPENED}, "open": {HALF_OPENED}, "half_open": {OPENED, CLOSED}}[phase]
        require(move.type in allowed, 4, f"the breaker goes {move.type} while {phase}")
        outcomes = [outcome(event) for event in world.server.log[since : move.logged]]
        if move.type == HALF_OPENED:
            require(
                move.stored_s >= probe_at_s - 2 * SKEW_S, 4, f"half-open at {move.stored_s}, not {probe_at_s}"
            )
            phase = "half_open"
            continue  # What ended since it opened counts: the server delivers from the probe time on.
        reason = move.type == CLOSED
        require(reason in outcomes, 4, f"{move.type} with no {'success' if reason else 'failure'} since")
        phase, since, probe_at_s = ("closed" if reason else "open"), move.logged, move.probe_at_s
    is_refused = any(event.reason == "circuit_open" for event in world.server.log)
    require(not is_refused or world.server.moves, 4, "circuit_open, and it never was")


def floods_are_held_back(log: list[Stored]) -> None:
    """An attempt's telemetry keeps to its rate: no more than the burst and what has been saved since its start."""
    began: dict[int, float] = {}
    ticks: dict[int, set[int]] = {}
    for event in log:
        if event.type == events.STARTED:
            began[event.attempt] = event.stored_s
        elif event.type == events.PROGRESS:
            seen = ticks.setdefault(event.attempt, set())
            seen.add(event.index)
            bound = TICKS_BURST + TICKS_PER_S * (event.stored_s - began[event.attempt])
            require(len(seen) <= bound + 1e-6, 8, f"{len(seen)} ticks, {bound:.1f} at most")


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
