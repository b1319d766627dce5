"""How bytes get from and to a connected nats-py client: what a link is, and which kind a client can have.

nats-py connects, reconnects, and does TLS and authentication. `fast_link.FastLink` puts our parser and writer between
its socket and it; `stock_link.StockLink` uses the public API only, for a nats-py that is not the one we know.
A link knows sids and bytes; requests, deadlines and what a lost connection means are `connection`'s.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import nats.aio.client

# What `FastLink` relies on. nats-py's version is pinned; a test reads this list.
FAST_ATTRIBUTES = (
    *("_ps", "_pongs", "_pings_outstanding", "_transport", "_reading_task", "_reconnection_task"),
    *("_process_msg", "_process_info", "_process_op_err", "force_reconnect"),
)

Client = nats.aio.client.Client


class Link(Protocol):
    """Moves bytes while connected; `down` and `up` follow the connection."""

    @property
    def buffered_bytes(self) -> int:
        """Bytes handed in that the operating system has not taken yet."""

    def up(self) -> None:
        """The client is connected: take over, with no subscription known to the server."""

    def down(self) -> None:
        """The connection is lost: forget what is not written."""

    def send(self, subject: str, reply: str, header: bytes, payload: bytes) -> None:
        """Write one message, in this loop iteration or the next."""

    def subscribe(self, sid: bytes, subject: str, queue: str) -> None:
        """Ask the server for a subject, in order with `send`."""

    def unsubscribe(self, sid: bytes) -> None:
        """Take the subscription back."""

    def ping(self) -> asyncio.Future[Any]:
        """A future that is done when the server has answered a PING sent now."""


def supports_fast_link(client: Client) -> bool:
    """Whether this nats-py has every attribute that `FastLink` relies on, over a plain or TLS socket."""
    transport = getattr(client, "_transport", None)
    return all(hasattr(client, name) for name in FAST_ATTRIBUTES) and hasattr(transport, "_io_writer")


def socket_transport(client: Client) -> asyncio.Transport | None:
    """The asyncio transport below a nats-py client, None if there is none (yet)."""
    writer = getattr(getattr(client, "_transport", None), "_io_writer", None)
    return None if writer is None else writer.transport
