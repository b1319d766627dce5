"""Cron expressions: when a recurring task is due, in a zone's time. Pure; the zone is given.

Five fields (minute, hour, day of month, month, day of week) or six with seconds in front, as the server's own
schedules have them (ADR-51), and ``@hourly`` to ``@yearly``. If both days are restricted, either will do, as in
crontab(5).

Where the clocks change there are two kinds of expression (docs/schedules.md):

- One whose hours are named is a time of day, and every time of day comes once a day. A time that is skipped is due as
  if the clock had not been changed (02:30 is then 03:30), one that is repeated is due the first time: RFC 5545,
  section 3.3.5.
- One whose hour begins with ``*`` is an interval and goes by the clock on the wall: through the repeated hour twice,
  and not at all through the one that is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta, tzinfo

import msgspec

from cas_events.errors import InvalidScheduleError

CRON_CHARS_MAX = 256
# February 29th on a named weekday comes back within 28 years but for a century; whoever means that names a date.
YEARS_MAX = 29

_SECOND, _DAY = timedelta(seconds=1), timedelta(days=1)
_PROBE = timedelta(hours=6)  # no zone changes its offset and takes that back within a quarter of a day
_WINDOW = timedelta(days=32)

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NAMED: Mapping[str, str] = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}


class _Field(msgspec.Struct, frozen=True):
    """What one field may hold; ``names`` count from ``low`` on."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, _DAYS),  # 7 is Sunday, too
)


class Cron(msgspec.Struct, frozen=True, kw_only=True):
    """A cron expression, read.

    Attributes:
        seconds: of a minute, ascending; likewise the other fields.
        any_day: whether a day is due if one of the two day fields matches: both are restricted.
        is_interval: whether it goes by the clock on the wall, see the module.
    """

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    is_interval: bool

    def next_after(self, moment: datetime, zone: tzinfo) -> datetime | None:
        """The first due time after a moment, in UTC and whole seconds; None if there is none in 29 years.

        Args:
            moment: aware.
            zone: whose clock the expression is about.
        """
        begin = moment.astimezone(UTC).replace(microsecond=0) + _SECOND
        end = begin + timedelta(days=366 * YEARS_MAX)
        # What a change of the clock left behind it lasts a day at most, so windows overlap by that.
        at = begin - _DAY
        while at < end:
            found = [due for due in self._due_between(at, at + _WINDOW, zone, begin) if due is not None]
            if found:
                return min(found)
            at += _WINDOW - _DAY
        return None

    def _due_between(
        self, start: datetime, end: datetime, zone: tzinfo, not_before: datetime
    ) -> Iterator[datetime | None]:
        """The first due time of each stretch of one offset between two moments, and of each gap there."""
        for begin, until, before, offset in _stretches(start, end, zone):
            first = begin + (offset if self.is_interval else max(before, offset))
            yield self._first_due(max(first, not_before + offset), until + offset, offset)
            if (
                offset > before and not self.is_interval
            ):  # The clock was put forward: what it skipped is due, too.
                yield self._first_due(max(begin + before, not_before + before), begin + offset, before)

    def _first_due(self, wall: datetime, until: datetime, offset: timedelta) -> datetime | None:
        """The first due time from one time on the wall to another, as what it is in UTC by an offset."""
        day, earliest = wall.date(), wall.time()
        while day <= until.date():
            if self._is_day(day):
                clock = self._first_clock(earliest)
                if clock is not None:
                    found = datetime.combine(day, clock, UTC)
                    return found - offset if found < until else None
            day, earliest = day + _DAY, time.min
        return None

    def _is_day(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        by_date, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_date or by_weekday if self.any_day else by_date and by_weekday

    def _first_clock(self, earliest: time) -> time | None:
        """The first due time of a day that is not before this one."""
        for hour in (hour for hour in self.hours if hour >= earliest.hour):
            if hour > earliest.hour:
                return time(hour, self.minutes[0], self.seconds[0])
            for minute in (minute for minute in self.minutes if minute >= earliest.minute):
                least = earliest.second if minute == earliest.minute else 0
                second = next((second for second in self.seconds if second >= least), None)
                if second is not None:
                    return time(hour, minute, second)
        return None


def parse_cron(text: str) -> Cron:
    """Read an expression.

    Raises:
        InvalidScheduleError: it is none; the message says which part, and what that may be.
    """
    if not isinstance(text, str) or len(text) > CRON_CHARS_MAX:
        raise InvalidScheduleError("cron", f"is no text of at most {CRON_CHARS_MAX} characters")
    try:
        return _parse(text)
    except _FaultError as fault:
        raise InvalidScheduleError("cron", f"{text!r} {fault}") from None


class _FaultError(Exception):
    """What is wrong with an expression."""


def _parse(text: str) -> Cron:
    fields = _NAMED.get(text.strip().lower(), text).split()
    if len(fields) == 5:
        fields.insert(0, "0")
    if len(fields) != 6:
        raise _FaultError(
            f"has {len(fields)} fields; use 5 (minute hour day month weekday), 6 with seconds in front, or @daily"
        )
    seconds, minutes, hours, days, months, weekdays = (
        _values(part, field) for part, field in zip(fields, _FIELDS, strict=True)
    )
    return Cron(
        seconds=tuple(sorted(seconds)),
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(day % 7 for day in weekdays),
        any_day=not (_is_star(fields[3]) or _is_star(fields[5])),
        is_interval=_is_star(fields[2]),
    )


def _is_star(part: str) -> bool:
    return part[0] in "*?"


def _values(part: str, field: _Field) -> set[int]:
    """What a field names: a list of ``*``, ``3``, ``1-5``, each with a step or without."""
    return {value for item in part.split(",") for value in _item(item, field)}


def _item(item: str, field: _Field) -> range:
    said, slash, step_text = item.partition("/")
    step = _number(step_text, field, item, ()) if slash else 1
    if step < 1:
        raise _FaultError(f"has the {field.name} {item!r}: a step is at least 1")
    if said in ("*", "?"):
        return range(field.low, min(field.high, 6 if field.names is _DAYS else field.high) + 1, step)
    low_text, dash, high_text = said.partition("-")
    low = _number(low_text, field, item, field.names)
    high = _number(high_text, field, item, field.names) if dash else field.high if slash else low
    if not field.low <= low <= field.high or not field.low <= high <= field.high:
        raise _FaultError(f"has the {field.name} {item!r}; it is from {field.low} to {field.high}")
    if low > high:
        raise _FaultError(f"has the {field.name} {item!r}, which begins after its end")
    return range(low, high + 1, step)


def _number(text: str, field: _Field, item: str, names: tuple[str, ...]) -> int:
    if text.lower() in names:
        return names.index(text.lower()) + field.low
    if not (text.isascii() and text.isdigit() and len(text) < 5):
        raise _FaultError(f"has the {field.name} {item!r}; it is from {field.low} to {field.high}")
    return int(text)


def _stretches(
    start: datetime, end: datetime, zone: tzinfo
) -> Iterator[tuple[datetime, datetime, timedelta, timedelta]]:
    """The stretches of one offset between two moments: begin, end, the offset before, the offset."""
    begin, before = start, _offset(start, zone)
    offset, at = before, start
    while at < end:
        probe = min(at + _PROBE, end)
        if _offset(probe, zone) != offset:
            change = _change_between(at, probe, zone)
            yield begin, change, before, offset
            begin, before, offset = change, offset, _offset(change, zone)
            probe = change
        at = probe
    yield begin, end, before, offset


def _change_between(low: datetime, high: datetime, zone: tzinfo) -> datetime:
    """The first second with another offset than ``low``, up to ``high``, which has one."""
    was = _offset(low, zone)
    while high - low > _SECOND:
        middle = low + timedelta(seconds=(high - low) // _SECOND // 2)
        low, high = (middle, high) if _offset(middle, zone) == was else (low, middle)
    return high


def _offset(moment: datetime, zone: tzinfo) -> timedelta:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None, "a zone knows its offset"
    return offset
