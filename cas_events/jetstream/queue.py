"""Intake of a work consumer: pull requests that always end, and what they bring, handed over at once.

A pull ends by fulfilment, by a status of the server (its header says how many stay unfulfilled), by missed
heartbeats, by its own deadline, or by a disconnect; each end is reported, so that the owner knows at any time how many
messages may still come (`outstanding`) and asks anew. Every pull has an inbox of its own: messages of a pull that
was given up cannot be counted for another one. They are still handed over, because the server has started their lease.

Acks are plain publishes of the owner (`ack`). It does not create consumers: a deleted one is reported.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Literal

import msgspec

from cas_events.errors import ConnectionLostError, NotConnectedError
from cas_events.jetstream.ack import ACK, TERM, WPI, Delivery, delivery, nak, term
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import Message
from cas_events.jetstream.subscriptions import Subscription

__all__ = ["ACK", "TERM", "WPI", "Delivery", "PullEnd", "WorkQueue", "delivery", "nak", "term"]

PullReason = Literal["fulfilled", "expired", "silent", "disconnected", "no_consumer", "refused", "stopped"]

# The server ends a pull itself; a little later we do, in case its word got lost.
_SLACK_S = 1.0
_LINGER_S = 5.0
# Shorter pulls end soon enough without heartbeats.
_HEARTBEATS_FROM_S = 4.0
_HEARTBEAT = 100
_NS = 1_000_000_000

logger = logging.getLogger(__name__)


class PullEnd(msgspec.Struct, frozen=True):
    """How a pull ended.

    Attributes:
        asked: how many messages it asked for.
        unfulfilled: how many of them did not come.
        reason: ``no_consumer``: the consumer is gone, or has no leader now; create it again before asking.
            ``refused``: the server did not take the pull. ``silent``: neither message nor status in time.
        detail: the server's words, if any.
    """

    asked: int
    unfulfilled: int
    reason: PullReason
    detail: str = ""


class _Pull:
    """One pull request that is open."""

    __slots__ = ("asked", "deadline_s", "heard_at_s", "heartbeat_s", "left", "subscription", "timer")

    def __init__(self, asked: int, now_s: float, expires_s: float) -> None:
        self.asked = asked
        self.left = asked
        self.heartbeat_s = expires_s / 4 if expires_s >= _HEARTBEATS_FROM_S else 0.0
        self.heard_at_s = now_s
        self.deadline_s = now_s + expires_s + _SLACK_S
        self.subscription: Subscription | None = None
        self.timer: asyncio.TimerHandle | None = None

    def silent_at_s(self) -> float:
        """When to give up, if nothing comes until then: after two missing heartbeats, or at the deadline."""
        if not self.heartbeat_s:
            return self.deadline_s
        return min(self.deadline_s, self.heard_at_s + 2 * self.heartbeat_s + _SLACK_S)

    def request(self, expires_s: float) -> bytes:
        """The body of the pull request."""
        body = {"batch": self.asked, "expires": int(expires_s * _NS)}
        if self.heartbeat_s:
            body["idle_heartbeat"] = int(self.heartbeat_s * _NS)
        return msgspec.json.encode(body)


class WorkQueue:
    """Pulls from one durable consumer; belongs to the loop of its connection.

    Attributes:
        outstanding: how many messages the open pulls may still bring.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        on_delivery: Callable[[Delivery], None],
        *,
        on_pull_end: Callable[[PullEnd], None] | None = None,
    ) -> None:
        self.stream = stream
        self.consumer = consumer
        self._connection = connection
        self._on_delivery = on_delivery
        self._on_pull_end = on_pull_end
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._pulls: set[_Pull] = set()
        self.outstanding = 0
        self._stopped = False
        self._loop = asyncio.get_running_loop()
        self._forget_disconnect = connection.on_disconnect(self._disconnected)

    def ask(self, n: int, *, expires_s: float) -> None:
        """Send one more pull request for ``n`` messages, answered within ``expires_s``.

        Raises:
            NotConnectedError: the connection is down; nothing was asked.
        """
        assert not self._stopped, "ask() after stop()"
        pull = _Pull(n, self._loop.time(), expires_s)
        inbox = self._connection.new_inbox()
        pull.subscription = self._connection.listen(inbox, lambda message: self._received(pull, message))
        try:
            self._connection.publish(self._next, pull.request(expires_s), reply=inbox)
        except NotConnectedError:
            pull.subscription.unsubscribe()
            raise
        self._pulls.add(pull)
        self.outstanding += n
        pull.timer = self._loop.call_at(pull.silent_at_s(), self._check, pull)

    async def stop(self, timeout_s: float = 2.0) -> None:
        """Ask no more, and end the open pulls; what the server has sent already is still delivered. Idempotent."""
        self._stopped = True
        self._forget_disconnect()
        subscriptions = [pull.subscription for pull in self._pulls if pull.subscription is not None]
        for subscription in subscriptions:
            subscription.silence()
        try:
            if subscriptions:
                await self._connection.flush(timeout_s)
        except (NotConnectedError, ConnectionLostError):
            logger.debug("the pulls of %s ended without a flush: the connection is down", self.consumer)
        for pull in list(self._pulls):
            self._end(pull, "stopped")

    def _received(self, pull: _Pull, message: Message) -> None:
        pull.heard_at_s = self._loop.time()
        if message.reply:
            if pull in self._pulls:
                pull.left -= 1
                self.outstanding -= 1
                if not pull.left:
                    self._end(pull, "fulfilled")
            self._on_delivery(delivery(message))
        elif message.status != _HEARTBEAT:
            self._end(pull, *_end_reason(message))

    def _check(self, pull: _Pull) -> None:
        """A timer fired; it is not moved for every message, so something may have come meanwhile."""
        silent_at_s = pull.silent_at_s()
        if silent_at_s <= self._loop.time():
            self._end(pull, "silent", "neither a message nor a status in time")
        else:
            pull.timer = self._loop.call_at(silent_at_s, self._check, pull)

    def _end(self, pull: _Pull, reason: PullReason, detail: str = "") -> None:
        if pull not in self._pulls:
            return
        self._pulls.discard(pull)
        self.outstanding -= pull.left
        if pull.timer is not None:
            pull.timer.cancel()
        if pull.subscription is not None:
            pull.subscription.silence()
            # What the server sent for a pull that we gave up may be on its way, and its lease runs.
            linger_s = _LINGER_S if reason == "silent" else 0.0
            self._loop.call_later(linger_s, pull.subscription.unsubscribe)
        if self._on_pull_end is not None:
            self._on_pull_end(PullEnd(pull.asked, pull.left, reason, detail))

    def _disconnected(self) -> None:
        for pull in list(self._pulls):
            self._end(pull, "disconnected")


def _end_reason(message: Message) -> tuple[PullReason, str]:
    """What a status means. Those of a pull have no error code: 409 is told apart by its words."""
    status, words = message.status, message.description
    if status in (404, 408):
        return "expired", words
    if status == 503:
        return "no_consumer", "nobody answers"
    if status == 409 and words == "Consumer Deleted":
        return "no_consumer", words
    if status == 409 and words in ("Leadership Change", "Server Shutdown", "Batch Completed"):
        return "expired", words
    return "refused", f"{status} {words}"
