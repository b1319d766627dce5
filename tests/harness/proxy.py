"""A TCP proxy between a client and a server, with the faults of a network.

It runs in a thread with an event loop of its own, so that it goes on while the test's loop is busy. What it can do to
the connections through it, and what undoes each:

- `cut`: reset them all, once; new ones are served;
- `refuse`: reset them, and take no new ones until `heal`;
- `black_hole`: swallow what is sent, both ways or one (half-open), without a word. What was swallowed is gone, so at
  `heal` the connections are reset, as by a firewall that forgot them; with ``keep_dead`` they stay dead and silent,
  and only new ones are served;
- `stall`: hold everything back until `heal`, as a partition does that ends in time; nothing is lost;
- `delay`: let every chunk wait.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from tests.harness.ports import free_ports

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 64 * 1024
_CALL_S = 10.0


class _Link:
    """One connection through the proxy, both halves."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = (client, server)
        self.is_dead = False  # It swallowed bytes, so what follows them makes no sense any more.

    def reset(self) -> None:
        for writer in self.writers:
            transport = writer.transport
            sock: socket.socket | None = transport.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                # A zero linger makes the close a reset: the peer learns it at once, as from a process that died.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            transport.abort()


class Proxy:
    """Listens on a loopback port and forwards to another; a context manager.

    Args:
        target_port: where the server listens, on loopback.

    Attributes:
        port: where the proxy listens; the same for its whole life.
        accepted: connections so far.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="tcp proxy", daemon=True)
        self._listener: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._swallows = {"up": False, "down": False}
        self._delay_s = 0.0
        self.port = free_ports(1)[0]
        self.accepted = 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen)
        self._loop.call_soon_threadsafe(self._open.set)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_S)
        self._loop.close()

    # --- the faults, from any thread

    def cut(self) -> None:
        """Reset every connection."""
        self._call(self._cut)

    def refuse(self) -> None:
        """Reset every connection and take no new ones."""
        self._call(self._refuse)

    def black_hole(self, *, up: bool = True, down: bool = True) -> None:
        """Swallow what clients send (``up``) and what the server sends (``down``)."""
        self._swallows = {"up": up, "down": down}

    def stall(self) -> None:
        """Hold everything back."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def delay(self, delay_s: float) -> None:
        """Let every chunk wait so long."""
        self._delay_s = delay_s

    def heal(self, *, keep_dead: bool = False) -> None:
        """End every fault; with ``keep_dead``, only for connections to come."""
        if keep_dead and any(self._swallows.values()):
            self._call(self._forget_all)
        self._swallows = {"up": False, "down": False}
        self._delay_s = 0.0
        self._loop.call_soon_threadsafe(self._open.set)
        self._call(lambda: self._heal(keep_dead))

    # --- inside, on the proxy's loop

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(make(), self._loop).result(_CALL_S)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _cut(self) -> None:
        for link in list(self._links):
            self._reset(link)

    def _reset(self, link: _Link) -> None:
        self._links.discard(link)
        link.reset()

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._cut()

    async def _heal(self, keep_dead: bool) -> None:
        await self._listen()
        for link in list(self._links):
            if link.is_dead and not keep_dead:
                self._reset(link)

    async def _forget_all(self) -> None:
        for link in self._links:
            link.is_dead = True

    async def _close(self) -> None:
        await self._refuse()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, server_writer)
        self._links.add(link)
        for way, source, sink in (("up", reader, server_writer), ("down", server_reader, writer)):
            pump = asyncio.create_task(self._pump(link, way, source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(
        self, link: _Link, way: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        """Carry one direction until its source ends; then the whole connection ends."""
        with suppress(OSError):
            while chunk := await source.read(_CHUNK_BYTES):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                await self._open.wait()
                if self._swallows[way]:
                    link.is_dead = True
                if not link.is_dead:
                    sink.write(chunk)
                    await sink.drain()
        if link.is_dead or any(self._swallows.values()):
            link.is_dead = True  # In a black hole nobody hears of the other's end.
        else:
            self._reset(link)
