"""`JetStreamStore`: LangGraph's long-term memory on JetStream.

The interface is LangGraph's `BaseStore`, its rules are those of langgraph-checkpoint 4. One instance serves any number
of graphs and threads, from its own event loop, from other loops and from threads. In one batch everything is read as
it was before the batch, and of several puts of one item the last one counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from langgraph.store.base import (
    BaseStore,
    GetOp,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchOp,
    TTLConfig,
    validate_op_namespace,
)

from cas_events.errors import SyncOnLoopError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.checkpoints.stream import PATIENCE_S, CheckpointStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.memory.reading import ItemReader
from cas_events.jetstream.memory.searching import Search
from cas_events.jetstream.memory.sweeping import sweep, sweep_forever
from cas_events.jetstream.memory.writing import ItemWriter
from cas_events.jetstream.topology import ensure_streams
from cas_events.settings import Settings
from cas_events.wire.memory import MemorySubjects
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

_OPERATIONS_IN_FLIGHT = 64
_PUTS_IN_FLIGHT = 32
_SCANS_IN_FLIGHT = 4

T = TypeVar("T")


class JetStreamStore(BaseStore):
    """Keeps LangGraph's long-term memory in the deployment's stream of checkpoints.

    `async with JetStreamStore(url) as store: graph.compile(store=store)`

    Values are mappings of strings to plain data, of any size up to 64 MiB. The last write of an item wins. A search
    gives the items that were updated last first; there is no vector search, so `query` and `index` have no effect, as
    in LangGraph's own stores without an index.

    Args:
        url: of the server, or several with commas between; None for that of the settings.
        settings: of the deployment; None for those of the environment.
        ttl: LangGraph's `TTLConfig`, in minutes: `default_ttl`, `refresh_on_read` (True unless it says otherwise) and
            `sweep_interval_minutes`. Items that are over are never given, swept or not.
        patience_s: how long a server that is away is waited for.
    """

    supports_ttl = True

    def __init__(
        self,
        url: str | None = None,
        *,
        settings: Settings | None = None,
        ttl: TTLConfig | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.ttl_config = ttl
        self._url = url
        self._settings = settings
        self._patience_s = patience_s
        self._connection: Connection | None = None
        self._opened: _Opened | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @classmethod
    def on(
        cls, js: JetStream, names: Names, *, ttl: TTLConfig | None = None, patience_s: float = PATIENCE_S
    ) -> Self:
        """A store on a connection that somebody else opens and closes; called in its event loop."""
        self = cls(ttl=ttl, patience_s=patience_s)
        self._open(js, names)
        return self

    async def __aenter__(self) -> Self:
        settings = self._settings or Settings.from_env(nats_url=self._url)
        names = Names(settings.deployment)
        connection = await Connection.open(self._url or settings.url(), name="cas memory")
        try:
            js = JetStream(connection)
            await ensure_streams(js, settings.deployment, settings.replicas, only=names.checkpoints)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        self._open(js, names)
        return self

    def _open(self, js: JetStream, names: Names) -> None:
        self._opened = opened = _Opened(js, names, self._patience_s)
        minutes = (self.ttl_config or {}).get("sweep_interval_minutes")
        if minutes is not None:
            work = sweep_forever(opened.reader, opened.writer, minutes * 60)
            self._sweeper = opened.stream.loop.create_task(work)
            self._sweeper.add_done_callback(_look_at)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the sweeping, and close the connection if it is the store's own."""
        sweeper, self._sweeper = self._sweeper, None
        if sweeper is not None:
            sweeper.cancel()
            await asyncio.wait([sweeper])
        if self._opened is not None:
            await self._opened.stream.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    # --- LangGraph's interface; get, put, search and so on are `BaseStore`'s, by these two

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """As `abatch`, from a thread.

        Raises:
            SyncOnLoopError: called on the store's own event loop, which would wait for itself.
        """
        return self._wait("batch", self._there.work(list(ops)))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """The results of operations, in their order.

        Raises:
            InvalidNamespaceError: a label is empty, or has a ``.`` in it (LangGraph's rule).
            MemoryNameError, MemoryValueError: an item cannot be stored.
            MemoryUnreadableError: bytes under an item's name are none of ours.
            ServerError: the server has been away for longer than `patience_s`, or refuses.
        """
        return await self._in_loop(self._there.work(list(ops)))

    async def sweep_ttl(self) -> int:
        """Delete the items that are over, and what unfinished puts have left; how many items.

        Reading deletes as well what it finds to be over; this is for what nobody reads.
        """
        return await self._in_loop(sweep(self._there.reader, self._there.writer))

    # --- loops and threads

    @property
    def _there(self) -> _Opened:
        if self._opened is None:
            raise RuntimeError("the store is not open: `async with JetStreamStore(url) as store:`")
        return self._opened

    async def _in_loop(self, work: Coroutine[Any, Any, T]) -> T:
        loop = self._there.stream.loop
        if asyncio.get_running_loop() is loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))

    def _wait(self, method: str, work: Coroutine[Any, Any, T]) -> T:
        loop = self._there.stream.loop
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is loop:
            work.close()
            raise SyncOnLoopError(method, async_ways="aget, aput, asearch and so on, graph.ainvoke")
        return asyncio.run_coroutine_threadsafe(work, loop).result()


class _Opened:
    """What a store has once it is open."""

    def __init__(self, js: JetStream, names: Names, patience_s: float) -> None:
        self.stream = CheckpointStream(js, names, patience_s=patience_s)
        self.reader = ItemReader(self.stream, MemorySubjects.of(names))
        self.writer = ItemWriter(self.reader)
        self._search = Search(self.reader, self.writer)
        # Bounds what is held in memory, whoever asks.
        self._scans = asyncio.Semaphore(_SCANS_IN_FLIGHT)
        self._gets = asyncio.Semaphore(_OPERATIONS_IN_FLIGHT)
        self._puts = asyncio.Semaphore(_PUTS_IN_FLIGHT)

    async def work(self, ops: list[Op]) -> list[Result]:
        """Read what is asked for, and store then."""
        for op in ops:
            validate_op_namespace(op)
        puts = {(op.namespace, op.key): op for op in ops if isinstance(op, PutOp)}
        results = await _all(map(self._read, ops))
        await _all(map(self._put, puts.values()))
        return results

    async def _read(self, op: Op) -> Result:
        if isinstance(op, PutOp):
            return None
        if isinstance(op, GetOp):
            async with self._gets:
                return await self._search.get(op)
        async with self._scans:
            if isinstance(op, SearchOp):
                return await self._search.search(op)
            if isinstance(op, ListNamespacesOp):
                return await self._search.namespaces(op)
        raise ValueError(f"unknown operation: {op!r}")

    async def _put(self, op: PutOp) -> None:
        async with self._puts:
            if op.value is None:
                await self.writer.delete(op.namespace, op.key)
            else:
                ttl_s = None if op.ttl is None else op.ttl * 60
                await self.writer.put(op.namespace, op.key, op.value, ttl_s)


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of work that runs at once; all of it is over when the first failure is raised."""
    found = list(work)
    if len(found) == 1:
        return [await found[0]]
    outcomes = await asyncio.gather(*found, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes  # type: ignore[return-value]


def _look_at(sweeper: asyncio.Task[None]) -> None:
    if not sweeper.cancelled() and (error := sweeper.exception()) is not None:
        _log.error("long-term memory is not swept any more", exc_info=error)
