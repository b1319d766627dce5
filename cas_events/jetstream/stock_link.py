"""The link over nats-py's public API: a task writes what was queued, nats-py's own tasks call the handlers.

The fallback of `fast_link`, several times slower. What is queued at a disconnect is forgotten, except the little that
nats-py has taken and not written: whoever sent it was told that it may have arrived.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import nats.aio.msg
import nats.errors

from cas_events.jetstream.links import Client
from cas_events.jetstream.messages import Message
from cas_events.jetstream.parser import Handler

# Whoever waits for a PING has a shorter deadline of its own.
_PING_TIMEOUT_S = 30

logger = logging.getLogger(__name__)


class StockLink:
    """The same over nats-py's public API: a task writes what was queued, nats-py's tasks call the handlers."""

    def __init__(self, client: Client, handlers: dict[bytes, Handler]) -> None:
        self._client = client
        self._handlers = handlers
        self._queue: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._subscriptions: dict[bytes, Any] = {}
        self._asked: set[bytes] = set()
        self._writer: asyncio.Task[None] | None = None
        self._pings: set[asyncio.Future[float]] = set()

    @property
    def buffered_bytes(self) -> int:
        """Bytes that nats-py has not written yet."""
        return self._queued_bytes + self._client.pending_data_size

    def up(self) -> None:
        """Start writing."""
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_all(), name="nats stock writer")

    def down(self) -> None:
        """Forget what is not written."""
        self._queue.clear()
        self._asked = set(self._subscriptions)
        self._queued_bytes = 0

    async def close(self) -> None:
        """End the writer."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    def send(self, subject: str, reply: str, header: bytes, payload: bytes) -> None:
        """Queue one message."""
        self._queued_bytes += len(header) + len(payload)
        self._put("send", (subject, reply, header, payload))

    def subscribe(self, sid: bytes, subject: str, queue: str) -> None:
        """Queue a subscription, in order with the messages."""
        if sid not in self._asked:  # Else nats-py subscribes again by itself.
            self._asked.add(sid)
            self._put("subscribe", (sid, subject, queue))

    def unsubscribe(self, sid: bytes) -> None:
        """Queue the end of a subscription."""
        self._asked.discard(sid)
        self._put("unsubscribe", (sid,))

    def ping(self) -> asyncio.Future[Any]:
        """Queue a round trip behind everything else."""
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._put("ping", (answered,))
        return answered

    def _put(self, kind: str, args: tuple[Any, ...]) -> None:
        self._queue.append((kind, args))
        self._wake.set()

    async def _write_all(self) -> None:
        steps: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
            "send": self._send,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "ping": self._ping,
        }
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                kind, args = self._queue.popleft()
                try:
                    await steps[kind](*args)
                except (nats.errors.Error, OSError) as error:
                    logger.warning("nats-py refused to %s: %s", kind, error)

    async def _send(self, subject: str, reply: str, header: bytes, payload: bytes) -> None:
        self._queued_bytes -= len(header) + len(payload)
        await self._client.publish(subject, payload, reply=reply, headers=header_pairs(header))

    async def _subscribe(self, sid: bytes, subject: str, queue: str) -> None:
        async def deliver(received: nats.aio.msg.Msg) -> None:
            handler = self._handlers.get(sid)
            if handler is None:
                return
            try:
                handler(
                    Message(received.subject, received.reply, received.data, header_block(received.headers))
                )
            except Exception:
                # As in the parser: a faulty handler costs its own message only.
                logger.exception("a message handler raised on subject %r", received.subject)

        self._subscriptions[sid] = await self._client.subscribe(subject, queue=queue, cb=deliver)

    async def _ping(self, answered: asyncio.Future[Any]) -> None:
        # nats-py writes its PING at once, ahead of what it has pending.
        await self._client._flush_pending(force_flush=True)  # noqa: SLF001
        rtt = asyncio.ensure_future(self._client.rtt(_PING_TIMEOUT_S))
        self._pings.add(rtt)
        rtt.add_done_callback(lambda done: self._ponged(done, answered))

    def _ponged(self, done: asyncio.Future[float], answered: asyncio.Future[Any]) -> None:
        self._pings.discard(done)
        if not done.cancelled() and done.exception() is None and not answered.done():
            answered.set_result(True)

    async def _unsubscribe(self, sid: bytes) -> None:
        subscription = self._subscriptions.pop(sid, None)
        if subscription is not None:
            await subscription.unsubscribe()


def header_pairs(header: bytes) -> dict[str, str] | None:
    """The names and values of a raw header block, as nats-py wants them."""
    lines = header.decode().split("\r\n")[1:]
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines) if name} or None


def header_block(headers: dict[str, str] | None) -> bytes:
    """A raw header block out of what nats-py made of one; repeated names are lost there."""
    if not headers:
        return b""
    values = dict(headers)
    status, description = values.pop("Status", ""), values.pop("Description", "")
    first = f"NATS/1.0 {status} {description}".rstrip() + "\r\n"
    return (first + "".join(f"{name}: {value}\r\n" for name, value in values.items()) + "\r\n").encode()
