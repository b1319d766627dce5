"""The projection and the questions that are put to it."""

from __future__ import annotations

from cas_events.errors.root import CasEventsError


class ProjectionError(CasEventsError):
    """The projection cannot go on or cannot answer."""


class QueryError(ProjectionError):
    """A user's SQL was refused or failed.

    Attributes:
        reason: ``syntax``, ``not_read_only``, ``timeout``, ``too_many_rows``, ``memory``, ``forbidden`` or ``failed``.
    """

    def __init__(self, message: str, *, reason: str = "failed") -> None:
        super().__init__(message)
        self.reason = reason
