"""From the streams to the tables, for as long as the process lives.

Two readers go on from the stored positions; one thread writes. Live, a transaction takes whatever arrived during the
last one, so there is no timer and no lag to tune; catching up, it waits for enough to be worth a transaction. What
waits between readers and writer is bounded, and a full hand-over holds the readers back. An error of the storage ends
the projector, loudly and before any position moves; started again, it goes on where it stopped. How messages become
rows is `fold`'s.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from cas_events.errors import LogCutError, ProjectionError, QueryError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.reader import StreamReader
from cas_events.wire.subjects import Names
from projections.continuity import require_same_log
from projections.fold import Fold, Positions
from projections.handover import Handover
from projections.store import OutOfMemoryError
from projections.threads import finish_in

T = TypeVar("T")

log = logging.getLogger(__name__)

_SMALLEST_BATCH = 500  # Smaller ones are not tried when memory is short.
# Of payload, between checkpoints. Each holds the writer up (0.1 s for 20 MB, 1 s for 400 MB); but until then all of it
# is in memory, which is limited, and a restart has to replay it.
_CHECKPOINT_BYTES = 128 * 1024 * 1024
_CHECKPOINT_RETRY_BYTES = 4 * 1024 * 1024  # Further payload after which one that was put off is tried again.
_CHECKPOINT_PATIENCE_BYTES = 2 * _CHECKPOINT_BYTES  # From here on it waits for the readers that put it off.


class Pause(Protocol):
    """Keeps readers away during its block, which is told whether there are none."""

    def __call__(self, *, patient: bool) -> AbstractAsyncContextManager[bool]:
        """Begin."""


@asynccontextmanager
async def _no_pause(*, patient: bool) -> AsyncIterator[bool]:  # noqa: ARG001 - nobody reads
    yield True


class Projector:
    """Keeps the tables of one deployment up to date. Made by `open`.

    Attributes:
        positions: what the tables hold, committed.
    """

    def __init__(
        self,
        connection: Connection,
        names: Names,
        fold: Fold,
        thread: ThreadPoolExecutor,
        *,
        accept_loss: bool = False,
    ) -> None:
        self._connection = connection
        self._names = names
        self._fold = fold
        self._thread = thread
        self._handover = Handover()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._tickets = 0
        self._stop = asyncio.Event()
        self._accept_loss = accept_loss
        self._written_bytes = 0
        self._tell: Callable[[Sequence[StoredMessage]], None] = lambda _: None
        self._next_checkpoint_bytes = _CHECKPOINT_BYTES
        self._pause: Pause = _no_pause
        self.positions: Positions = fold.positions

    @classmethod
    async def open(
        cls, connection: Connection, names: Names, path: Path, *, accept_loss: bool = False
    ) -> Projector:
        """Open the tables.

        Args:
            connection: to the server.
            names: of the deployment.
            path: the database file; made if it is not there.
            accept_loss: go on behind what retention took before it was projected, instead of an error.

        Raises:
            ProjectionError: the file cannot be opened or holds something else.
            OtherVersionError: its tables are of another projection version.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="cas-projection")
        try:
            loop = asyncio.get_running_loop()
            fold = await loop.run_in_executor(thread, Fold, path, names.deployment)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(connection, names, fold, thread, accept_loss=accept_loss)

    @property
    def fold(self) -> Fold:
        """The tables, for making readers."""
        return self._fold

    def before_checkpoints(self, pause: Pause) -> None:
        """Say what keeps readers away while blocks of the file are moved: given whether to wait for them."""
        self._pause = pause

    async def quietly(self, call: Callable[[], T]) -> T:
        """Run in the writer's thread, between two transactions; a cancellation waits for the end."""
        return await finish_in(self._thread, call)

    def on_applied(self, tell: Callable[[Sequence[StoredMessage]], None]) -> None:
        """Say what to call, in the loop, with the commands of each batch that is committed."""
        self._tell = tell

    async def run(self) -> None:
        """Project until `stop`.

        Raises:
            LogCutError: retention took messages that are not in the tables yet.
            OtherLogError: the log is not the one that the tables were made from (`continuity`).
            ProjectionError: the storage failed.
        """
        await self._require_same_log()
        parts = [
            asyncio.create_task(self._watch_log()),
            asyncio.create_task(self._pump(self._names.commands, self.positions.commands)),
            asyncio.create_task(self._pump(self._names.events, self.positions.events)),
            asyncio.create_task(self._write()),
        ]
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([*parts, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            # The writer first finishes the transaction that runs, because a thread cannot be cancelled.
            for task in (*parts, stopped):
                task.cancel()
            outcomes = await asyncio.gather(*parts, return_exceptions=True)
            self._fail_waiting(ProjectionError("the projector has stopped"))
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    def stop(self) -> None:
        """End `run` after the transaction that runs."""
        self._stop.set()

    async def checkpoint(self) -> bool:
        """Move everything into the file, after `run` has ended; False: queries run on it."""
        return await self.quietly(self._fold.checkpoint)

    async def close(self) -> None:
        """Close the file, after `run` has ended."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._fold.close)
        self._thread.shutdown(wait=False)

    async def wait_for(self, seq: int, timeout_s: float) -> None:
        """Return when the tables hold the events up to a sequence.

        Raises:
            QueryError: they do not within the time (`timeout`).
        """
        if self.positions.events >= seq:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tickets += 1
        heapq.heappush(self._waiting, (seq, self._tickets, future))
        try:
            await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            raise QueryError(
                f"sequence {seq} is not projected after {timeout_s:g} s; the tables are at {self.positions.events}",
                reason="timeout",
            ) from None

    async def _watch_log(self) -> None:
        """After each reconnection: it may be to a server that has lost its newest messages."""
        reconnected = asyncio.Event()
        forget = self._connection.on_reconnect(reconnected.set)
        try:
            while True:
                await reconnected.wait()
                reconnected.clear()
                await self._require_same_log()
        finally:
            forget()

    async def _require_same_log(self) -> None:
        newest = await self.quietly(self._fold.newest)
        await require_same_log(JetStream(self._connection), self._names, newest)

    async def _pump(self, stream: str, position: int) -> None:
        reader = StreamReader(self._connection, stream, from_seq=position + 1)
        async for batch in reader.batches():
            if reader.gap is not None and not self._accept_loss:
                raise LogCutError(stream, *reader.gap)
            await self._handover.put(stream, batch.messages, batch.pending)
        raise ProjectionError(f"reading {stream} has ended")

    async def _write(self) -> None:
        while True:
            taken = await self._handover.take()
            commands, events = taken.get(self._names.commands, []), taken.get(self._names.events, [])
            await self._apply(commands, events)
            self._tell(commands)
            self._resolve_waiting()
            self._written_bytes += sum([len(message.data) for message in events])
            if self._written_bytes > self._next_checkpoint_bytes:
                await self._make_room()

    async def _make_room(self) -> None:
        """Move into the file what is written, when no reader looks at it; at last, wait for that."""
        patient = self._written_bytes > _CHECKPOINT_PATIENCE_BYTES
        async with self._pause(patient=patient) as is_quiet:
            done = is_quiet and await self.quietly(self._fold.checkpoint)
        if done:
            self._written_bytes = 0
        self._next_checkpoint_bytes = self._written_bytes + (
            _CHECKPOINT_BYTES if done else _CHECKPOINT_RETRY_BYTES
        )

    async def _apply(self, commands: list[StoredMessage], events: list[StoredMessage]) -> None:
        """Write a batch; in halves when there is too little memory for the whole."""
        try:
            self.positions = await self.quietly(lambda: self._fold.apply(commands, events))
        except ProjectionError as error:
            size = max(len(commands), len(events))
            if not isinstance(error.__cause__, OutOfMemoryError) or size < _SMALLEST_BATCH:
                raise
            log.warning("too little memory for a batch of %d: half of it is tried", size)
            half = size // 2
            await self._apply(commands[:half], events[:half])
            await self._apply(commands[half:], events[half:])

    def _resolve_waiting(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.positions.events:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)

    def _fail_waiting(self, error: Exception) -> None:
        for _, _, future in self._waiting:
            if not future.done():
                future.set_exception(error)
        self._waiting.clear()
