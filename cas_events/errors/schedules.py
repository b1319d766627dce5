"""Schedules: definitions that are none, and names that are unknown or taken."""

from __future__ import annotations

from cas_events.errors.root import CasEventsError


class InvalidScheduleError(CasEventsError, ValueError):
    """A schedule that cannot be made; nothing was stored.

    Attributes:
        field: the argument that is wrong, such as ``cron``.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field = field


class UnknownScheduleError(CasEventsError, LookupError):
    """There is no schedule of this name, or it was cancelled."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no schedule {name!r}; `cas schedules` lists them")
        self.name = name


class ScheduleExistsError(CasEventsError):
    """Another schedule has the name; nothing was changed."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is a schedule {name!r} already, with another definition; cancel that one first, or choose another name"
        )
        self.name = name
