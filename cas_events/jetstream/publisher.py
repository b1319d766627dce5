"""Publishes many messages at once, each stored at least once: for telemetry beside the lifecycle.

Every message in flight has a token in its reply subject and its outcome comes by callback; nothing is awaited but room
in the window. No answer in time, nobody there, or a lost connection: the same bytes go out again, until `give_up_s`.
So a message may be stored twice, and order may change; readers go by the key inside (PROTOCOL section 3). Conditional
appends are not for this: use `api.JetStream.append`. No headers, which would cost a fifth of the speed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from cas_events.errors import NotConnectedError, WireError
from cas_events.jetstream.answers import TEMPORARILY_UNAVAILABLE, read_ack
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import Message

_TICK_S = 0.25
_RETRY_TICKS = 2
_OVERLOAD = 4  # Windows full of messages that a caller may send without waiting for room.

logger = logging.getLogger(__name__)


class PublishOutcome(msgspec.Struct, frozen=True, gc=False):
    """What became of a message.

    Attributes:
        seq: its sequence in the stream; None if it was not stored, or nobody knows.
        err_code: JetStream's error code, if the server refused it.
        reason: why it was not stored, empty if it was: the server's words, ``unknown`` when no answer came until
            `give_up_s`, or ``overload`` when far more was sent than the window holds.
    """

    seq: int | None = None
    err_code: int = 0
    reason: str = ""

    @property
    def is_stored(self) -> bool:
        """Whether the server has it."""
        return self.seq is not None


OnDone = Callable[[PublishOutcome], None]


class _InFlight:
    __slots__ = ("born_tick", "on_done", "payload", "sent_tick", "subject")

    def __init__(self, subject: str, payload: bytes, on_done: OnDone | None, tick: int) -> None:
        self.subject = subject
        self.payload = payload
        self.on_done = on_done
        self.born_tick = tick
        self.sent_tick = tick


class PipelinedPublisher:
    """A window of unacknowledged messages over one connection. `close` it.

    Attributes:
        resent: how many times a message went out again.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        window: int = 4000,
        window_bytes: int = 8 * 1024 * 1024,
        timeout_s: float = 5.0,
        give_up_s: float = 30.0,
    ) -> None:
        self.resent = 0
        self._connection = connection
        self._window = window
        self._window_bytes = window_bytes
        self._timeout_ticks = max(1, round(timeout_s / _TICK_S))
        self._give_up_ticks = max(1, round(give_up_s / _TICK_S))
        self._loop = asyncio.get_running_loop()
        self._in_flight: dict[str, _InFlight] = {}
        self._bytes = 0
        self._tokens = 0
        self._tick = 0
        self._room: asyncio.Future[None] | None = None
        self._empty: asyncio.Future[None] | None = None
        self._inbox = connection.new_inbox() + "."
        self._inbox_length = len(self._inbox)
        self._subscription = connection.listen(self._inbox + "*", self._answered)
        self._forget_reconnect = connection.on_reconnect(self._resend_all)
        self._timer = self._loop.call_later(_TICK_S, self._sweep)

    @property
    def in_flight(self) -> int:
        """Messages without an outcome yet."""
        return len(self._in_flight)

    @property
    def has_room(self) -> bool:
        """Whether the window takes another message."""
        return len(self._in_flight) < self._window and self._bytes < self._window_bytes

    def send(self, subject: str, payload: bytes, on_done: OnDone | None = None) -> None:
        """Send now, or at the reconnect; the outcome comes to ``on_done``, from the read loop: it must not block.

        Whoever sends more than a little looks at `has_room` or awaits `room`; a message far beyond the window is
        refused at once.

        Raises:
            PayloadTooLargeError, InvalidSubjectError: as `Connection.publish`; ``on_done`` is not called.
        """
        self._tokens += 1
        token = str(self._tokens)
        overload = (
            len(self._in_flight) >= self._window * _OVERLOAD or self._bytes >= self._window_bytes * _OVERLOAD
        )
        if not overload:
            try:
                self._connection.publish(subject, payload, reply=self._inbox + token)
            except NotConnectedError:
                logger.debug("%s waits for the connection", subject)
        self._in_flight[token] = _InFlight(subject, payload, on_done, self._tick)
        self._bytes += len(payload)
        if overload:
            self._settle(token, PublishOutcome(reason="overload"))

    def try_send(self, subject: str, payload: bytes, on_done: OnDone | None = None) -> bool:
        """As `send` if there is room in the window; whether there was."""
        if len(self._in_flight) >= self._window or self._bytes >= self._window_bytes:
            return False
        self.send(subject, payload, on_done)
        return True

    async def room(self) -> None:
        """Wait until the window has room; bounded, since every message leaves it by `give_up_s`."""
        while not self.has_room:
            if self._room is None:
                self._room = self._loop.create_future()
            await asyncio.shield(self._room)

    async def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is in flight; False if ``timeout_s`` was not enough."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._in_flight:
                    if self._empty is None:
                        self._empty = self._loop.create_future()
                    await asyncio.shield(self._empty)
        except TimeoutError:
            return False
        return True

    async def close(self, timeout_s: float = 2.0) -> None:
        """Drain, and stop; what is still in flight then gets the outcome ``unknown``. Idempotent."""
        if not self._timer.cancelled():
            await self.drain(timeout_s)
        self._timer.cancel()
        self._forget_reconnect()
        self._subscription.unsubscribe()
        for token in list(self._in_flight):
            self._settle(token, PublishOutcome(reason="unknown"))

    def _answered(self, message: Message) -> None:
        token = message.subject[self._inbox_length :]
        entry = self._in_flight.get(token)
        if entry is None:
            return  # The answer to the first of two sends has settled it.
        if not message.data:
            self._unanswered(entry)  # 503: nobody listens, so nobody stored it.
            return
        try:
            ack = read_ack(message.data)
        except WireError as error:
            logger.warning("%s", error)
            return
        if ack.error is None:
            self._settle(token, PublishOutcome(ack.seq))
        elif ack.error.err_code in TEMPORARILY_UNAVAILABLE:
            self._unanswered(entry)
        else:
            self._settle(token, PublishOutcome(None, ack.error.err_code, ack.error.description or "refused"))

    def _unanswered(self, entry: _InFlight) -> None:
        """Nobody has stored it: send it again soon, not at once, since an election takes seconds."""
        entry.sent_tick = self._tick - max(0, self._timeout_ticks - _RETRY_TICKS)

    def _settle(self, token: str, outcome: PublishOutcome) -> None:
        entry = self._in_flight.pop(token)
        self._bytes -= len(entry.payload)
        if self._room is not None:
            self._room.set_result(None)
            self._room = None
        if self._empty is not None and not self._in_flight:
            self._empty.set_result(None)
            self._empty = None
        if entry.on_done is not None:
            try:
                entry.on_done(outcome)
            except Exception:
                # The outcomes of others must still be told.
                logger.exception("the callback of a publish on %s raised", entry.subject)

    def _sweep(self) -> None:
        """Once a tick: what has waited too long goes out again, or is given up."""
        self._timer = self._loop.call_later(_TICK_S, self._sweep)
        self._tick += 1
        for token, entry in list(self._in_flight.items()):
            if self._tick - entry.born_tick > self._give_up_ticks:
                self._settle(token, PublishOutcome(reason="unknown"))
            elif self._tick - entry.sent_tick > self._timeout_ticks:
                self._resend(token, entry)

    def _resend_all(self) -> None:
        for token, entry in self._in_flight.items():
            self._resend(token, entry)

    def _resend(self, token: str, entry: _InFlight) -> None:
        entry.sent_tick = self._tick
        try:
            self._connection.publish(entry.subject, entry.payload, reply=self._inbox + token)
        except NotConnectedError:
            return  # At the reconnect.
        self.resent += 1
