"""SQL from users: read-only, one statement, bounded in time, memory, rows and bytes.

Each query runs in a reader thread on its own connection, in a read-only snapshot; the loop interrupts it when its
time is over. What ignores the interrupt (some functions never look) cannot be ended from within the process: then
`on_stuck` is called, and the process has to go. One process answers, so queries wait for a free reader, boundedly.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cas_events.errors import ProjectionError, QueryError
from cas_events.wire.rows import QueryResult, decode_rows, encode_rows
from projections.past import AsOf, in_the_past, sequence_of
from projections.store import Connection, StatementCheck, open_file
from projections.store import Error as StoreError

log = logging.getLogger(__name__)

Params = Sequence[object] | Mapping[str, object]

READERS = 4
WAITING_MAX = 64
SQL_BYTES_MAX = 256 * 1024
_FAREWELL_S = 0.2
_POSITION = "SELECT last_seq FROM cas_projection WHERE stream = ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one query may take.

    Attributes:
        time_s: then it is interrupted.
        grace_s: time to heed the interrupt.
        rows: at most.
        result_bytes: of the encoded rows, at most.
    """

    time_s: float = 10.0
    grace_s: float = 5.0
    rows: int = 100_000
    result_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """A query's result with its rows already encoded: each as a JSON array, or all as one Arrow IPC stream."""

    columns: list[str]
    types: list[str]
    rows: list[bytes]
    as_of: int
    arrow: bytes = b""

    def decoded(self) -> QueryResult:
        """The same as values."""
        return QueryResult(
            self.columns, self.types, decode_rows(b"[" + b",".join(self.rows) + b"]"), self.as_of
        )


class Queries:
    """Runs queries on the connections that ``connect`` makes.

    Args:
        connect: makes a connection; called once per reader, in the reader's thread.
        events_stream: whose stored position is `as_of`.
        limits: of each query.
        on_stuck: called, in the loop, when a query heeds no interrupt.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        *,
        events_stream: str,
        limits: Limits | None = None,
        on_stuck: Callable[[], None] | None = None,
    ) -> None:
        self._connect = connect
        self._events_stream = events_stream
        self.limits = limits or Limits()
        self._on_stuck = on_stuck
        self._places = asyncio.Semaphore(READERS)
        self._waiting = 0
        self._statements = StatementCheck()
        self._idle: list[Connection] = []
        self._running: dict[_Running, asyncio.Future[Answer]] = {}
        self._closing = False

    async def run(
        self,
        sql: str,
        params: Params = (),
        *,
        limit: int | None = None,
        as_of: AsOf = None,
        arrow: bool = False,
    ) -> Answer:
        """Answer one query.

        Args:
            sql: one SELECT.
            params: for its placeholders.
            limit: rows at most; without it the answer must not exceed the limit on rows.
            as_of: ask the tables as they were then, see `past`.
            arrow: have the rows as Arrow.

        Raises:
            QueryError: it was refused or failed; ``reason`` says which.
        """
        if self._waiting >= WAITING_MAX:
            raise QueryError(f"{WAITING_MAX} queries are waiting already; try again later", reason="busy")
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        task = _Running()
        future = _in_thread(lambda: self._answer(task, sql, params, limit, as_of, arrow=arrow))
        self._running[task] = future
        future.add_done_callback(lambda done: self._ended(task, done))
        return await self._watched(task, future)

    def _ended(self, task: _Running, done: asyncio.Future[Answer]) -> None:
        self._running.pop(task, None)
        self._places.release()
        if not done.cancelled():
            done.exception()  # Whoever asked may be gone, and then nobody else looks.

    async def _watched(self, task: _Running, future: asyncio.Future[Answer]) -> Answer:
        limits = self.limits
        try:
            return await asyncio.wait_for(asyncio.shield(future), limits.time_s)
        except TimeoutError:
            task.interrupt()
        except asyncio.CancelledError:
            task.interrupt()
            raise
        except QueryError as error:
            if error.reason != "timeout":
                raise
            raise QueryError(
                "ended early: the projector stops, or needed the memory", reason="memory"
            ) from error
        try:
            return await asyncio.wait_for(asyncio.shield(future), limits.grace_s)
        except TimeoutError:
            log.warning("a query heeds no interrupt")
            if self._on_stuck is not None:
                # A little later, so that whoever asked still gets an answer.
                asyncio.get_running_loop().call_later(_FAREWELL_S, self._on_stuck)
            raise _timeout(limits.time_s) from None
        except QueryError as error:
            raise (_timeout(limits.time_s) if error.reason == "timeout" else error) from error

    def interrupt(self) -> None:
        """End the queries that run, at their next chance."""
        for task in list(self._running):
            task.interrupt()

    async def drain(self, patience_s: float) -> None:
        """Return when nothing runs any more; what does after the patience is interrupted. Nothing new may be asked."""
        for wait_s in (patience_s, self.limits.grace_s):
            if self._running:
                await asyncio.wait(list(self._running.values()), timeout=wait_s)
                self.interrupt()
        if self._running and self._on_stuck is not None:
            log.warning("a query heeds no interrupt")
            self._on_stuck()

    def close(self) -> None:
        """Let no further query in and end those that run; does not wait for what heeds no interrupt."""
        self._closing = True
        self.interrupt()
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        self._statements.close()

    # --- in a reader's thread ----------------------------------------------------------------------------------------

    def _answer(
        self, task: _Running, sql: str, params: Params, limit: int | None, as_of: AsOf, *, arrow: bool
    ) -> Answer:
        if len(sql) > SQL_BYTES_MAX:
            raise QueryError(f"the statement is over {SQL_BYTES_MAX} characters", reason="syntax")
        statement = self._statements.check(sql)
        most = self.limits.rows if limit is None else min(limit, self.limits.rows)
        fetched = most + (limit is None)
        with self._borrowed() as connection, task.on(connection), connection.snapshot():
            [(seq,)] = connection.select(_POSITION, (self._events_stream,), limit=1)[2]
            if as_of is not None:
                seq = sequence_of(connection, as_of, seq)
                statement = in_the_past(statement, seq)
            if arrow:
                stream, count = connection.select_arrow(statement, params, limit=fetched)
                self._require_small(count, most, len(stream))
                return Answer([], [], [], seq, stream)
            columns, types, rows = connection.select(statement, params, limit=fetched)
        self._require_small(len(rows), most, 0)
        encoded = encode_rows(types, rows)
        self._require_small(len(rows), most, sum(map(len, encoded)))
        return Answer(columns, types, encoded, seq)

    def _require_small(self, rows: int, most: int, size: int) -> None:
        if rows > most:
            raise QueryError(
                f"more than {most} rows; add a LIMIT, or ask for parts by last_seq or seq",
                reason="too_many_rows",
            )
        if size > self.limits.result_bytes:
            raise QueryError(
                f"more than {self.limits.result_bytes} bytes; ask for less", reason="too_many_rows"
            )

    @contextmanager
    def _borrowed(self) -> Iterator[Connection]:
        """A connection that no other thread uses."""
        connection = self._idle.pop() if self._idle else self._connect()
        try:
            yield connection
        finally:
            if self._closing:
                connection.close()
            else:
                self._idle.append(connection)


class _Running:
    """Where a query runs, so that it, and never the next one on that connection, is interrupted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._interrupted = False

    @contextmanager
    def on(self, connection: Connection) -> Iterator[None]:
        with self._lock:
            if self._interrupted:
                raise QueryError("interrupted", reason="timeout")
            self._connection = connection
        try:
            yield
        finally:
            with self._lock:
                self._connection = None

    def interrupt(self) -> None:
        with self._lock:
            self._interrupted = True
            if self._connection is not None:
                self._connection.interrupt()


def _in_thread(call: Callable[[], Answer]) -> asyncio.Future[Answer]:
    """Run in a thread that nobody waits for at the process's end, as it may be one that cannot be ended."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Answer] = loop.create_future()

    def settle(answer: Answer | None, error: Exception | None) -> None:
        if error is not None and not future.done():
            future.set_exception(error)
        elif answer is not None and not future.done():
            future.set_result(answer)

    def work() -> None:
        answer, failure = None, None
        try:
            answer = call()
        except Exception as error:  # Not swallowed: it is the outcome of the future.
            failure = error
        with suppress(RuntimeError):  # The loop is closed: nobody asks any more.
            loop.call_soon_threadsafe(settle, answer, failure)

    threading.Thread(target=work, name="cas-sql", daemon=True).start()
    return future


def _timeout(time_s: float) -> QueryError:
    return QueryError(f"not done after {time_s:g} s; ask for less, or for a part", reason="timeout")


async def query_file(
    path: Path,
    sql: str,
    params: Params = (),
    *,
    limit: int | None = None,
    as_of: AsOf = None,
    limits: Limits | None = None,
) -> QueryResult:
    """Answer one query from the file itself, when no projector has it open.

    A query that heeds no interrupt goes on in its thread after the error; it ends with the process.

    Raises:
        ProjectionError: the file is not there, in use, or none of ours.
        QueryError: see `Queries.run`.
    """
    async with reading(path, limits) as queries:
        return (await queries.run(sql, params, limit=limit, as_of=as_of)).decoded()


@asynccontextmanager
async def reading(path: Path, limits: Limits | None = None) -> AsyncIterator[Queries]:
    """Many queries of one file, which stands still meanwhile.

    Raises:
        ProjectionError: the file is not there, in use, or none of ours.
    """
    file = await asyncio.to_thread(open_file, path, read_only=True)
    try:
        queries = Queries(file.cursor, events_stream=_events_stream(file, path), limits=limits)
        try:
            yield queries
        finally:
            queries.close()
    finally:
        file.close()


def _events_stream(file: Connection, path: Path) -> str:
    try:
        [(stream,)] = file.execute("SELECT stream FROM cas_projection WHERE stream LIKE '%EVENTS'")
    except (StoreError, ValueError) as error:
        raise ProjectionError(
            f"{path} holds no projection; start a projector (`cas projector`) first"
        ) from error
    return str(stream)
