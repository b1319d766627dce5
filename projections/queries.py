"""SQL from users: read-only, one statement, bounded in time, memory, rows and bytes.

Each query runs in a process of its own (`reader_process`), forked off when it is asked; one that has answered is asked
again as long as the tables are as it knows them. When its time is over it is killed, and whatever becomes of it, the
tables and everybody else's questions go on. There are few readers, so queries wait for one, boundedly.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from cas_events.errors import ProjectionError, QueryError
from cas_events.wire.rows import QueryResult
from projections.answering import Answer, Answering, Limits, Params, Question
from projections.past import AsOf
from projections.reader_process import Reader, ReaderDiedError, fork_reader
from projections.store import Connection, StatementCheck, open_file
from projections.store import Error as StoreError
from projections.threads import finish_in

__all__ = ["Answer", "Limits", "Params", "Queries", "query_file", "reading"]

log = logging.getLogger(__name__)

READERS = 4
WAITING_MAX = 64
_IDLE_S = 2.0  # Then a reader that nobody asks is ended: it holds memory that the writer has left behind.

Quietly = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs a call in a thread of its own, at a moment in which nobody uses the tables."""


class Queries:
    """Runs queries on the connections that ``connect`` makes.

    Args:
        connect: makes a connection; called in a reader.
        events_stream: whose stored position is `as_of`.
        limits: of each query.
        quietly: how to run the fork while nobody uses the tables; for a file that only this object uses, as it is.
        version: says which state the tables are in; two equal values mean the same rows.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        *,
        events_stream: str,
        limits: Limits | None = None,
        quietly: Quietly | None = None,
        version: Callable[[], object] = lambda: None,
    ) -> None:
        self.limits = limits or Limits()
        self._statements = StatementCheck()
        self._answering = Answering(
            connect, events_stream=events_stream, limits=self.limits, statements=self._statements
        )
        self._quietly = quietly or partial(finish_in, None)
        self._version = version
        self._places = asyncio.Semaphore(READERS)
        self._waiting = 0
        self._idle: list[Reader] = []
        self._asking = 0
        self._busy: dict[Reader, asyncio.Future[None]] = {}
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
        self._asking += 1
        try:
            return await self._ask(Question(sql, params, limit, as_of, arrow))
        finally:
            self._asking -= 1
            self._places.release()

    async def _ask(self, question: Question) -> Answer:
        reader = self._fresh() or await self._fork()
        self._busy[reader] = ended = asyncio.get_running_loop().create_future()
        may_go_on = False
        try:
            answer, may_go_on = await asyncio.wait_for(reader.ask(question), self.limits.time_s)
        except TimeoutError:
            raise QueryError(
                f"not done after {self.limits.time_s:g} s; ask for less, or for a part", reason="timeout"
            ) from None
        except ReaderDiedError as died:
            raise self._explained(died) from died
        finally:
            del self._busy[reader]
            ended.set_result(None)
            if may_go_on and not self._closing and reader.version == self._version():
                self._idle.append(reader)
                asyncio.get_running_loop().call_later(_IDLE_S, self._retire, reader)
            else:
                reader.kill()
        return answer

    def _fresh(self) -> Reader | None:
        """A reader that knows the tables as they are."""
        while self._idle:
            reader = self._idle.pop()
            if reader.version == self._version():
                return reader
            reader.kill()
        return None

    async def _fork(self) -> Reader:
        self._require_open()
        made: list[Reader] = []
        # In the quiet moment the version is that of the rows: nobody changes either.
        call = partial(fork_reader, self._answering.answer, self.limits)
        try:
            await self._quietly(lambda: made.append(call(self._version())))
            self._require_open()
        except OSError as error:
            raise QueryError(f"no process can be made for the query: {error}", reason="busy") from error
        except BaseException:
            for reader in made:
                reader.kill()
            raise
        return made[0]

    def _require_open(self) -> None:
        if self._closing:
            raise _ended()

    def _retire(self, reader: Reader) -> None:
        if reader in self._idle:
            self._idle.remove(reader)
            reader.kill()

    def _explained(self, died: ReaderDiedError) -> QueryError:
        """What the end of a reader means to whoever asked."""
        if self._closing:
            return _ended()
        if died.signal == signal.SIGKILL:  # Not ours: the system ends what takes the last of its memory.
            return QueryError(
                "the system ended the query: its memory is short; ask for less", reason="memory"
            )
        log.warning("a query has broken its reader: %s", died)
        return QueryError(f"the query broke the process that ran it ({died}); ask otherwise", reason="failed")

    # --- when the tables change hands -------------------------------------------------------------------------------

    @asynccontextmanager
    async def pause(self, *, patient: bool) -> AsyncIterator[bool]:
        """Have no reader in the block, so that the file's blocks may be moved.

        Args:
            patient: wait for queries that run and let no other begin meanwhile; otherwise give up if there are any.

        Yields:
            Whether there is none.
        """
        if not patient and self._asking:
            yield False
            return
        taken = 0
        try:
            while taken < READERS:
                await self._places.acquire()
                taken += 1
            self._end_idle()
            yield True
        finally:
            for _ in range(taken):
                self._places.release()

    async def drain(self, patience_s: float) -> None:
        """Return when nothing runs any more; what does after the patience is ended. Nothing new may be asked."""
        if self._busy:
            await asyncio.wait(list(self._busy.values()), timeout=patience_s)
        self.close()

    def close(self) -> None:
        """Let no further query in and end those that run. Idempotent."""
        self._closing = True
        self._end_idle()
        for reader in self._busy:
            reader.kill()
        self._statements.close()

    def _end_idle(self) -> None:
        while self._idle:
            self._idle.pop().kill()


def _ended() -> QueryError:
    return QueryError("ended early: the projector stops; ask again", reason="busy")


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
