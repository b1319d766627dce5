"""The follower's order (promise 6), by Hypothesis.

Goal: whatever arrives in whatever order and however often, a follower sees each event of a task once, in the order
(attempt, index), and the terminal event last. Method: make a history, shuffle and repeat it, feed a part live and
the whole as the catch-up read would.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from cas_events.domain import events
from cas_events.domain.events import Event
from cas_events.domain.follow import Sequencer

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def event(type_: str, attempt: int, index: int, at: datetime = LONG_AGO + timedelta(days=1)) -> Event:
    return Event(
        type=type_,
        task_id="t",
        agent_id="a",
        attempt=attempt,
        index=index,
        time=at,
        data={},
        seq=attempt * 1000 + index,
        stream="S",
    )


@st.composite
def histories(draw) -> list[Event]:
    """Attempts that end in a retry or a crash, the last one in a terminal event."""
    history: list[Event] = []
    attempts = draw(st.integers(1, 3))
    for attempt in range(1, attempts + 1):
        telemetry = draw(st.integers(0, 4))
        history.append(event(events.STARTED, attempt, 0))
        history += [event(events.PROGRESS, attempt, 1 + i) for i in range(telemetry)]
        if attempt == attempts:
            history.append(event(events.COMPLETED, attempt, 1 + telemetry))
        elif draw(st.booleans()):
            history.append(event(events.RETRYING, attempt, 1 + telemetry))
    return history


def feed(sequencer: Sequencer, arrivals: list[Event]) -> list[Event]:
    return [delivered for arrival in arrivals for delivered in sequencer.offer(arrival)]


def keys(history: list[Event]) -> list[tuple[int, int]]:
    return [(one.attempt, one.index) for one in history]


@given(history=histories(), data=st.data())
def test_any_arrival_order_gives_every_event_once_and_in_order(history: list[Event], data) -> None:
    arrivals = data.draw(st.permutations(history + data.draw(st.lists(st.sampled_from(history), max_size=5))))
    sequencer = Sequencer()

    seen = feed(sequencer, arrivals)
    seen += feed(sequencer, history)
    seen += sequencer.settle(final_before=LONG_AGO)

    assert keys(seen) == keys(history)
    assert sequencer.is_done


@given(history=histories(), data=st.data())
def test_live_loss_is_made_good_by_the_catch_up_read(history: list[Event], data) -> None:
    live = [one for one in history if data.draw(st.booleans())]
    sequencer = Sequencer()

    seen = feed(sequencer, live) + feed(sequencer, history) + sequencer.settle(final_before=LONG_AGO)

    assert keys(seen) == keys(history)


@given(history=histories(), data=st.data())
def test_what_was_never_stored_is_given_up_at_the_next_lifecycle_event(history: list[Event], data) -> None:
    stored = [one for one in history if one.is_lifecycle or data.draw(st.booleans())]
    sequencer = Sequencer()

    seen = feed(sequencer, stored) + sequencer.settle(final_before=LONG_AGO)

    assert keys(seen) == keys(stored)
    assert sequencer.is_done
    missing = {
        (gap.attempt, index) for gap in sequencer.gaps for index in range(gap.first_index, gap.last_index + 1)
    }
    given_up = set(keys(history)) - set(keys(stored))
    assert missing <= given_up
    # What is not among the gaps is the tail of an attempt that was overtaken without a word.
    assert all(max(k for k in keys(stored) if k[0] == key[0]) < key for key in given_up - missing)


@given(history=histories(), cut=st.integers(0, 30))
def test_a_cursor_goes_on_where_it_stopped(history: list[Event], cut: int) -> None:
    cut = min(cut, len(history) - 1)
    cursor = (history[cut].attempt, history[cut].index)
    sequencer = Sequencer(after=cursor)

    seen = feed(sequencer, history) + sequencer.settle(final_before=LONG_AGO)

    assert keys(seen) == keys(history[cut + 1 :])


def test_a_hole_is_kept_open_while_a_publisher_may_still_fill_it() -> None:
    now = LONG_AGO + timedelta(days=1)
    sequencer = Sequencer()
    sequencer.offer(event(events.STARTED, 1, 0))

    held = sequencer.offer(event(events.PROGRESS, 1, 2))
    too_early = sequencer.settle(final_before=now - timedelta(seconds=1))
    given_up = sequencer.settle(final_before=now + timedelta(seconds=1))

    assert (held, too_early) == ([], [])
    assert keys(given_up) == [(1, 2)]


def test_late_events_of_an_overtaken_attempt_are_dropped() -> None:
    sequencer = Sequencer()
    feed(sequencer, [event(events.STARTED, 1, 0), event(events.RETRYING, 1, 1), event(events.STARTED, 2, 0)])

    assert sequencer.offer(event(events.PROGRESS, 1, 7)) == []
    assert keys(sequencer.offer(event(events.PROGRESS, 2, 1))) == [(2, 1)]


def test_a_duplicate_rejection_says_nothing_about_the_task() -> None:
    rejected = event(events.REJECTED, 0, 55)
    rejected.data["reason"] = events.DUPLICATE_TASK

    assert Sequencer().offer(rejected) == []
