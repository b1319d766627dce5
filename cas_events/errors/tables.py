"""The projection and the questions that are put to it."""

from __future__ import annotations

from cas_events.errors.root import CasEventsError


class ProjectionError(CasEventsError):
    """The projection cannot go on or cannot answer."""


class OtherVersionError(ProjectionError):
    """The tables in a file are of another projection version than this program makes.

    Attributes:
        found: version of the tables.
        wanted: version that this program makes.
    """

    def __init__(self, path: str, found: int, wanted: int) -> None:
        super().__init__(
            f"{path} is of projection version {found}, this program makes {wanted}; "
            f"start a projector (`cas projector`) or run `cas rebuild`: both make the tables anew from the log"
        )
        self.found = found
        self.wanted = wanted


class FileInUseError(ProjectionError):
    """Another process has the database file open in a way that excludes this one.

    Attributes:
        path: the file.
        pid: the process.
    """

    def __init__(self, path: str, pid: int) -> None:
        super().__init__(f"{path} is in use by process {pid}; ask that projector, or stop it")
        self.path = path
        self.pid = pid


class LogCutError(ProjectionError):
    """Retention took messages before they were projected, so the tables cannot be what the log was.

    Attributes:
        stream: the stream.
        first: first sequence that is gone.
        last: last sequence that is gone.
    """

    def __init__(self, stream: str, first: int, last: int) -> None:
        super().__init__(
            f"{stream} has lost {first} to {last} to retention before they were projected; the tables cannot go on from "
            f"{first - 1}. `cas rebuild --accept-loss` makes them anew from what the log still holds"
        )
        self.stream = stream
        self.first = first
        self.last = last


class OtherLogError(ProjectionError):
    """The log is not the one that the tables were made from."""


class VerificationError(ProjectionError):
    """The tables are not what the log says, or the log is not what it may be.

    Attributes:
        differences: places where a table differs.
        complaints: lifecycle events that the state machine does not allow.
    """

    def __init__(self, differences: int, complaints: int) -> None:
        parts = (
            [f"the tables differ from the log in {differences} places; `cas rebuild` makes them anew"]
            if differences
            else []
        )
        parts += [f"{complaints} lifecycle events are out of order in the log itself"] if complaints else []
        super().__init__("; ".join(parts))
        self.differences = differences
        self.complaints = complaints


class QueryError(ProjectionError):
    """A user's SQL was refused or failed.

    Attributes:
        reason: ``syntax``, ``not_read_only``, ``timeout``, ``too_many_rows``, ``memory``, ``forbidden``, ``ahead``
            (the tables are not there yet), ``rebuilding`` (nor before they are made anew), ``busy`` (ask again) or
            ``failed``.
    """

    def __init__(self, message: str, *, reason: str = "failed") -> None:
        super().__init__(message)
        self.reason = reason
