"""Makes connected nats-py clients with the settings that a long-lived connection needs, and takes them down again.

What nats-py gets wrong by itself and is set right here: its first connect would retry for ever; most errors that a
server reports would close it for good; after a failed attempt to reconnect it forgets the attempt's socket and tasks.
https://github.com/nats-io/nats.py (2.16; `client.py`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

import nats.errors

from cas_events.jetstream.links import Client, socket_transport
from cas_events.jetstream.urls import credentials, split_servers

# nats-py retries after this; spread, so that a fleet does not come back in one instant.
_RECONNECT_WAIT_S = (0.1, 0.4)
_CLOSE_TIMEOUT_S = 3.0

logger = logging.getLogger(__name__)


class _NoServerError(Exception):
    """Raised through nats-py's connect(), which else retries for ever."""


class Dialer:
    """Connects to the servers of one URL.

    Attributes:
        last_error: why the last `connect` found no server, for the message of an error; without credentials.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        connect_timeout_s: float,
        ping_interval_s: float,
        on_disconnected: Callable[[], Awaitable[None]],
        on_reconnected: Callable[[], Awaitable[None]],
        on_report: Callable[[str], Awaitable[None]],
    ) -> None:
        self.last_error = ""
        self._servers = split_servers(url)
        self._attempt_s = connect_timeout_s
        self._on_report = on_report
        self._client: Client | None = None
        self._failures_left = 0
        self._options = {
            "name": name,
            "error_cb": self._on_error,
            "disconnected_cb": on_disconnected,
            "reconnected_cb": on_reconnected,
            "connect_timeout": connect_timeout_s,
            "reconnect_time_wait": random.uniform(*_RECONNECT_WAIT_S),  # noqa: S311
            "max_reconnect_attempts": -1,
            "ping_interval": ping_interval_s,
            **credentials(url),
        }

    async def connect(self) -> Client | None:
        """Try each server once; a client that is connected and from now on reconnects by itself, or None."""
        client = self._client = Client()
        client._process_err = self._on_report  # type: ignore[assignment, method-assign]  # noqa: SLF001
        self._failures_left, self.last_error = len(self._servers), ""
        try:
            async with asyncio.timeout(self._attempt_s * max(1, len(self._servers))):
                await client.connect(self._servers, **self._options)  # type: ignore[arg-type]
        except (_NoServerError, nats.errors.Error, OSError, ValueError) as error:
            self.last_error = self.last_error or str(error) or type(error).__name__
            await discard(client)
            return None
        finally:
            self._failures_left = 0
        return client

    async def _on_error(self, error: Exception) -> None:
        """nats-py awaits this inside its loops: it must neither wait nor, once connected, raise."""
        logger.debug("nats-py: %s", error)
        if self._failures_left > 0:
            self._failures_left -= 1
            self.last_error = _last_words(self._client) or str(error) or type(error).__name__
            if self._failures_left == 0:
                raise _NoServerError
        elif self._client is not None and asyncio.current_task() is self._client._reconnection_task:  # noqa: SLF001
            _clear_half_open(self._client)


def _last_words(client: Client | None) -> str:
    """What the server said before it hung up, which nats-py may not have read: a wrong password, for example."""
    reader = getattr(getattr(client, "_transport", None), "_io_reader", None)
    first_line = bytes(getattr(reader, "_buffer", b"")).partition(b"\r\n")[0]
    return first_line[4:].decode("utf-8", "replace").strip(" '") if first_line.startswith(b"-ERR") else ""


def _clear_half_open(client: Client) -> None:
    """End what a failed attempt to reconnect left behind; the next attempt would have two read loops."""
    for name in ("_reading_task", "_ping_interval_task", "_flusher_task"):
        task = getattr(client, name, None)
        if task is not None and not task.done():
            task.cancel()
    transport = socket_transport(client)
    if transport is not None:
        transport.abort()


async def discard(client: Client) -> None:
    """Close a client for good, within a bound, whatever state it is in."""
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await client.close()
    except (nats.errors.Error, OSError, AssertionError) as error:
        logger.debug("nats-py did not close cleanly: %s", type(error).__name__)
    transport = socket_transport(client)
    if transport is not None:
        transport.abort()
