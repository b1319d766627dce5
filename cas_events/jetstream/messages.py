"""What comes over a connection and out of a stream, as values.

`Message` is one core NATS message as it was read from the socket. `StoredMessage` is one stored message of a
stream, the same struct for every way of reading: leader reads, batched direct gets, pull readers and work consumers.
Header blocks stay raw bytes (`NATS/1.0 ...`), because most messages have none and few readers look inside; the
functions here look one value up. Names are matched exactly as NATS sends them, case included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

import msgspec

from cas_events.errors import InvalidHeaderError

_VERSION = b"NATS/1.0"
_STATUS_AT = len(_VERSION) + 1


class Message(msgspec.Struct, frozen=True, gc=False):
    """One core NATS message.

    Attributes:
        subject: the subject that it came on; of a stream's message, the stored one.
        reply: where an answer goes; of a stream's message, the subject of its ack. Empty if none.
        data: the payload.
        header: the raw header block, empty if none.
    """

    subject: str
    reply: str
    data: bytes
    header: bytes = b""

    @property
    def status(self) -> int:
        """Status code of the header line, such as 503 in ``NATS/1.0 503``; 0 if it has none."""
        return status_code(self.header) if self.header else 0

    @property
    def description(self) -> str:
        """Text behind the status code, empty if none."""
        line = self.header.partition(b"\r\n")[0]
        return line[_STATUS_AT + 3 :].decode("utf-8", "replace").strip()

    def header_value(self, name: str) -> str | None:
        """First value of a header, or None."""
        return header_value(self.header, name)


class StoredMessage(msgspec.Struct, frozen=True, gc=False):
    """One stored message of a stream.

    Attributes:
        stream: name of the stream, such as ``CAS_EVENTS``.
        seq: sequence of the message in that stream, from 1.
        subject: the stored subject.
        time_ns: the server's time of storing, in nanoseconds since the epoch.
        data: the payload.
        header: the raw header block as received, empty if none.
    """

    stream: str
    seq: int
    subject: str
    time_ns: int
    data: bytes
    header: bytes = b""

    def header_value(self, name: str) -> str | None:
        """First value of a header, or None."""
        return header_value(self.header, name)


def status_code(header: bytes) -> int:
    """Status code of a raw header block; 0 if its first line has none."""
    digits = header[_STATUS_AT : _STATUS_AT + 3]
    return int(digits) if digits.isdigit() else 0


def header_value(header: bytes, name: str) -> str | None:
    """First value of ``name`` in a raw header block, without surrounding blanks; None if it is not there."""
    key = _start_of(name)
    start = header.find(key)
    if start < 0:
        return None
    start += len(key)
    return header[start : header.find(b"\r\n", start)].decode("utf-8", "replace").strip()


@lru_cache(maxsize=64)
def _start_of(name: str) -> bytes:
    return f"\r\n{name}:".encode()


def build_header(pairs: Mapping[str, str] | Iterable[tuple[str, str]]) -> bytes:
    """Make a raw header block.

    Raises:
        InvalidHeaderError: a name or value would break out of its line.
    """
    items = pairs.items() if isinstance(pairs, Mapping) else pairs
    lines = [f"{_checked(name, value)}: {value}\r\n" for name, value in items]
    return b"NATS/1.0\r\n" + "".join(lines).encode() + b"\r\n"


def _checked(name: str, value: str) -> str:
    if not name or not name.isprintable() or " " in name or ":" in name or "\r" in value or "\n" in value:
        raise InvalidHeaderError(name)
    return name
