"""What a schedule is: read, checked, and asked what a due time means."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypedDict
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from cas_events.domain.commands import TIMEOUT_MAX_S, Token
from cas_events.domain.cron import Cron, parse_cron
from cas_events.errors import InvalidCommandError, InvalidScheduleError
from cas_events.wire.commands import execute_from

Missed = Literal["fire_once", "skip"]
MISSED_AFTER_S = 60.0

# Of the ids of all firings; never to be changed.
_FIRINGS = uuid.UUID("5e1d6a0c-64f8-5a0b-9f0e-1f4a0f3c7b21")


class ScheduleOptions(TypedDict, total=False):
    """What may be said of a schedule's tasks; all of it optional, and as for `TaskOptions`.

    Attributes:
        metadata: of each task; ``schedule`` and ``due`` are added to it.
        timeout_s: bound on one attempt, in seconds.
        idle_timeout_s: bound on an attempt's silence, in seconds.
        queue_timeout_s: bound on the wait for the first start, in seconds.
        max_attempts: bound on tries.
        retry: how errors are backed off.
        priority: ``high``, ``normal`` or ``low``.
        key: under which they compete for the agent's ``concurrency_per_key``.
    """

    metadata: Mapping[str, Any] | None
    timeout_s: float | None
    idle_timeout_s: float | None
    queue_timeout_s: float | None
    max_attempts: int | None
    retry: Mapping[str, float] | None
    priority: Literal["high", "normal", "low"] | None
    key: str | None


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as it is stored: the JSON object of its state.

    Attributes:
        id: of this schedule, so that the next one of the same name has tasks of its own.
        agent: whose tasks it starts.
        execute: the command of each task, as in `wire.commands`.
        cron: when.
        time_zone: by whose clock, an IANA name.
        missed: what becomes of a run that is missed.
        missed_after_s: how late a run is missed, in seconds.
        paused: whether it stands still.
        since: RFC 3339 time; what was due until then does not count.
        created_at: RFC 3339 time.
        created_by: who made it, as they say.
        changed_by: who changed it last, as they say.
    """

    id: Token
    agent: Token
    execute: dict[str, Any]
    cron: str
    time_zone: str
    missed: Missed
    missed_after_s: float
    since: datetime
    created_at: datetime
    paused: bool = False
    created_by: str = ""
    changed_by: str = ""

    def rule(self) -> Cron:
        """Its expression.

        Raises:
            InvalidScheduleError: it is none.
        """
        return parse_cron(self.cron)

    def next_after(self, moment: datetime) -> datetime | None:
        """The first due time after a moment, but not before the schedule counts.

        Raises:
            InvalidScheduleError: its zone or its expression is unknown here.
        """
        return self.rule().next_after(max(moment, self.since), zone_of(self.time_zone))

    def starts(self, due: datetime, now: datetime) -> bool:
        """Whether a due time still starts its task at the moment at which a runner deals with it."""
        return self.missed == "fire_once" or (now - due).total_seconds() <= self.missed_after_s

    def says_the_same(self, other: Definition) -> bool:
        """Whether another definition asks for the same, whoever made it when."""
        return _asked(self) == _asked(other)

    def task_id(self, due: datetime) -> str:
        """The id of the task of a due time: the same, whoever asks, and however often."""
        return str(uuid.uuid5(_FIRINGS, f"{self.id}:{int(due.timestamp())}"))

    def members(self, name: str, due: datetime) -> dict[str, Any]:
        """The members of the command of a due time's task, but for its id; those that are unknown here are left out."""
        known = ScheduleOptions.__annotations__.keys() | {"input"}
        members = {member: value for member, value in self.execute.items() if member in known}
        metadata = {**self.execute.get("metadata", {}), "schedule": name, "due": rfc3339(due)}
        return {**members, "metadata": metadata}


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as it stands.

    Attributes:
        name: its name.
        agent_id: whose tasks it starts.
        cron: when.
        time_zone: by whose clock.
        missed: ``fire_once`` or ``skip``.
        missed_after_s: how late a run is missed, in seconds.
        is_paused: whether it stands still.
        next_due: when it is due next, if that is known; None while it is paused, or while a runner deals with a run.
        input: of its tasks.
        metadata: of its tasks.
        created_at: when it was made.
        created_by: by whom, as they say.
        changed_at: when it was paused, resumed or made last.
        changed_by: by whom, as they say.
        revision: of its state, for `Client.agent_state_history("cron", name)`.
    """

    name: str
    agent_id: str
    cron: str
    time_zone: str
    missed: str
    missed_after_s: float
    is_paused: bool
    next_due: datetime | None
    input: dict[str, Any]
    metadata: dict[str, Any]
    created_at: datetime
    created_by: str
    changed_at: datetime | None
    changed_by: str
    revision: int


def require_terms(time_zone: Any, missed: Any, missed_after_s: Any) -> None:
    """Check what a schedule says beside its expression and its command.

    Raises:
        InvalidScheduleError: one is wrong; the error names it.
    """
    zone_of(time_zone)
    if missed not in ("fire_once", "skip"):
        raise InvalidScheduleError("missed", f"{missed!r} is neither 'fire_once' nor 'skip'")
    is_number = isinstance(missed_after_s, int | float) and not isinstance(missed_after_s, bool)
    if not (is_number and math.isfinite(missed_after_s) and 1 <= missed_after_s <= TIMEOUT_MAX_S):
        raise InvalidScheduleError(
            "missed_after_s", f"is {missed_after_s!r}; it must be from 1 to {TIMEOUT_MAX_S:.0f} seconds"
        )


def zone_of(name: Any) -> ZoneInfo:
    """A zone of the IANA database.

    Raises:
        InvalidScheduleError: this machine knows none of that name.
    """
    try:
        return ZoneInfo(name)
    # Names that are paths, or folders of the database, raise whatever opening them does.
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError, AttributeError):
        raise InvalidScheduleError(
            "time_zone",
            f"{name!r} is no zone that is known here; use an IANA name such as 'Europe/Berlin' or 'UTC'",
        ) from None


def read_definition(state: Mapping[str, Any]) -> Definition | None:
    """The definition in a state; None if it holds none: it was cancelled, or somebody wrote something else."""
    try:
        definition = msgspec.convert(state, Definition)
        definition.rule()
        execute_from(definition.execute)
    except (msgspec.ValidationError, InvalidScheduleError, InvalidCommandError):
        return None
    moments = (definition.since, definition.created_at)
    return definition if all(moment.tzinfo is not None for moment in moments) else None


def rfc3339(moment: datetime) -> str:
    """A time as text, in UTC and whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _asked(definition: Definition) -> tuple[Any, ...]:
    said = definition
    return (said.agent, said.execute, said.cron, said.time_zone, said.missed, said.missed_after_s)
