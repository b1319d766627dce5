"""What agent code raises, and what is said of code that ran in a process of its own."""

from __future__ import annotations

from cas_events.errors.root import CasEventsError


class NonRetryableError(CasEventsError):
    """Raised by agent code: this failure will not go away by trying again."""


class AgentProcessError(CasEventsError):
    """What the code of an isolated agent raised in its process, under the name of its type there.

    Attributes:
        retry_after_s: the delay that the error asks for.
        cas_node: the graph's node that it came from.
    """

    retry_after_s: float | None = None
    cas_node: str | None = None


class AgentProcessDiedError(CasEventsError):
    """The process of an isolated agent ended without a last word; trying again may help."""
