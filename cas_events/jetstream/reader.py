"""Reads a stream in order, from a sequence on, and goes on with what comes: for projectors, followers and replay.

An ephemeral pull consumer without acks delivers; two pulls are open at a time. Invariants: messages come in order and
without repetition, since every delivery must carry the next consumer sequence, and whatever breaks that (restart,
deletion, leader change, silence) leads to a new consumer right behind the last message taken in, never to a replay.
Memory is bounded: pulls are sent only while what is buffered and what may still come fit the limits, because the
server cuts off a connection that is 64 MiB behind. What is there is handed over at once; a batch is never waited full.
If retention took messages before they were read, `gap` says which.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import msgspec

from cas_events.errors import (
    ConnectionLostError,
    NotConnectedError,
    StreamRewoundError,
)
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import Message, StoredMessage
from cas_events.jetstream.subscriptions import Subscription

_API = "$JS.API.CONSUMER"
_NS = 1_000_000_000
_OPEN_PULLS = 2
_PULL_EXPIRES_S = 30.0
_INACTIVE_S = 60.0  # After that the server drops the consumer of a reader that died.
_RETRY_S = 0.2
_MISSES_MAX = 3  # Heartbeat intervals without anything before the consumer is taken for dead.
_HEARTBEAT = 100
_V1_TOKENS = 9

logger = logging.getLogger(__name__)


class Batch(msgspec.Struct, frozen=True):
    """What was there when it was taken.

    Attributes:
        messages: in order; empty only to say that there is nothing to read (yet).
        pending: matching messages behind the last one, as of its delivery; 0 means caught up.
    """

    messages: list[StoredMessage]
    pending: int


class _Pull:
    """One open pull request; its `receive` is the hot path."""

    __slots__ = ("left", "reader", "subscription")

    def __init__(self, reader: StreamReader, left: int) -> None:
        self.reader = reader
        self.left = left
        self.subscription: Subscription | None = None

    def receive(self, message: Message) -> None:
        """Handler of the pull's inbox."""
        reader = self.reader
        reader.heard = True
        if not message.reply:
            reader.pull_status(self, message)
            return
        tokens = message.reply.split(".")
        # stream, consumer, delivered, stream seq, consumer seq, time, pending: behind 2 tokens, or 4 in version 2.
        at = 5 if len(tokens) == _V1_TOKENS else 7
        if int(tokens[at + 1]) != reader.next_consumer_seq:
            reader.broken("a delivery is missing")
            return
        reader.next_consumer_seq += 1
        reader.last_pending = tokens[at + 3]
        data = message.data
        stored = StoredMessage(
            reader.stream, int(tokens[at]), message.subject, int(tokens[at + 2]), data, message.header
        )
        reader.take_in(stored, len(data))
        self.left -= 1
        if self.left == 0:
            reader.pull_ended(self)


class StreamReader:
    """One reader; iterate `batches` once, and `close` it, or use it as a context manager.

    Attributes:
        stream: what it reads.
        next_seq: where it would go on: one behind the last message taken in.
        gap: first and last sequence that retention took before they were read; None if nothing is known to be missing.
            With filters it may well hold none that match.
        restarts: how often a new consumer was needed.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        *,
        filters: Sequence[str] = (),
        from_seq: int = 1,
        batch: int = 20_000,
        max_outstanding_messages: int = 20_000,
        max_outstanding_bytes: int = 16 * 1024 * 1024,
        heartbeat_s: float = 2.0,
    ) -> None:
        self.stream = stream
        self.next_seq = max(1, from_seq)
        self.gap: tuple[int, int] | None = None
        self.restarts = -1
        self._connection = connection
        self._js = JetStream(connection)
        self._filters = tuple(filters)
        self._batch = batch
        self._max_messages = max_outstanding_messages
        self._max_bytes = max_outstanding_bytes
        # Two pulls may bring half of the limits; the other half may lie in the buffer.
        self._pull_messages = max(1, max_outstanding_messages // 4)
        self._pull_bytes = max(max_outstanding_bytes // 4, connection.max_payload_bytes + 64 * 1024)
        self._heartbeat_s = heartbeat_s
        self._consumer = ""
        self._pulls: set[_Pull] = set()
        self._buffer: list[StoredMessage] = []
        self._buffer_bytes = 0
        self._told_pending = -1
        self._misses = 0
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._watch: asyncio.TimerHandle | None = None
        self._removers = (
            connection.on_disconnect(lambda: self.broken("the connection is down")),
            connection.on_reconnect(self._wake.set),
        )
        # For `_Pull`, which is the same thing in two objects for speed.
        self.next_consumer_seq = 1
        self.last_pending = "0"
        self.heard = True

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield what is there, again and again; waits while there is nothing.

        An empty batch comes when a consumer was made and nothing is pending, so that a reader of an empty stream
        learns that it has caught up.

        Raises:
            NotFoundError: there is no such stream.
            StreamRewoundError: it ends before the place where reading was to go on.
            RefusedError: the server refuses the consumer.
        """
        try:
            while True:
                if self._buffer:
                    yield self._take()
                elif not self._consumer:
                    if await self._start_consumer() and self._told_pending != 0:
                        self._told_pending = 0
                        yield Batch([], 0)
                else:
                    await self._wake.wait()
                    self._wake.clear()
        finally:
            self.close()

    def close(self) -> None:
        """Stop; the server drops the consumer. Idempotent, and done by leaving `batches`."""
        self._stop_consumer()
        for remove in self._removers:
            remove()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self) -> Batch:
        if len(self._buffer) <= self._batch:
            messages, self._buffer, self._buffer_bytes = self._buffer, [], 0
        else:
            messages, self._buffer = self._buffer[: self._batch], self._buffer[self._batch :]
            self._buffer_bytes = sum(len(message.data) for message in self._buffer)
        self._told_pending = int(self.last_pending) + len(self._buffer)
        self._refill()
        return Batch(messages, self._told_pending)

    # --- the consumer

    async def _start_consumer(self) -> bool:
        """Make a consumer behind the last message; whether it has nothing to deliver. Waits while there is no server."""
        name = f"reader-{self._connection.new_inbox().rpartition('.')[2]}"
        try:
            info = await self._js.create_consumer(self.stream, self._consumer_config(name))
            state = (await self._js.stream_info(self.stream)).state
        except (NotConnectedError, ConnectionLostError) as error:
            logger.debug("no reader of %s yet: %s", self.stream, error)
            await self._woken_within(_RETRY_S)
            return False
        if self.next_seq > state.last_seq + 1:
            self._delete(name)
            raise StreamRewoundError(self.stream, last_seq=state.last_seq, next_seq=self.next_seq)
        if self.next_seq < state.first_seq:
            self.gap = (self.next_seq, state.first_seq - 1)
            self.next_seq = state.first_seq
            logger.warning("retention took %s %d to %d before they were read", self.stream, *self.gap)
        self._consumer = name
        self.next_consumer_seq = 1
        self.restarts += 1
        self.heard, self._misses = True, 0
        self._watch = self._loop.call_later(self._heartbeat_s, self._check)
        self._refill()
        return info.num_pending == 0

    async def _woken_within(self, timeout_s: float) -> None:
        """Pause before another try, but not longer than until the reconnect."""
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()

    def _consumer_config(self, name: str) -> dict[str, object]:
        config: dict[str, object] = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.next_seq,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": int(_INACTIVE_S * _NS),
            "mem_storage": True,
            "num_replicas": 1,
        }
        if len(self._filters) == 1:
            config["filter_subject"] = self._filters[0]
        elif self._filters:
            config["filter_subjects"] = list(self._filters)
        return config

    def _stop_consumer(self) -> None:
        name, self._consumer = self._consumer, ""
        for pull in list(self._pulls):
            self._drop_pull(pull)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if name:
            self._delete(name)

    def _delete(self, name: str) -> None:
        """Best effort: the server drops it by itself a little later."""
        if self._connection.is_connected:
            self._connection.request(f"{_API}.DELETE.{self.stream}.{name}")

    def broken(self, why: str) -> None:
        """This consumer delivers no more, or not everything: make another."""
        if self._consumer:
            logger.info("reader of %s starts again at %d: %s", self.stream, self.next_seq, why)
            self._stop_consumer()
            self._wake.set()

    def _check(self) -> None:
        """While a pull is open, the server says something at least once per heartbeat interval."""
        self._watch = self._loop.call_later(self._heartbeat_s, self._check)
        self._misses = 0 if self.heard or not self._pulls else self._misses + 1
        self.heard = False
        if self._misses >= _MISSES_MAX:
            self.broken("heartbeats are missing")

    # --- pulls

    def _refill(self) -> None:
        """Open pulls while what they may bring fits."""
        # Over the stock link messages of two inboxes can overtake each other.
        open_max = 1 if self._connection.received_at_s is None else _OPEN_PULLS
        while self._consumer and len(self._pulls) < open_max and self._fits_another():
            self._open_pull()

    def _fits_another(self) -> bool:
        coming = sum(pull.left for pull in self._pulls)
        messages = len(self._buffer) + coming + self._pull_messages
        size = self._buffer_bytes + (len(self._pulls) + 1) * self._pull_bytes
        # With an empty buffer one is always open, whatever the limits.
        return (messages <= self._max_messages and size <= self._max_bytes) or not (
            self._buffer or self._pulls
        )

    def _open_pull(self) -> None:
        pull = _Pull(self, self._pull_messages)
        inbox = self._connection.new_inbox()
        request = {
            "batch": self._pull_messages,
            "max_bytes": self._pull_bytes,
            "expires": int(_PULL_EXPIRES_S * _NS),
            "idle_heartbeat": int(self._heartbeat_s * _NS),
        }
        pull.subscription = self._connection.listen(inbox, pull.receive)
        self._pulls.add(pull)
        try:
            subject = f"{_API}.MSG.NEXT.{self.stream}.{self._consumer}"
            self._connection.publish(subject, msgspec.json.encode(request), reply=inbox)
        except NotConnectedError:
            self.broken("the connection is down")

    def take_in(self, message: StoredMessage, size: int) -> None:
        """One message, the next in order."""
        self._buffer.append(message)
        self._buffer_bytes += size
        self.next_seq = message.seq + 1
        self._wake.set()

    def pull_status(self, pull: _Pull, message: Message) -> None:
        """The server says something about a pull."""
        status, words = message.status, message.description
        if status == _HEARTBEAT:
            return
        if status == 503 or (status == 409 and words == "Consumer Deleted"):
            self.broken(words or "the consumer is gone")
        else:
            # Timed out (408), or its bytes are used up, or the leader changed (409): ask again.
            self.pull_ended(pull)

    def pull_ended(self, pull: _Pull) -> None:
        """It brings no more."""
        self._drop_pull(pull)
        self._refill()

    def _drop_pull(self, pull: _Pull) -> None:
        self._pulls.discard(pull)
        if pull.subscription is not None:
            pull.subscription.unsubscribe()
