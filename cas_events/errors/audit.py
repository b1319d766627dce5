"""Tamper evidence: heads, keys and bundles."""

from __future__ import annotations

from cas_events.errors.root import CasEventsError


class AuditError(CasEventsError):
    """A head cannot be made, or a bundle cannot be made or read."""


class AuditExtraMissingError(AuditError):
    """The library that signs and checks is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "signed heads need the library `cryptography`: install the extra, `pip install cas-events[audit]`"
        )


class AuditKeyError(AuditError):
    """The key is unusable, or what was given is no public key."""


class BundleError(AuditError):
    """A file is no bundle, or breaks off in the middle of a line."""


class TamperedError(AuditError):
    """What was stored is not what the heads signed.

    Attributes:
        faults: how many places were found.
    """

    def __init__(self, faults: int, first: str) -> None:
        more = f" (and {faults - 1} more)" if faults > 1 else ""
        super().__init__(f"not as signed: {first}{more}")
        self.faults = faults
