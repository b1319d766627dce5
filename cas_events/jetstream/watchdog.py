"""Finds connections that are dead without anybody having said so.

nats-py's read loop can end without a reconnect (an exception inside it), its reconnecting can end for good, and a
peer can vanish without a word: a firewall that drops packets, a stopped process. Here a silence longer than the ping
interval leads to a real round trip, and its failure to a reconnect: 1.5 intervals and a tick at most.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from cas_events.errors import ConnectionLostError, NotConnectedError

if TYPE_CHECKING:
    from cas_events.jetstream.connection import Connection

_TICK_S = 1.0

logger = logging.getLogger(__name__)


async def watch(connection: Connection, ping_interval_s: float) -> None:
    """Watch until cancelled; ``ping_interval_s`` is the silence that leads to a question."""
    while True:
        await asyncio.sleep(min(_TICK_S, ping_interval_s / 4))
        try:
            await _check(connection, ping_interval_s)
        except Exception:
            # The one that watches over the others must not end; what it did not expect is in the log.
            logger.exception("the watchdog of connection %s failed once", connection.name)


async def _check(connection: Connection, ping_interval_s: float) -> None:
    if not connection.is_connected:
        # Reconnecting is nats-py's, unless its task has ended without a connection.
        if not connection.nc.is_connected and _is_over(connection, "_reconnection_task"):
            logger.warning("nats-py gave up on %s; connecting anew", connection.url)
            await connection.connect_anew()
    elif _is_over(connection, "_reading_task"):
        await connection.force_reconnect("nats-py's read loop has ended")
    elif _silence_s(connection) >= ping_interval_s:
        await _ask(connection, ping_interval_s / 2)


async def _ask(connection: Connection, timeout_s: float) -> None:
    try:
        await connection.flush(timeout_s)
    except (NotConnectedError, ConnectionLostError):
        # Other bytes that came meanwhile are a sign of life as well.
        if connection.is_connected and _silence_s(connection) >= timeout_s:
            await connection.force_reconnect("no sign of life")


def _silence_s(connection: Connection) -> float:
    received_at_s = connection.received_at_s
    if received_at_s is None:
        return float("inf")
    return asyncio.get_running_loop().time() - received_at_s


def _is_over(connection: Connection, task_name: str) -> bool:
    task: asyncio.Task[None] | None = getattr(connection.nc, task_name, None)
    return task is None or task.done()
