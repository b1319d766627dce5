"""Our reading of the NATS client protocol: one pass over a chunk, messages handed out synchronously by sid.

nats-py's own parser matches every message against a chain of regular expressions and puts it through a queue and a
task; this one costs less than half (benchmarks name the ratio). Invariants: the stream of bytes may be cut anywhere;
a handler that raises costs its own message and nothing else; nothing is dispatched twice. What is no message goes to
the `Sink`. Protocol: https://docs.nats.io/reference/reference-protocols/nats-protocol.
It does not know sockets, reconnects or subjects.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from cas_events.errors import WireError
from cas_events.jetstream.messages import Message

Handler = Callable[[Message], None]

# An INFO line with the addresses of a large cluster is a few kilobytes; without a bound a peer that never ends its
# line would fill the memory.
_LINE_BYTES_MAX = 1 << 20

_M, _H, _CRLF = ord("M"), ord("H"), b"\r\n"

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes what is not a message of one of our own subscriptions."""

    def on_ping(self) -> None:
        """The server asks for a PONG."""

    def on_pong(self) -> None:
        """The answer to the oldest PING."""

    def on_info(self, line: bytes) -> None:
        """The JSON of an INFO line."""

    def on_error(self, text: str) -> None:
        """The text of an -ERR line, lower case, without quotes."""

    def on_foreign(self, sid: bytes, subject: bytes, reply: bytes, data: bytes, header: bytes) -> None:
        """A message of a subscription that is not ours."""


class Parser:
    """Parses one connection's bytes; a new connection gets a new parser.

    Attributes:
        handlers: who takes the messages of a sid; shared with the owner, who adds and removes.
    """

    def __init__(self, handlers: dict[bytes, Handler], sink: Sink) -> None:
        self.handlers = handlers
        self._sink = sink
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._needed_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes and hand out every message that they complete.

        Raises:
            WireError: the bytes are not the NATS protocol; the connection is of no use any more.
        """
        if self._held:
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes < self._needed_bytes:
                return
            data = b"".join(self._held)
            self._held.clear()
        self._needed_bytes = 0
        try:
            consumed = self._consume(data)
        except (ValueError, IndexError) as error:
            raise WireError("the server sent a malformed protocol line") from error
        if consumed < len(data):
            self._hold(data[consumed:])

    def _hold(self, rest: bytes) -> None:
        self._held.append(rest)
        self._held_bytes = len(rest)
        if not self._needed_bytes and self._held_bytes > _LINE_BYTES_MAX:
            raise WireError(f"the server sent a protocol line of more than {_LINE_BYTES_MAX} bytes")

    def _consume(self, data: bytes) -> int:
        """Dispatch all complete operations; the number of bytes that they took."""
        at, size, find, lookup = 0, len(data), data.find, self.handlers.get
        while at < size:
            line_end = find(_CRLF, at)
            if line_end < 0:
                break
            kind, header, start = data[at], b"", line_end + 2
            if kind == _M:
                # MSG <subject> <sid> [reply] <bytes>
                args = data[at + 4 : line_end].split()
                end = start + int(args[-1])
                has_reply = len(args) == 4
            elif kind == _H:
                # HMSG <subject> <sid> [reply] <header bytes> <total bytes>
                args = data[at + 5 : line_end].split()
                end = start + int(args[-1])
                has_reply = len(args) == 5
            else:
                self._control(data[at:line_end])
                at = start
                continue
            if end + 2 > size:
                self._needed_bytes = end + 2 - at
                break
            if kind == _H:
                header_end = start + int(args[-2])
                header, start = data[start:header_end], header_end
            at = end + 2
            handler = lookup(args[1])
            reply = args[2] if has_reply else b""
            if handler is None:
                self._sink.on_foreign(args[1], args[0], reply, data[start:end], header)
                continue
            try:
                handler(Message(args[0].decode(), reply.decode(), data[start:end], header))
            except Exception:
                # The read loop serves everybody: one faulty handler may not end it.
                logger.exception("a message handler raised on subject %r", args[0])
        return at

    def _control(self, line: bytes) -> None:
        sink = self._sink
        if line.startswith(b"PING"):
            sink.on_ping()
        elif line.startswith(b"PONG"):
            sink.on_pong()
        elif line.startswith(b"INFO"):
            sink.on_info(line[4:])
        elif line.startswith(b"-ERR"):
            sink.on_error(line[4:].decode("utf-8", "replace").strip().strip("'").lower())
        elif not line.startswith(b"+OK"):
            raise WireError(f"the server sent an unknown operation: {line[:40]!r}")
