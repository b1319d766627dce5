"""What long-term memory meets."""

from __future__ import annotations

from cas_events.errors.root import CasEventsError
from cas_events.errors.wire import WireError

_SHOWN = 80


class MemoryValueError(CasEventsError, TypeError):
    """A value that cannot be kept: not a mapping of strings to plain data, or too large.

    Attributes:
        namespace: where it was to be kept.
        key: under which key.
    """

    def __init__(self, namespace: tuple[str, ...], key: str, problem: str) -> None:
        super().__init__(
            f"the value for {_place(namespace, key)} cannot be kept: {problem}; plain data can (strings, numbers, "
            f"booleans, None, bytes, datetimes, lists, and mappings of them)"
        )
        self.namespace = namespace
        self.key = key


class MemoryNameError(CasEventsError, ValueError):
    """A namespace and a key that cannot be stored: too long together, or no Unicode text.

    Attributes:
        namespace: the namespace.
        key: the key.
    """

    def __init__(self, namespace: tuple[str, ...], key: str, problem: str) -> None:
        super().__init__(f"{_place(namespace, key)} cannot be the name of an item: {problem}")
        self.namespace = namespace
        self.key = key


class MemoryUnreadableError(WireError):
    """A stored item whose bytes are none of ours, or that lies where it does not belong.

    Attributes:
        subject: the message that cannot be read.
    """

    def __init__(self, subject: str, problem: str) -> None:
        super().__init__(f"the item on {subject} cannot be read: {problem}; delete it or put it anew")
        self.subject = subject


def _place(namespace: tuple[str, ...], key: str) -> str:
    text = f"key {key!r} in {namespace!r}"
    return text if len(text) <= _SHOWN * 2 else text[: _SHOWN * 2] + "…"
