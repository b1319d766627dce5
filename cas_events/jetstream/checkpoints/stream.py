"""Reading and purging the stream of checkpoints, coherently and with patience.

Coherent means: what was stored before is seen. A stream with one copy has nobody who could be behind, so there direct
gets are coherent, many messages in one request; with more copies the leader is asked (see `jetstream.reads`). Pieces
never change, so any copy's are right, and only one that is missing is asked of the leader. Every read is tried again
while the server is away, until `patience_s` is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import msgspec

from cas_events.errors import CheckpointUnreadableError, WireError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.patience import patiently
from cas_events.jetstream.reads import DecidingReads
from cas_events.wire.pieces import unpack_piece
from cas_events.wire.subjects import Names
from cas_events.wire.threads import ThreadSubjects

PATIENCE_S = 30.0
_LOOK_AGAIN_S = 60.0
_REQUEST_SUBJECTS = 500  # The server answers 1,024 at most.
_REQUEST_BYTES = 8 * 1024 * 1024
_READS_IN_FLIGHT = 64
_PURGES_IN_FLIGHT = 16

T = TypeVar("T")


class _SubjectsState(msgspec.Struct, frozen=True):
    subjects: dict[str, int] = {}


class _Subjects(msgspec.Struct, frozen=True):
    state: _SubjectsState
    total: int = 0


class Seen(NamedTuple):
    """How far a thread had come when it was read.

    Attributes:
        within: the filter that it was asked with.
        seq: of the newest message that matches; 0 if there was none.
    """

    within: str
    seq: int


class CheckpointStream:
    """The stream of checkpoints of one deployment, through one connection; it belongs to the connection's loop.

    Args:
        js: the connection's JetStream.
        names: of the deployment.
        patience_s: how long a server that is away is waited for.

    Attributes:
        loop: the event loop.
    """

    def __init__(self, js: JetStream, names: Names, *, patience_s: float = PATIENCE_S) -> None:
        self.js = js
        self.names = names
        self.patience_s = patience_s
        self.loop = asyncio.get_running_loop()
        self._stream = names.checkpoints
        self._reads = DecidingReads(js.connection, self._stream)
        self._look_at_s = 0.0
        self._work: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run what outlives the call that needs it; `close` waits for it."""
        task = self.loop.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    async def close(self, timeout_s: float = 5.0) -> None:
        """Wait for what is on its way, and end what is not done in time."""
        if self._work:
            _, late = await asyncio.wait(self._work, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def look_again(self) -> None:
        """What is known of the stream may not be true any more."""
        self._look_at_s = 0.0

    def thread(self, thread_id: str) -> ThreadSubjects:
        """The subjects of a thread."""
        return ThreadSubjects.of(self.names, thread_id)

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await a call that may be repeated, anew while the server is away."""
        return await patiently(call, give_up_s=self.patience_s)

    async def has_one_copy(self) -> bool:
        """Whether the stream has one replica; what was found counts for a minute."""
        if time.monotonic() >= self._look_at_s:
            info = await self.patiently(lambda: self.js.stream_info(self._stream))
            self._reads.is_single_copy = info.config.get("num_replicas", 1) == 1
            self._look_at_s = time.monotonic() + _LOOK_AGAIN_S
        return self._reads.is_single_copy

    # --- reading

    async def last(self, subject: str) -> StoredMessage | None:
        """The newest message of a subject, or of a filter."""
        await self.has_one_copy()
        return await self.patiently(lambda: self._last(subject))

    async def _last(self, subject: str) -> StoredMessage | None:
        return await self._reads.last(subject)

    async def newest(
        self, thread: ThreadSubjects, records: str, *, look_for_changes: bool
    ) -> tuple[StoredMessage | None, StoredMessage | None, Seen | None]:
        """The fence, after it the newest record, and before both how far the thread had come.

        In this order, a writer that came between is noticed later. Without a fence there is no record: nothing is stored
        before it, and deleting a thread leaves it.

        Args:
            thread: the thread.
            records: which of its records.
            look_for_changes: whether somebody will want to know how far the thread had come.
        """
        one_copy = await self.has_one_copy()
        within = thread.everything if one_copy else thread.contents

        async def read() -> tuple[StoredMessage | None, StoredMessage | None, Seen | None]:
            before = self._reads.last(within) if look_for_changes else None
            first = self._reads.last(thread.fence)
            # One connection's reads are answered in order by one copy: one round trip for all of them.
            second = self._reads.last(records) if one_copy else None
            last = await before if before is not None else None
            fence = await first
            if fence is None:
                return None, None, None
            record = await (second or self._reads.last(records))
            return fence, record, Seen(within, last.seq if last is not None else 0) if before else None

        return await self.patiently(read)

    async def everything(self, subject_filter: str) -> list[StoredMessage]:
        """Every message that matches, by sequence."""
        if not await self.has_one_copy():
            return await self._everything_by_leader(subject_filter)
        found: list[StoredMessage] = []
        more, from_seq = True, 1
        while more:
            page, more = await self.patiently(
                lambda from_seq=from_seq: self.js.direct_batch(  # type: ignore[misc]
                    self._stream, subject_filter, from_seq=from_seq
                )
            )
            found += page
            more = more and bool(page)
            from_seq = found[-1].seq + 1 if found else 1
        return found

    async def _everything_by_leader(self, subject_filter: str) -> list[StoredMessage]:
        subjects = await self.subjects(subject_filter)
        limit = asyncio.Semaphore(_READS_IN_FLIGHT)

        async def one(subject: str) -> StoredMessage | None:
            async with limit:
                return await self.patiently(lambda: self._last(subject))

        found = await asyncio.gather(*map(one, subjects))
        return sorted((message for message in found if message is not None), key=lambda message: message.seq)

    async def subjects(self, subject_filter: str) -> list[str]:
        """The subjects that match, by the leader's word."""
        subjects: dict[str, int] = {}
        while True:
            body = {"subjects_filter": subject_filter, "offset": len(subjects)}
            data = await self.patiently(
                lambda body=body: self.js.call(f"STREAM.INFO.{self._stream}", body)  # type: ignore[misc]
            )
            page = msgspec.json.decode(data, type=_Subjects)
            subjects |= page.state.subjects
            if not page.state.subjects or len(subjects) >= page.total:
                return list(subjects)

    async def pieces(self, thread: ThreadSubjects, wanted: Iterable[tuple[bytes, int]]) -> dict[bytes, bytes]:
        """The pieces that are wanted, each with its size at most; verified.

        Raises:
            CheckpointUnreadableError: a piece has other bytes than its name says.
        """
        found: dict[bytes, bytes] = {}
        for group in _groups(dict(wanted)):
            by_subject = {thread.piece(digest): digest for digest in group}
            messages = await self.patiently(
                lambda subjects=list(by_subject): self.js.direct_last(self._stream, subjects)  # type: ignore[misc]
            )
            seen = {message.subject for message in messages}
            for subject in by_subject.keys() - seen:
                # A copy may be behind, or an answer was cut off for its size.
                message = await self.patiently(
                    lambda subject=subject: self.js.last_message(self._stream, subject)  # type: ignore[misc]
                )
                if message is not None:
                    messages.append(message)
            for message in messages:
                digest = by_subject[message.subject]
                try:
                    found[digest] = unpack_piece(digest, message.data)
                except WireError as error:
                    raise CheckpointUnreadableError(message.subject, str(error)) from error
        return found

    # --- deleting

    async def purge(self, filters: Iterable[str], *, before_seq: int = 0) -> None:
        """Delete all that matches one of the filters; with ``before_seq``, what was stored before it."""
        limit = asyncio.Semaphore(_PURGES_IN_FLIGHT)
        bound = {"seq": before_seq} if before_seq else {}

        async def one(subject_filter: str) -> None:
            async with limit:
                body = {"filter": subject_filter, **bound}
                await self.patiently(lambda: self.js.call(f"STREAM.PURGE.{self._stream}", body))

        await asyncio.gather(*map(one, filters))


def _groups(wanted: dict[bytes, int]) -> Iterator[list[bytes]]:
    """What one request asks for."""
    group: list[bytes] = []
    size = 0
    for digest, bytes_max in wanted.items():
        if group and (len(group) >= _REQUEST_SUBJECTS or size + bytes_max > _REQUEST_BYTES):
            yield group
            group, size = [], 0
        group.append(digest)
        size += bytes_max
    if group:
        yield group
