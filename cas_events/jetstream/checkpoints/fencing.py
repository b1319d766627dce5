"""Writing under the fence of a thread: everything stored is stored while the fence is this writer's (PROTOCOL section 9).

The first thing that a writer stores is the fence, expecting it where it was read, and the thread as it was read: who
held the fence then may have gone on to write under it. Everything else has the fence's sequence as its condition. What
is stored while something is on its way waits and goes out together. What is named goes before what names it: pieces
before records and writes, so a crash never leaves a record without its pieces.

With more than one replica the server takes one write per fence at a time (10164), so all of it goes as one atomic
batch, the fence included. A filter as a condition is blind there for what is on its way, but nothing of the thread is
on its way while the fence is no other write's condition. With one replica a batch costs far more than its messages
(`batches`). There, a little that is stored first goes right behind the fence, linked to it, in the same round trip; else
pieces and the rest go one after the other, each wave pipelined; and once the fence is held, what is stored at the same
time goes side by side.

No answer is settled by evidence: the fence is moved if it has this writer's name; anything else may be sent again, as
messages replace themselves.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from cas_events.errors import (
    CheckpointFencedError,
    ConnectionLostError,
    NotConnectedError,
    RefusedError,
    ThreadNotNewError,
    WrongLastSequenceError,
)
from cas_events.jetstream.batches import (
    UNFINISHED,
    Outgoing,
    append_each,
    append_linked,
    append_together,
)
from cas_events.jetstream.checkpoints.groups import Group, look_at, next_groups, parts_of, settle, size_of
from cas_events.jetstream.checkpoints.stream import CheckpointStream, Seen
from cas_events.wire.checkpoints import Fence, decode_fence, encode_fence
from cas_events.wire.threads import ThreadSubjects

# Linked to the fence; each costs the server a name to remember, and all are sent again if another writer comes between.
_LINKED_MESSAGES = 8
_LINKED_BYTES = 128 * 1024
_TIMEOUT_S = 5.0
_IN_FLIGHT = 10164
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
_DELAY_S = 0.002
_DELAY_MAX_S = 0.5


class FencedWriter:
    """Stores messages of one thread, one batch after another.

    Args:
        stream: of the checkpoints.
        subjects: of the thread.
        thread_id: the thread, for errors.
        fence_seq: the fence as it was read; 0 if there was none.
        fence: what the fence shall say.
        on_failure: called when something was not stored.

    Attributes:
        fence_seq: the fence as this writer knows it.
        is_holder: whether this writer has moved it there.
        is_first: whether nobody had the fence before this writer, which has stored nothing else yet: the thread is
            empty, since nothing is stored in one without a fence.
        seen: how far the thread had come when what is to be continued was read; None if nothing was.
        is_assumed_new: whether that is not known, but will turn out when something is stored.
        error: why nothing more can be written; None while all is well.
    """

    def __init__(
        self,
        stream: CheckpointStream,
        subjects: ThreadSubjects,
        thread_id: str,
        fence_seq: int,
        fence: Fence,
        on_failure: Callable[[], None],
    ) -> None:
        self.fence_seq = fence_seq
        self.is_holder = False
        self.is_first = False
        self.seen: Seen | None = None
        self.is_assumed_new = False
        self.error: CheckpointFencedError | None = None
        self._stream = stream
        self._subjects = subjects
        self._thread_id = thread_id
        self._fence = msgspec.structs.replace(fence, writer=uuid.uuid4().hex)
        self._on_failure = on_failure
        self._deferred: list[Outgoing] = []
        self._queue: deque[Group] = deque()
        self._flushing: asyncio.Task[None] | None = None

    @property
    def is_deferring(self) -> bool:
        """Whether something waits for the next `store`."""
        return bool(self._deferred)

    def assume_new(self) -> None:
        """Begin as if nobody had ever had the thread; the first `store` fails if somebody has."""
        self.is_first = self.is_assumed_new = True

    def defer(self, messages: list[Outgoing]) -> None:
        """Take messages that are of no use without those that will be stored next, and go right before them."""
        self._deferred += messages

    async def store(self, messages: list[Outgoing]) -> None:
        """Store messages, the last one last; what others store at this moment goes along.

        Raises:
            CheckpointFencedError: another writer has the thread; nothing was stored.
            ServerError: not stored, or not known to be.
        """
        if self.error is not None:
            raise self.error
        self.is_first = False
        messages, self._deferred = [*self._deferred, *messages], []
        if self.is_holder and await self._stream.has_one_copy():
            await self._store_at_once(messages)
            return
        group = Group(messages, self._stream.loop.create_future())
        group.future.add_done_callback(look_at)
        self._queue.append(group)
        if self._flushing is None:
            self._flushing = self._stream.start(self._flush())
        await group.future  # It is this caller's alone: who is cancelled does not stop what is on its way.

    async def _store_at_once(self, messages: list[Outgoing]) -> None:
        """Store beside whatever else is on its way, and without a task for it.

        A caller that is cancelled leaves its last messages sent or unsent, and nothing counts as stored.
        """
        try:
            for part in parts_of(messages):
                await self._send(part)
        except BaseException as error:
            self._on_failure()
            if isinstance(error, CheckpointFencedError):
                self.error = error
            raise

    async def take(self) -> None:
        """Move the fence now, again if it is this writer's already: every other view of the thread is void then."""
        while self._flushing is not None:
            await asyncio.wait([self._flushing])
        self.is_holder, self.seen = False, None
        self._fence = msgspec.structs.replace(self._fence, writer=uuid.uuid4().hex)
        was_unfenced = self.fence_seq == 0
        await self.store([])
        self.is_first = was_unfenced

    async def _flush(self) -> None:
        """Send until nothing waits. What cannot be stored fails together with all that waits behind it."""
        groups: list[Group] = []
        try:
            while self._queue:
                groups = next_groups(self._queue)
                for part in parts_of([message for group in groups for message in group.messages]):
                    await self._send(part)
                for group in groups:
                    settle(group.future, None)
                groups = []
        except BaseException as error:
            self._on_failure()
            if isinstance(error, CheckpointFencedError):
                self.error = error
            for group in (*groups, *self._queue):
                settle(group.future, error)
            self._queue.clear()
            if not isinstance(error, Exception):
                raise
        finally:
            self._flushing = None

    async def _send(self, messages: Sequence[Outgoing]) -> None:
        deadline_s = time.monotonic() + self._stream.patience_s
        delay_s = _DELAY_S
        while True:
            try:
                return await self._send_once(messages)
            except WrongLastSequenceError as error:
                if error.err_code != _IN_FLIGHT:
                    if not await self._may_go_on():
                        raise await self._fenced() from error
                    if self.is_holder and not await self._stream.has_one_copy():
                        return None  # The whole batch was stored.
                    continue
                failure: Exception = error
                self._stream.look_again()  # There may be more copies than there were.
            except (ConnectionLostError, NotConnectedError) as error:
                failure = error
            except RefusedError as error:
                if error.err_code not in UNFINISHED:
                    raise
                failure = error
            if time.monotonic() + delay_s > deadline_s:
                raise failure
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, _DELAY_MAX_S)

    async def _send_once(self, messages: Sequence[Outgoing]) -> None:
        if await self._stream.has_one_copy():
            await self._send_in_waves(messages)
        else:
            await self._send_together(messages)

    async def _send_in_waves(self, messages: Sequence[Outgoing]) -> None:
        """The fence, then pieces, then what names them; each wave when the one before it is stored."""
        piece = self._subjects.all_pieces.removesuffix("*")
        waves: tuple[list[Outgoing], ...] = ([], [])
        for message in messages:
            waves[not message.subject.startswith(piece)].append(message)
        stored = 0 if self.is_holder else await self._take_with([*waves[0], *waves[1]])
        condition = self._condition()
        for wave in waves:
            left = [message._replace(headers=condition) for message in wave[stored:]]
            stored -= min(stored, len(wave))
            if left:
                await append_each(self._stream.js, left, timeout_s=_TIMEOUT_S)

    async def _take_with(self, messages: Sequence[Outgoing]) -> int:
        """Move the fence, and store as many of the messages as can go right behind it; how many those are."""
        is_little = len(messages) <= _LINKED_MESSAGES and size_of(messages) <= _LINKED_BYTES
        linked = messages if is_little else ()
        link = self._fence.writer
        ack, stored = await append_linked(
            self._stream.js, [self._fence_message(), *linked], link, timeout_s=_TIMEOUT_S
        )
        self.fence_seq = ack.seq
        self.is_holder = True
        return stored - 1

    async def _send_together(self, messages: Sequence[Outgoing]) -> None:
        """One atomic batch, since only one write per fence may be on its way."""
        js = self._stream.js
        if self.is_holder:
            first, *rest = messages
            await append_together(
                js, [first._replace(headers=self._condition()), *rest], timeout_s=_TIMEOUT_S
            )
            return
        if self.seen is not None and messages:
            first, *rest = messages
            messages = [first._replace(headers=_condition(*self.seen)), *rest]
        ack = await append_together(js, [self._fence_message(), *messages], timeout_s=_TIMEOUT_S)
        self.fence_seq = ack.seq - len(messages)
        self.is_holder = True

    def _fence_message(self) -> Outgoing:
        headers = self._condition()
        if self.seen is not None and self.seen.within == self._subjects.everything:
            # With one copy a filter is as exact as a subject; this one covers the fence.
            headers = _condition(*self.seen)
        return Outgoing(self._subjects.fence, encode_fence(self._fence), headers)

    def _condition(self) -> tuple[tuple[str, str], ...]:
        return _condition(self._subjects.fence, self.fence_seq)

    async def _may_go_on(self) -> bool:
        """Whether a refusal means nothing: an earlier try is what is in the way, or what this thread's runs do not read."""
        return not self.is_holder and (await self._has_moved_fence() or await self._is_as_seen())

    async def _has_moved_fence(self) -> bool:
        """Whether an earlier try, whose answer was lost, has stored everything."""
        found = await self._stream.last(self._subjects.fence)
        if found is None or decode_fence(found.data).writer != self._fence.writer:
            return False
        self.fence_seq = found.seq
        self.is_holder = True
        return True

    async def _is_as_seen(self) -> bool:
        """Whether only the line of tasks has changed since the thread was read; what is seen is then as of now."""
        seen = self.seen
        if seen is None or seen.within != self._subjects.everything:
            return False
        newest = await self._stream.last(seen.within)
        content = await self._stream.last(self._subjects.contents)
        fence = await self._stream.last(self._subjects.fence)
        if fence is None or fence.seq != self.fence_seq or (content is not None and content.seq > seen.seq):
            return False
        self.seen = Seen(seen.within, newest.seq if newest is not None else 0)
        return True

    async def _fenced(self) -> CheckpointFencedError:
        found = await self._stream.last(self._subjects.fence)
        holder = str(decode_fence(found.data)) if found is not None else "nobody (the fence is gone)"
        if self.is_assumed_new and not self.is_holder:
            return ThreadNotNewError(self._thread_id, holder)
        return CheckpointFencedError(self._thread_id, holder)


def _condition(subject: str, seq: int) -> tuple[tuple[str, str], ...]:
    return (_EXPECTED, str(seq)), (_EXPECTED_SUBJECT, subject)
