"""The fast link: our parser and our coalesced writes on the socket of a connected nats-py client.

What the socket reads goes to our parser and from there, synchronously, to the handlers; what is sent in one iteration
of the event loop goes to the transport in one write. Only the end of the stream and the write-flow signals still
reach nats-py's reader, so that it notices a lost connection and reconnects. After a reconnect nats-py's read loop
feeds our parser until `up` takes the new socket over. Private attributes of nats-py in use: `links.FAST_ATTRIBUTES`.
"""

from __future__ import annotations

# ruff: noqa: SLF001 - private attributes are this module's subject; links.FAST_ATTRIBUTES lists them.
import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from cas_events.errors import WireError
from cas_events.jetstream.links import Client, socket_transport
from cas_events.jetstream.parser import Handler, Parser

# What one loop iteration may collect before it is written. The server works on it while the iteration goes on: with
# 256 KiB the two took turns, which cost a fifth of the tasks that one worker runs (6,600/s against 7,900/s, both with
# every process at real-time priority).
_COALESCE_BYTES = 16 * 1024

logger = logging.getLogger(__name__)


class _ParserAdapter:
    """Stands in for nats-py's parser."""

    def __init__(self, link: FastLink) -> None:
        self._link = link

    def reset(self) -> None:
        """nats-py resets its parser in the same step in which it gives a connection up."""
        self._link.lost("nats-py gave the connection up")

    async def parse(self, data: bytes = b"") -> None:
        """Called by nats-py's read loop, with an empty chunk at the end."""
        if data:
            self._link.feed(data)


class _Tap(asyncio.Protocol):
    """Sits between one socket and nats-py's stream reader, which gets everything but the bytes."""

    def __init__(self, link: FastLink, below: Any) -> None:
        self._link = link
        self._below = below

    def data_received(self, data: bytes) -> None:
        """The hot path: bytes to our parser."""
        self._link.feed(data)

    def eof_received(self) -> bool | None:
        """The server will send no more: let the transport close, nobody needs the other half."""
        self._below.eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake nats-py's reader, and tell the link at once."""
        self._below.connection_lost(exc)
        self._link.tap_lost(self, exc)

    def pause_writing(self) -> None:
        """nats-py's drain() waits from here on."""
        self._below.pause_writing()

    def resume_writing(self) -> None:
        """nats-py's drain() goes on."""
        self._below.resume_writing()


class FastLink:
    """See the module.

    Attributes:
        received_at_s: the loop's time when bytes came last.
    """

    def __init__(
        self, client: Client, handlers: dict[bytes, Handler], on_lost: Callable[[str], None]
    ) -> None:
        self._client: Any = client
        self._handlers = handlers
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._parser = Parser(handlers, self)
        self._wire: asyncio.Transport | None = None
        self._tap: _Tap | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._flush_due = False
        self.received_at_s = self._loop.time()
        client_internals: Any = client
        client_internals._ps = _ParserAdapter(self)

    # --- the connection's life

    def up(self) -> None:
        """Take the socket of the connected client over."""
        wire = socket_transport(self._client)
        assert wire is not None, "up() comes after nats-py is connected"
        self._tap = _Tap(self, wire.get_protocol())
        self._wire = wire
        wire.set_protocol(self._tap)
        # What nats-py's stream reader holds and nobody has parsed; from here on it gets nothing more.
        reader = self._client._transport._io_reader
        rest = bytes(reader._buffer)
        reader._buffer.clear()
        reader._maybe_resume_transport()
        self.feed(rest)

    def down(self) -> None:
        """Forget what is not written, and what is half read."""
        wire, self._wire, self._tap = self._wire, None, None
        self._out.clear()
        self._out_bytes = 0
        self._parser = Parser(self._handlers, self)
        if wire is not None:
            # A close() would wait for a peer that may never read what is buffered.
            wire.abort()

    def lost(self, reason: str) -> None:
        """Nothing more comes over this connection."""
        self.down()
        self._on_lost(reason)

    def tap_lost(self, tap: _Tap, exc: Exception | None) -> None:
        """A socket ended; of interest only if it is the one in use."""
        if tap is self._tap:
            self.lost(f"the connection ended ({exc})" if exc else "the connection ended")

    def feed(self, data: bytes) -> None:
        """Parse; a broken stream ends the connection."""
        self.received_at_s = self._loop.time()
        try:
            self._parser.feed(data)
        except WireError as error:
            self.lost(str(error))

    # --- sending

    @property
    def buffered_bytes(self) -> int:
        """Bytes that the operating system has not taken yet."""
        wire = self._wire
        return self._out_bytes + (wire.get_write_buffer_size() if wire is not None else 0)

    def send(self, subject: str, reply: str, header: bytes, payload: bytes) -> None:
        """Queue one message for the write of this loop iteration."""
        if header:
            sizes = f"{len(header)} {len(header) + len(payload)}"
            line = f"HPUB {subject} {reply} {sizes}\r\n".encode()
            self._out += (line, header, payload, b"\r\n")
        else:
            line = f"PUB {subject} {reply} {len(payload)}\r\n".encode()
            self._out += (line, payload, b"\r\n")
        self._queued(len(line) + len(header) + len(payload))

    def subscribe(self, sid: bytes, subject: str, queue: str) -> None:
        """Queue a SUB, in order with the messages."""
        self._line(b"SUB %b %b %b\r\n" % (subject.encode(), queue.encode(), sid))

    def unsubscribe(self, sid: bytes) -> None:
        """Queue an UNSUB."""
        self._line(b"UNSUB %b\r\n" % sid)

    def ping(self) -> asyncio.Future[Any]:
        """Write everything and a PING; the future is done at its PONG."""
        answered: asyncio.Future[Any] = self._loop.create_future()
        # PONGs come in the order of the PINGs on the wire, nats-py's own among them: nothing of ours may wait.
        self._client._pongs.append(answered)
        self._line(b"PING\r\n")
        self._flush()
        return answered

    def _line(self, line: bytes) -> None:
        if self._wire is not None:  # A subscription made while down is told to the server at the reconnect.
            self._out.append(line)
            self._queued(len(line))

    def _queued(self, size: int) -> None:
        self._out_bytes += size
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush_soon)
        elif self._out_bytes > _COALESCE_BYTES:
            self._flush()

    def _flush_soon(self) -> None:
        self._flush_due = False
        self._flush()

    def _flush(self) -> None:
        if self._out and self._wire is not None:
            self._wire.write(b"".join(self._out))
        self._out.clear()
        self._out_bytes = 0

    # --- Sink: what the parser found besides our messages

    def on_ping(self) -> None:
        """Answer at once: a late PONG costs the connection."""
        wire = self._wire or socket_transport(self._client)
        if wire is not None:
            wire.write(b"PONG\r\n")

    def on_pong(self) -> None:
        """Wake the oldest PING, ours or nats-py's."""
        waiting: list[asyncio.Future[Any]] = self._client._pongs
        self._client._pings_outstanding = 0
        if waiting:
            answered = waiting.pop(0)
            if not answered.done():
                answered.set_result(True)

    def on_info(self, line: bytes) -> None:
        """Let nats-py learn the cluster's addresses."""
        run_now(self._client._process_info(json.loads(line)))

    def on_error(self, text: str) -> None:
        """Reconnect, except after a refused subject: nats-py would close for good."""
        logger.warning("the server reports: %s", text)
        if "permissions violation" not in text:
            self.lost(f"the server reports: {text}")

    def on_foreign(self, sid: bytes, subject: bytes, reply: bytes, data: bytes, header: bytes) -> None:
        """A message for one of nats-py's own subscriptions, such as those of `nats.micro`, or for a dropped one."""
        if sid.isdigit():  # nats-py's sids are numbers, ours start with a letter.
            run_now(self._client._process_msg(int(sid), subject, reply, data, header))


def run_now(coroutine: Any) -> None:
    """Run one of nats-py's coroutines that never wait for anything in the way that we use them."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    logger.error("nats-py waits where it did not in the pinned version: %r", coroutine)
