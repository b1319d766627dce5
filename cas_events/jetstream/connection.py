"""One connection to NATS: publish, request and subscribe without waiting, and a bound on every silence.

nats-py connects and reconnects (`dialer`); what goes over the socket is ours (`links`, `parser`). Invariants: nothing
is buffered across a disconnect; at a disconnect every request in flight fails at once (`ConnectionLostError`: it may
have been carried out); every request has a deadline; a connection that is silently dead (black-holed, or with
nats-py's read loop ended) is found by `watchdog` and replaced; credentials never reach a log or an error.
It belongs to one event loop. JetStream is `api`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from cas_events.errors import (
    ConnectionLostError,
    InvalidSubjectError,
    NotConnectedError,
    PayloadTooLargeError,
    ServerUnreachableError,
)
from cas_events.jetstream.dialer import Dialer, discard
from cas_events.jetstream.fast_link import FastLink
from cas_events.jetstream.links import Client, Link, socket_transport, supports_fast_link
from cas_events.jetstream.messages import Message, build_header
from cas_events.jetstream.parser import Handler
from cas_events.jetstream.requests import Requests
from cas_events.jetstream.stock_link import StockLink
from cas_events.jetstream.subscriptions import SUBJECT_LENGTH_MAX, Subscription, Subscriptions
from cas_events.jetstream.urls import without_credentials
from cas_events.jetstream.watchdog import watch

__all__ = ["Connection", "Message", "Subscription", "build_header"]

_PING_INTERVAL_S = 10.0  # PROTOCOL section 12
_CLOSE_FLUSH_S = 1.5

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Connection:
    """A connection that outlives the server's restarts. Made by `open`.

    Attributes:
        url: where it connects to, without credentials.
        name: as shown in the server's monitoring.
        nc: the nats-py client underneath, for `nats.micro` only.
    """

    def __init__(
        self, url: str, *, name: str, connect_timeout_s: float, ping_interval_s: float, fast: bool
    ) -> None:
        self.url = without_credentials(url)
        self.name = name
        self.nc: Client = Client()
        self._fast = fast
        self._dialer = Dialer(
            url,
            name=name,
            connect_timeout_s=connect_timeout_s,
            ping_interval_s=ping_interval_s,
            on_disconnected=self._nats_disconnected,
            on_reconnected=self._nats_reconnected,
            on_report=self._server_reports,
        )
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._subscriptions = Subscriptions()
        self._requests = Requests(self.new_inbox() + ".")
        self._up = False
        self._closing = False
        self._connected_since_s: float | None = None
        self._max_payload_bytes = 0
        self._on_disconnect: list[Callable[[], None]] = []
        self._on_reconnect: list[Callable[[], None]] = []
        self._watchdog: asyncio.Task[None] | None = None

    # --- opening and closing

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        name: str,
        connect_timeout_s: float = 5.0,
        ping_interval_s: float = _PING_INTERVAL_S,
        fast: bool = True,
    ) -> Connection:
        """Connect.

        Args:
            url: one URL, or several with commas between.
            name: shown in the server's monitoring.
            connect_timeout_s: bound of this connect and of each later attempt.
            ping_interval_s: silence after which the server is asked for a sign of life; it has half of that again
                to answer before the connection is replaced.
            fast: False for nats-py's own parser and writer, also taken when nats-py is not the one we know.

        Raises:
            ServerUnreachableError: no server answered now; later, a lost connection is sought for ever.
        """
        self = cls(
            url, name=name, connect_timeout_s=connect_timeout_s, ping_interval_s=ping_interval_s, fast=fast
        )
        self._subscriptions.add(self._requests.inbox + "*", self._requests.answered, "")
        if not await self.connect_anew():
            raise ServerUnreachableError(self.url, self._dialer.last_error)
        self._watchdog = self._loop.create_task(watch(self, ping_interval_s), name=f"nats watchdog {name}")
        try:
            await self.flush(connect_timeout_s)
        except (NotConnectedError, ConnectionLostError) as error:
            await self.close()
            raise ServerUnreachableError(self.url, str(error)) from error
        return self

    async def connect_anew(self) -> bool:
        """Connect with a new nats-py client; whether a server took it. For `open` and the watchdog."""
        client = await self._dialer.connect()
        if client is None:
            return False
        self.nc = client
        if self._fast and supports_fast_link(client):
            self._link = FastLink(client, self._subscriptions.handlers, self.lost)
        else:
            self._link = StockLink(client, self._subscriptions.handlers)
        self._mark_up()
        return True

    async def close(self) -> None:
        """End the connection; what was published is handed to the server first. Idempotent, bounded."""
        if self._closing:
            return
        self._closing = True
        if self._up:
            try:
                await self.flush(_CLOSE_FLUSH_S)
            except (NotConnectedError, ConnectionLostError):
                logger.debug("connection %s closes without a flush", self.name)
        if self._watchdog is not None:
            self._watchdog.cancel()
            await asyncio.gather(self._watchdog, return_exceptions=True)
        self.lost("closed")
        if isinstance(self._link, StockLink):
            await self._link.close()
        await discard(self.nc)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- state

    @property
    def is_connected(self) -> bool:
        """Whether something can be sent at this moment."""
        return self._up

    @property
    def connected_since_s(self) -> float | None:
        """`time.monotonic` of the last (re)connect; None while down."""
        return self._connected_since_s

    @property
    def max_payload_bytes(self) -> int:
        """The server's limit for headers and payload together."""
        return self._max_payload_bytes

    @property
    def server_version(self) -> str:
        """Such as ``2.15.1``; empty if the server did not say."""
        return str(self.nc._server_info.get("version", ""))  # noqa: SLF001

    @property
    def write_buffer_bytes(self) -> int:
        """What was published and not yet taken by the operating system."""
        return self._link.buffered_bytes if self._link is not None else 0

    @property
    def received_at_s(self) -> float | None:
        """The loop's time when bytes came last; None over the stock link, which does not know."""
        return self._link.received_at_s if isinstance(self._link, FastLink) else None

    def on_disconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back at each disconnect, the one by `close` included; returns a function that removes the callback."""
        return _registered(self._on_disconnect, callback)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back at each reconnect, when subscriptions are in place again; returns the remover."""
        return _registered(self._on_reconnect, callback)

    # --- publish and request

    def publish(self, subject: str, payload: bytes = b"", *, reply: str = "", header: bytes = b"") -> None:
        """Send one message. Never waits; whoever sends much watches `write_buffer_bytes`.

        Raises:
            NotConnectedError: the connection is down; nothing was sent.
            PayloadTooLargeError: over the server's limit.
            InvalidSubjectError: the subject would break the protocol.
        """
        if not self._up:
            raise NotConnectedError(f"not connected to {self.url}")
        if len(payload) + len(header) > self._max_payload_bytes:
            size = len(payload) + len(header)
            raise PayloadTooLargeError("the message", payload_bytes=size, limit_bytes=self._max_payload_bytes)
        # As `check_subject`, without the call: this is the hot path.
        if not subject or " " in subject or not subject.isprintable() or len(subject) > SUBJECT_LENGTH_MAX:
            raise InvalidSubjectError(subject)
        self._link.send(subject, reply, header, payload)  # type: ignore[union-attr]  # There is one while up.

    def request(
        self, subject: str, payload: bytes = b"", *, header: bytes = b"", timeout_s: float = 5.0
    ) -> asyncio.Future[Message]:
        """Send a request at once and return the future of its answer, so that requests can be pipelined.

        The future fails with `NoRespondersError` when nobody listens, and with `ConnectionLostError` when the
        connection went down or the deadline passed: the request may have been carried out.

        Raises:
            NotConnectedError, PayloadTooLargeError, InvalidSubjectError: as `publish`; nothing was sent.
        """
        requests = self._requests
        token = requests.next_token()
        self.publish(subject, payload, reply=requests.inbox + token, header=header)
        future: asyncio.Future[Message] = self._loop.create_future()
        requests.add(token, future, subject, timeout_s)
        return future

    async def bounded(self, future: asyncio.Future[T], what: str, timeout_s: float) -> T:
        """Await what an answer will set, with a request's deadline and end at a disconnect.

        Raises:
            ConnectionLostError: the connection went down, or ``timeout_s`` passed, before the future was set.
        """
        token = self._requests.next_token()
        self._requests.add(token, future, what, timeout_s)
        try:
            return await future
        finally:
            self._requests.discard(token)

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Wait until the server has read everything that was sent so far.

        Raises:
            NotConnectedError: the connection is down.
            ConnectionLostError: it went down, or no answer came in time.
        """
        if not self._up or self._link is None:
            raise NotConnectedError(f"not connected to {self.url}")
        await self.bounded(self._link.ping(), "PING", timeout_s)

    # --- subscriptions

    def new_inbox(self) -> str:
        """A subject that nobody else has."""
        return f"_INBOX.{uuid.uuid4().hex}"

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        """As `listen`; it waits for nothing: the server sees it before whatever is sent afterwards."""
        return self.listen(subject, handler, queue=queue)

    def listen(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        """Call ``handler`` for each message of ``subject``, from the read loop: it must not block.

        What it raises is logged. While the connection is down, the subscription takes effect at the reconnect.

        Raises:
            InvalidSubjectError: the subject or queue would break the protocol.
        """
        return self._subscriptions.add(subject, handler, queue)

    # --- up and down

    def _mark_up(self) -> None:
        assert self._link is not None
        again = self._subscriptions.link is not None
        self._subscriptions.link = self._link
        self._link.up()
        self._max_payload_bytes = self.nc.max_payload
        self._up = True
        self._connected_since_s = time.monotonic()
        self._subscriptions.replay()
        if again:
            logger.info("connection %s to %s is up again", self.name, self.url)
            _call_all(self._on_reconnect)

    def lost(self, reason: str) -> None:
        """The connection is down. Whoever notices first says so; the others find nothing to do."""
        if not self._up:
            return
        self._up = False
        self._connected_since_s = None
        if self._link is not None:
            self._link.down()
        if not self._closing:
            logger.warning("connection %s to %s is down: %s", self.name, self.url, reason)
        self._requests.fail_all()
        _call_all(self._on_disconnect)

    async def force_reconnect(self, reason: str) -> None:
        """Give the connection up and let nats-py look for another."""
        transport = socket_transport(self.nc)
        self.lost(reason)
        if transport is not None:
            transport.abort()
        await self.nc.force_reconnect()

    async def _nats_disconnected(self) -> None:
        self.lost("nats-py is disconnected")

    async def _nats_reconnected(self) -> None:
        if not self._closing and not self._up:
            self._mark_up()

    async def _server_reports(self, text: str) -> None:
        logger.warning("the server reports: %s", text)
        if "permissions violation" not in text:
            await self.force_reconnect(f"the server reports: {text}")


def _registered(callbacks: list[Callable[[], None]], callback: Callable[[], None]) -> Callable[[], None]:
    callbacks.append(callback)

    def remove() -> None:
        if callback in callbacks:
            callbacks.remove(callback)

    return remove


def _call_all(callbacks: list[Callable[[], None]]) -> None:
    for callback in list(callbacks):
        try:
            callback()
        except Exception:
            # One listener's fault must not keep the news from the others.
            logger.exception("a connection callback raised")
