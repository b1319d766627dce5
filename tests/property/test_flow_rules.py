"""Flow control as pure rules (issue 6, item 6): no class starves, slots and start times are never given out twice."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cas_events.domain import events
from cas_events.domain.ahead import Ahead
from cas_events.domain.commands import Execute
from cas_events.domain.decide import Last
from cas_events.domain.flow import (
    PRIORITIES,
    RATE_MAX_PER_S,
    Lane,
    Priority,
    Slot,
    holds_on,
    horizon_s,
    key_of,
    next_class,
    rate_per_s,
)

classes = st.sampled_from(PRIORITIES)
tasks = st.sampled_from("abcdef")


@given(st.integers(0, 1_000), st.sets(classes, min_size=1))
def test_of_seven_turns_each_class_that_waits_has_its_share(turn: int, waiting: set[Priority]) -> None:
    taken = [next_class(turn + n, waiting) for n in range(7)]
    assert set(taken) == waiting
    shares = [taken.count(name) for name in PRIORITIES if name in waiting]
    assert shares == sorted(shares, reverse=True)
    if waiting == set(PRIORITIES):
        assert shares == [4, 2, 1]


@given(st.lists(st.tuples(tasks, st.booleans(), st.integers(0, 5))))
def test_a_task_has_one_slot_at_most(steps: list[tuple[str, bool, int]]) -> None:
    lane, held = Lane(), dict[str, int]()
    for task, takes, after in steps:
        lane = lane.with_slot(task, after=after) if takes else lane.without(task)
        held = {**held, task: after} if takes else {name: n for name, n in held.items() if name != task}
        assert {slot.task: slot.after for slot in lane.held} == held
        assert len(lane.held) == len(held)


@given(
    st.floats(0.001, RATE_MAX_PER_S),
    st.lists(st.integers(0, 3_000_000_000), min_size=1, max_size=60),
)
def test_start_times_are_an_interval_apart_and_within_the_horizon(rate: float, pauses_ns: list[int]) -> None:
    lane, now_ns, starts_ns = Lane(), 1_800_000_000 * 10**9, list[int]()
    for pause_ns in pauses_ns:
        now_ns += pause_ns
        taken = lane.reserve(rate, now_ns=now_ns)
        if taken is None:
            assert lane.free_at_ns > now_ns + horizon_s(rate) * 1e9
            continue
        lane, start_ns = taken
        assert now_ns <= start_ns <= now_ns + horizon_s(rate) * 1e9
        starts_ns.append(start_ns)
    intervals = [later - earlier for earlier, later in pairwise(starts_ns)]
    assert all(interval >= int(1e9 / rate) for interval in intervals)
    assert starts_ns  # Whoever comes first starts at once.


def last(type_: str, attempt: int, delay_s: float = 0.0) -> Last:
    return Last(type=type_, seq=9, attempt=attempt, tries=1, command_seq=1, stored_s=0.0, delay_s=delay_s)


@given(
    st.sampled_from(sorted(events.LIFECYCLE_TYPES)), st.integers(0, 9), st.integers(0, 9), st.floats(0, 99)
)
def test_who_needs_a_slot_no_more(type_: str, after: int, attempt: int, delay_s: float) -> None:
    holds = holds_on(Slot("a", after), last(type_, attempt, delay_s))
    if type_ in events.TERMINAL_TYPES:
        assert not holds
    elif type_ == events.INTERRUPTED or (type_ == events.RETRYING and delay_s > 5):
        assert holds == (attempt <= after)  # Admitted for what comes after just this event, or not.
    else:
        assert holds
    assert holds_on(Slot("a", after), None)


@given(st.lists(st.tuples(classes, st.booleans()), max_size=80))
def test_who_overtakes_does_so_by_class_and_arrival_and_only_lower_ones(
    steps: list[tuple[Priority, bool]],
) -> None:
    queue, noted, delivered = Ahead(), list[tuple[int, Priority]](), 0
    for seq, (priority, delivers) in enumerate(steps, start=1):
        queue.note(seq, str(seq), priority)
        noted.append((seq, priority))
        if delivers:
            delivered += 1
            queue.deliver(delivered)
    rank = PRIORITIES.index
    taken = []
    while (task := queue.overtakes()) is not None:
        taken.append(int(task))
    by_seq = dict(noted)
    assert taken == sorted(taken, key=lambda seq: (rank(by_seq[seq]), seq))
    assert all(seq > delivered for seq in taken)
    for seq in taken:
        assert any(rank(other) > rank(by_seq[seq]) for earlier, other in noted if earlier < seq)
    # Whoever stands behind an undelivered one of a lower class does overtake.
    owed = {
        seq
        for seq, priority in noted
        if seq > delivered
        and any(delivered < earlier < seq and rank(other) > rank(priority) for earlier, other in noted)
    }
    assert owed <= set(taken)


@given(st.integers(1, 9_999), st.sampled_from("smhd"))
def test_rates_are_read_in_every_unit(number: int, unit: str) -> None:
    seconds = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[unit]
    assert rate_per_s(f"{number}/{unit}") == number / seconds


@given(
    st.one_of(st.none(), st.text(max_size=9), st.integers(), st.booleans(), st.floats(), st.lists(st.none()))
)
def test_a_key_is_text_or_a_whole_number(value: object) -> None:
    found = key_of(Execute(input={"customer": value}), "customer")
    if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "":
        assert found == str(value)
    else:
        assert found is None
    assert key_of(Execute(input={"customer": value}, key="own"), "customer") == "own"
    assert key_of(Execute(input={"customer": value}), None) is None
