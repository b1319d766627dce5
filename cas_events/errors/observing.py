"""Metrics, traces and health."""

from __future__ import annotations

from cas_events.errors.root import CasEventsError


class ObserveExtraMissingError(CasEventsError):
    """Metrics or traces were asked for, and their libraries are not installed.

    Attributes:
        wanted: what was asked for.
    """

    def __init__(self, wanted: str, library: str) -> None:
        super().__init__(
            f"{wanted} need the library `{library}`: install the extra, `pip install cas-events[observability]`"
        )
        self.wanted = wanted


class MetricsAddressError(CasEventsError):
    """Metrics cannot be served there.

    Attributes:
        address: host and port, as asked for.
    """

    def __init__(self, address: str, problem: str) -> None:
        super().__init__(f"cannot serve metrics on {address}: {problem}")
        self.address = address


class NotReadyError(CasEventsError):
    """The process could not do now what it is there for; the message says why."""
