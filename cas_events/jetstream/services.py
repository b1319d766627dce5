"""NATS micro services (ADR-32): endpoints that `nats micro ls`, `info`, `stats` and `ping` find.

nats-py has an implementation, but it is tied to one client object, and our connection replaces that when it is
dead; so the few subjects are answered here, over `Connection`, and survive reconnects. A request is handled in a task
of its own; beyond `REQUESTS_MAX` at once, a request is answered with an error right away.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import msgspec

from cas_events.errors import NotConnectedError, PayloadTooLargeError
from cas_events.jetstream.connection import Connection, Message, Subscription, build_header

REQUESTS_MAX = 256
_QUEUE = "q"

logger = logging.getLogger(__name__)


class Reply(NamedTuple):
    """An answer with headers of its own."""

    payload: bytes
    header: bytes


Handler = Callable[[Message], Awaitable[bytes | Reply]]


class MicroService:
    """One service with one endpoint.

    Args:
        connection: where it answers.
        name: of the service and of its endpoint, such as ``cas-sql``.
        version: semantic version.
        description: one line.
        subject: where it takes requests.
        handler: answers one request with its payload, or with a `Reply`. What it raises is logged and answered with an error.
        metadata: shown to whoever asks for its info.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        name: str,
        version: str,
        description: str,
        subject: str,
        handler: Handler,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._connection = connection
        self._name = name
        self._version = version
        self._description = description
        self._subject = subject
        self._handler = handler
        self._metadata = dict(metadata or {})
        self._id = uuid.uuid4().hex
        self._started = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self._subscriptions: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests = self._errors = self._busy_ns = 0
        self._last_error = ""

    def describe_as(self, description: str, metadata: Mapping[str, str]) -> None:
        """Say this to whoever asks from now on."""
        self._description = description
        self._metadata = dict(metadata)

    async def start(self) -> None:
        """Begin to answer; on return the server knows.

        Raises:
            NotConnectedError, ConnectionLostError: the connection went down meanwhile.
        """
        for verb, answer in (("PING", self._ping), ("INFO", self._info), ("STATS", self._stats)):
            handler = partial(self._describe, answer)
            for scope in ("", f".{self._name}", f".{self._name}.{self._id}"):
                self._subscriptions.append(await self._connection.subscribe(f"$SRV.{verb}{scope}", handler))
        self._subscriptions.append(await self._connection.subscribe(self._subject, self._take, queue=_QUEUE))
        await self._connection.flush()

    async def stop(self) -> None:
        """Take no more requests, and give up those that are not answered yet."""
        for subscription in self._subscriptions:
            subscription.unsubscribe()
        self._subscriptions.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take(self, message: Message) -> None:
        if len(self._tasks) >= REQUESTS_MAX:
            self._refuse(message, 503, "too many requests at once")
            return
        task = asyncio.get_running_loop().create_task(self._handle(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, message: Message) -> None:
        began_ns = time.monotonic_ns()
        self._requests += 1
        try:
            payload = await self._handler(message)
        except Exception as error:
            # The requester must not wait for nothing, and the next request is none the worse.
            logger.exception("%s failed on a request", self._name)
            self._refuse(message, 500, type(error).__name__)
            return
        finally:
            self._busy_ns += time.monotonic_ns() - began_ns
        self._publish(message.reply, *(payload if isinstance(payload, Reply) else (payload,)))

    def _refuse(self, message: Message, code: int, description: str) -> None:
        self._errors += 1
        self._last_error = f"{code}:{description}"
        header = build_header({"Nats-Service-Error": description, "Nats-Service-Error-Code": str(code)})
        self._publish(message.reply, b"", header)

    def _describe(self, answer: Callable[[], dict[str, Any]], message: Message) -> None:
        identity = {"name": self._name, "id": self._id, "version": self._version, "metadata": self._metadata}
        self._publish(message.reply, msgspec.json.encode({**identity, **answer()}))

    def _publish(self, subject: str, payload: bytes, header: bytes = b"") -> None:
        if not subject:
            return
        try:
            self._connection.publish(subject, payload, header=header)
        except (NotConnectedError, PayloadTooLargeError) as error:
            logger.warning("%s could not answer: %s", self._name, error)

    def _endpoint(self) -> dict[str, Any]:
        return {"name": self._name, "subject": self._subject, "queue_group": _QUEUE}

    def _ping(self) -> dict[str, Any]:
        return {"type": "io.nats.micro.v1.ping_response"}

    def _info(self) -> dict[str, Any]:
        return {
            "type": "io.nats.micro.v1.info_response",
            "description": self._description,
            "endpoints": [self._endpoint() | {"metadata": {}}],
        }

    def _stats(self) -> dict[str, Any]:
        stats = {
            "num_requests": self._requests,
            "num_errors": self._errors,
            "last_error": self._last_error,
            "processing_time": self._busy_ns,
            "average_processing_time": self._busy_ns // max(1, self._requests),
        }
        return {
            "type": "io.nats.micro.v1.stats_response",
            "started": self._started,
            "endpoints": [self._endpoint() | stats],
        }
