"""Reading items: one by its name, or all below a prefix, in pages of many messages.

A stream with one copy answers direct gets coherently. With more copies any of them answers, and may be behind by a
moment; so the leader is asked for what came after the last page, and which subjects there are. What was stored before
a search begins is found by it, and what was deleted before is not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from cas_events.errors import MemoryUnreadableError, WireError
from cas_events.jetstream.checkpoints.stream import CheckpointStream
from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.memory import MemorySubjects, StoredItem, decode_item, decode_item_value
from cas_events.wire.pieces import Whole, wanted

_log = logging.getLogger(__name__)

PAGE_MESSAGES = 1000
_VALUES_IN_FLIGHT = 16
_TRIES_MAX = 10

T = TypeVar("T")

Found = tuple[StoredItem, int]
"""An item and the sequence of its message."""
Valued = tuple[StoredItem, int, dict[str, Any]]
"""The same, and its value."""


class ItemReader:
    """Reads a deployment's items.

    Args:
        stream: of checkpoints.
        subjects: of the memory.
    """

    def __init__(self, stream: CheckpointStream, subjects: MemorySubjects) -> None:
        self.stream = stream
        self.subjects = subjects

    async def find(self, subject: str) -> Found | None:
        """The item of a subject, whether or not it is over; None if there is none.

        Raises:
            MemoryUnreadableError: what is there is no item.
        """
        message = await self.stream.last(subject)
        return None if message is None else (decode_item(self.subjects, subject, message.data), message.seq)

    async def valued(self, found: Found | None) -> Valued | None:
        """An item with its value; if it is replaced at this moment, the newer one, and None if it is deleted.

        Raises:
            MemoryUnreadableError: a piece of it is lost.
        """
        problem: WireError | None = None
        for _ in range(_TRIES_MAX):
            if found is None:
                return None
            item, seq = found
            try:
                pieces = await self.stream.pieces(self.subjects.value(item.put), wanted(item.value))
                return item, seq, decode_item_value(item, pieces)
            except WireError as error:
                problem = error
            newer = await self.find(self.subjects.item(item.namespace, item.key))
            if newer is not None and newer[1] == seq:
                break
            found = newer
        raise MemoryUnreadableError(self.subjects.item(item.namespace, item.key), str(problem)) from problem

    async def valued_each(self, found: list[Found]) -> list[Valued]:
        """Items with their values, in order; one that has been deleted, or cannot be read, is left out."""
        limit = asyncio.Semaphore(_VALUES_IN_FLIGHT)

        async def fetched(each: Found) -> Valued | None:
            async with limit:
                try:
                    return await self.valued(each)
                except MemoryUnreadableError as error:
                    _log.warning("left out of a search: %s", error)
                    return None

        large = [each for each in found if isinstance(each[0].value, Whole)]
        values = dict(
            zip((item.put for item, _ in large), await asyncio.gather(*map(fetched, large)), strict=True)
        )
        each_valued = (
            values[item.put] if item.put in values else self._inline(item, seq) for item, seq in found
        )
        return [each for each in each_valued if each is not None]

    def _inline(self, item: StoredItem, seq: int) -> Valued | None:
        try:
            return item, seq, decode_item_value(item, {})
        except WireError as error:
            _log.warning("left out of a search: %s: %s", self.subjects.item(item.namespace, item.key), error)
            return None

    async def scan(self, subject_filter: str, look: Callable[[StoredItem, int], T | None]) -> list[T]:
        """What ``look`` makes of each item, by its message's sequence; None leaves it out.

        Items are read in pages, and nothing is kept of those that are left out. Bytes that are no item are left out
        with a warning.
        """
        kept: dict[str, T] = {}

        def take(message: StoredMessage) -> None:
            kept.pop(message.subject, None)  # An item that was replaced meanwhile comes a second time.
            try:
                seen = look(decode_item(self.subjects, message.subject, message.data), message.seq)
            except MemoryUnreadableError as error:
                _log.warning("left out of a search: %s", error)
                return
            if seen is not None:
                kept[message.subject] = seen

        if await self.stream.has_one_copy():
            await self._take_pages(subject_filter, 1, take)
        else:
            await self._take_coherently(subject_filter, take)
            present = set(await self.stream.subjects(subject_filter))
            kept = {subject: seen for subject, seen in kept.items() if subject in present}
        return list(kept.values())

    async def _take_pages(
        self, subject_filter: str, from_seq: int, take: Callable[[StoredMessage], None]
    ) -> int:
        """Read from a sequence to where the copy that answers ends; the sequence after that."""
        js, name = self.stream.js, self.stream.names.checkpoints
        more = True
        while more:
            page, more = await self.stream.patiently(
                lambda from_seq=from_seq: js.direct_batch(  # type: ignore[misc]
                    name, subject_filter, from_seq=from_seq, batch=PAGE_MESSAGES
                )
            )
            for message in page:
                take(message)
            more = more and bool(page)
            from_seq = page[-1].seq + 1 if page else from_seq
        return from_seq

    async def _take_coherently(self, subject_filter: str, take: Callable[[StoredMessage], None]) -> None:
        js, name = self.stream.js, self.stream.names.checkpoints
        from_seq = 1
        while True:
            from_seq = await self._take_pages(subject_filter, from_seq, take)
            message = await self.stream.patiently(
                lambda from_seq=from_seq: js.next_message(name, subject_filter, from_seq=from_seq)  # type: ignore[misc]
            )
            if message is None:
                return
            take(message)
            from_seq = message.seq + 1
