"""What came over the wire and is not what PROTOCOL says it should be."""

from __future__ import annotations

from cas_events.errors.root import CasEventsError


class WireError(CasEventsError):
    """Bytes from the log that are not what PROTOCOL says they should be."""


class BlobError(WireError):
    """A claim check whose bytes are missing, or are not those that it names.

    Attributes:
        sha256: its name, in hex.
    """

    def __init__(self, sha256: str, problem: str) -> None:
        super().__init__(f"claim check {sha256}: {problem}")
        self.sha256 = sha256
