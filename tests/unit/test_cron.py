"""Cron expressions: what they mean, where the clocks change too, and what is refused.

The rules are checked against an oracle that knows nothing of how they are computed: all times on the wall of some
days, taken to UTC by the zone itself.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_events.domain.cron import Cron, parse_cron
from cas_events.errors import InvalidScheduleError

BERLIN = ZoneInfo("Europe/Berlin")


def due_times(text: str, after: str, n: int, zone: str = "UTC") -> list[str]:
    """The next due times of an expression, on the zone's own wall."""
    cron, moment, found = parse_cron(text), datetime.fromisoformat(after), list[str]()
    for _ in range(n):
        due = cron.next_after(moment, ZoneInfo(zone))
        assert due is not None
        found.append(due.astimezone(ZoneInfo(zone)).isoformat())
        moment = due
    return found


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("* * * * * *", "2026-11-22T09:00:01"),
        ("*/20 * * * * *", "2026-11-22T09:00:20"),
        ("* * * * *", "2026-11-22T09:01:00"),
        ("*/15 * * * *", "2026-11-22T09:15:00"),
        ("0 0 9 * * *", "2026-11-23T09:00:00"),
        ("0 9 * * mon-fri", "2026-11-23T09:00:00"),
        ("0 9 * * MON,Wed", "2026-11-23T09:00:00"),
        ("30 8 * * 7", "2026-11-29T08:30:00"),
        ("0 0 1 jan *", "2027-01-01T00:00:00"),
        ("0 0 29 2 *", "2028-02-29T00:00:00"),
        ("0 0 31 * *", "2026-12-31T00:00:00"),
        ("10-20/5 9 * * *", "2026-11-22T09:10:00"),
        ("5/20 9 * * ?", "2026-11-22T09:05:00"),
        ("30 4 1,15 * 5", "2026-11-27T04:30:00"),  # either day: Friday comes first
        ("30 4 1 * *", "2026-12-01T04:30:00"),
        ("@hourly", "2026-11-22T10:00:00"),
        ("@daily", "2026-11-23T00:00:00"),
        ("@weekly", "2026-11-29T00:00:00"),
        ("@Monthly", "2026-12-01T00:00:00"),
        ("@yearly", "2027-01-01T00:00:00"),
    ],
)
def test_the_next_due_time(text: str, due: str) -> None:
    assert due_times(text, "2026-11-22T09:00:00.9+00:00", 1) == [f"{due}+00:00"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has 0 fields"),
        ("* * * *", "has 4 fields"),
        ("* * * * * * *", "has 7 fields"),
        ("@every 5m", "has 2 fields"),
        ("61 * * * *", "the minute '61'; it is from 0 to 59"),
        ("* 24 * * *", "the hour '24'"),
        ("* * 0 * *", "the day of month '0'"),
        ("* * * 13 *", "the month '13'"),
        ("* * * foo *", "the month 'foo'"),
        ("* * * * 8", "the day of week '8'"),
        ("60 * * * * *", "the second '60'"),
        ("5-1 * * * *", "begins after its end"),
        ("*/0 * * * *", "a step is at least 1"),
        ("*/-1 * * * *", "the minute '*/-1'"),
        ("1,,2 * * * *", "the minute ''"),
        ("-1 * * * *", "the minute '-1'"),
        ("1-2-3 * * * *", "the minute '1-2-3'"),
        ("\u0663 * * * *", "the minute"),
        ("99999999999999999999 * * * *", "the minute"),
        ("* " * 200, "at most 256"),
    ],
)
def test_what_does_not_parse_is_refused_with_the_part_that_is_wrong(text: str, words: str) -> None:
    with pytest.raises(InvalidScheduleError, match=r"^cron ") as caught:
        parse_cron(text)

    assert words in str(caught.value)
    assert caught.value.field == "cron"


@pytest.mark.parametrize("text", ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *"])
def test_a_day_that_never_comes_is_never_due(text: str) -> None:
    assert parse_cron(text).next_after(datetime(2026, 1, 1, tzinfo=UTC), BERLIN) is None


# --- where the clocks change: in Berlin from 02:00 to 03:00 on March 29th 2026, and back at 03:00 on October 25th ---------


def test_a_time_of_day_that_is_skipped_is_due_as_if_the_clock_had_not_been_changed() -> None:
    found = due_times("30 2 * * *", "2026-03-28T00:00:00+01:00", 3, "Europe/Berlin")

    assert found == ["2026-03-28T02:30:00+01:00", "2026-03-29T03:30:00+02:00", "2026-03-30T02:30:00+02:00"]


def test_a_time_of_day_that_is_repeated_is_due_once() -> None:
    found = due_times("30 2 * * *", "2026-10-24T12:00:00+02:00", 2, "Europe/Berlin")

    assert found == ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]


def test_an_interval_goes_by_the_clock_on_the_wall() -> None:
    spring = due_times("30 * * * *", "2026-03-29T00:45:00+01:00", 2, "Europe/Berlin")
    autumn = due_times("30 * * * *", "2026-10-25T01:45:00+02:00", 3, "Europe/Berlin")

    assert spring == ["2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00"]
    assert autumn == ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00", "2026-10-25T03:30:00+01:00"]


def test_two_times_that_a_change_makes_one_are_due_once() -> None:
    found = due_times("30 2,3 * * *", "2026-03-29T00:00:00+01:00", 2, "Europe/Berlin")

    assert found == ["2026-03-29T03:30:00+02:00", "2026-03-30T02:30:00+02:00"]


def test_midnight_is_due_where_it_is_skipped() -> None:
    """In Cairo the day of the change begins at 01:00."""
    found = due_times("@daily", "2026-04-23T12:00:00+02:00", 2, "Africa/Cairo")

    assert found == ["2026-04-24T01:00:00+03:00", "2026-04-25T00:00:00+03:00"]


# (zone, a day of a change): forward, back, at midnight, by half an hour, by a whole day
CHANGES = [
    ("Europe/Berlin", date(2026, 3, 29)),
    ("Europe/Berlin", date(2026, 10, 25)),
    ("Africa/Cairo", date(2026, 4, 24)),
    ("America/Havana", date(2025, 11, 2)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),
    ("Australia/Lord_Howe", date(2026, 10, 4)),
    ("Pacific/Apia", date(2011, 12, 30)),
    ("Asia/Kolkata", date(2026, 6, 1)),
]

_few = st.lists(st.integers(0, 59), min_size=1, max_size=3).map(
    lambda found: ",".join(map(str, sorted(set(found))))
)
_hours = st.one_of(
    st.sampled_from(["*", "*/2", "*/5"]),
    st.lists(st.integers(0, 23), min_size=1, max_size=6).map(
        lambda found: ",".join(map(str, sorted(set(found))))
    ),
)


@given(change=st.sampled_from(CHANGES), minutes=_few, hours=_hours, skew_s=st.integers(0, 3 * 86_400))
def test_every_due_time_around_a_change_is_found_and_no_other(
    change: tuple[str, date], minutes: str, hours: str, skew_s: int
) -> None:
    name, day = change
    zone, cron = ZoneInfo(name), parse_cron(f"{minutes} {hours} * * *")
    begin = datetime.combine(day - timedelta(days=1), time.min, zone).astimezone(UTC) + timedelta(
        seconds=skew_s
    )
    expected = [due for due in _all_due(cron, day, zone) if begin < due]

    moment = begin
    for due in expected[:15]:
        moment = cron.next_after(moment, zone) or begin
        assert moment == due


def _all_due(cron: Cron, day: date, zone: ZoneInfo) -> list[datetime]:
    """Every due time of the days around a change, by asking the zone for each minute of them."""
    walls = [
        datetime.combine(day + timedelta(days=offset), time(hour, minute))
        for offset in range(-2, 5)
        for hour in cron.hours
        for minute in cron.minutes
    ]
    if not cron.is_interval:
        return sorted({wall.replace(tzinfo=zone).astimezone(UTC) for wall in walls})
    both = {wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for wall in walls for fold in (0, 1)}
    # What does not come back as the same wall was in a gap.
    shown = {wall.isoformat() for wall in walls}
    return sorted(due for due in both if due.astimezone(zone).replace(tzinfo=None).isoformat() in shown)
