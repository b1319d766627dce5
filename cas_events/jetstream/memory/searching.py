"""LangGraph's reading operations over stored items: get, search, and the listing of namespaces."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from datetime import UTC, datetime
from typing import Any

from langgraph.store.base import GetOp, Item, ListNamespacesOp, SearchItem, SearchOp

from cas_events.domain.memory import Namespace, listed, matches
from cas_events.errors import CasEventsError, WireError
from cas_events.jetstream.memory.reading import Found, ItemReader
from cas_events.jetstream.memory.writing import ItemWriter, now_us
from cas_events.wire.memory import StoredItem, decode_item_value
from cas_events.wire.pieces import Inline, Whole

_log = logging.getLogger(__name__)

_LARGE_AT_ONCE = 16
_DROPS_MAX = 500  # What one search deletes of what is over; the rest is a sweep's, or the next search's.


class Search:
    """The reading operations; what they find to be over is not given, and deleted.

    Args:
        reader: of items.
        writer: of the same.
    """

    def __init__(self, reader: ItemReader, writer: ItemWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._subjects = reader.subjects

    async def get(self, op: GetOp) -> Item | None:
        """An item by its name."""
        found = await self._reader.valued(await self._reader.find(self._subjects.item(op.namespace, op.key)))
        if found is None:
            return None
        item, seq, value = found
        if item.is_over(now_us()):
            self._drop([(item, seq)])
            return None
        if op.refresh_ttl:
            await self._refresh([(item, seq)])
        return Item(value=value, **_names_and_times(item))

    async def search(self, op: SearchOp) -> list[SearchItem]:
        """Items below a prefix that a filter lets through, the one updated last first; a query ranks nothing."""
        over: list[Found] = []
        now = now_us()

        def look(item: StoredItem, seq: int) -> Found | None:
            if item.is_over(now):
                if len(over) < _DROPS_MAX:
                    over.append((item, seq))
                return None
            if op.filter and isinstance(item.value, Inline) and not _passes(item, op.filter):
                return None
            return item, seq

        found = await self._reader.scan(self._subjects.within(op.namespace_prefix), look)
        self._drop(over)
        if op.filter:
            large = [each for each in found if isinstance(each[0].value, Whole)]
            found = [each for each in found if isinstance(each[0].value, Inline)]
            for start in range(0, len(large), _LARGE_AT_ONCE):  # Only so many are in memory.
                valued = await self._reader.valued_each(large[start : start + _LARGE_AT_ONCE])
                found += [(item, seq) for item, seq, value in valued if matches(value, op.filter)]
        found.sort(key=lambda each: (each[0].updated_us, each[1]), reverse=True)
        results = await self._reader.valued_each(found[op.offset : op.offset + op.limit])
        if op.refresh_ttl:
            await self._refresh((item, seq) for item, seq, _ in results)
        return [SearchItem(value=value, **_names_and_times(item)) for item, _, value in results]

    async def namespaces(self, op: ListNamespacesOp) -> list[Namespace]:
        """The namespaces that have items."""
        conditions = [(each.match_type, tuple(each.path)) for each in op.match_conditions or ()]
        prefixes = [path for kind, path in conditions if kind == "prefix"]
        longest = max(prefixes, key=len, default=())
        found = await self._namespaces(self._subjects.within(longest, wildcards=True))
        return listed(found, conditions, max_depth=op.max_depth, limit=op.limit, offset=op.offset)

    async def _namespaces(self, subject_filter: str) -> set[Namespace]:
        """By their subjects alone, as long as nothing expires and every name is in full there."""
        if await self._reader.stream.last(self._subjects.expiry) is None:
            named, hashed = self._named(await self._reader.stream.subjects(subject_filter))
            if not hashed:
                return named
        now = now_us()
        return set(
            await self._reader.scan(
                subject_filter, lambda item, _: None if item.is_over(now) else item.namespace
            )
        )

    def _named(self, subjects: Iterable[str]) -> tuple[set[Namespace], bool]:
        named, hashed = set(), False
        for subject in subjects:
            try:
                namespace = self._subjects.namespace_of(subject)
            except ValueError:
                _log.warning("left out of a listing: %s is no subject of an item", subject)
                continue
            if namespace is None:
                hashed = True
            else:
                named.add(namespace)
        return named, hashed

    async def _refresh(self, found: Iterable[Found]) -> None:
        """What was read was read, whether or not its lifetime could begin anew."""
        mortal = [each for each in found if each[0].ttl_s]
        outcomes = await asyncio.gather(*map(self._writer.refresh, mortal), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, CasEventsError):
                _log.warning("the lifetime of an item was not refreshed: %s", outcome)
            elif isinstance(outcome, BaseException):
                raise outcome

    def _drop(self, over: list[Found]) -> None:
        if over:
            self._reader.stream.start(_logged(self._drop_each(over)))

    async def _drop_each(self, over: list[Found]) -> None:
        for found in over:
            await self._writer.drop(found)


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except CasEventsError as error:
        _log.info("items that are over were not deleted, which the next search or sweep does: %s", error)


def _passes(item: StoredItem, wanted: dict[str, Any]) -> bool:
    try:
        return matches(decode_item_value(item, {}), wanted)
    except WireError as error:
        _log.warning("left out of a search: %r in %r: %s", item.key, item.namespace, error)
        return False


def _names_and_times(item: StoredItem) -> dict[str, Any]:
    return {
        "key": item.key,
        "namespace": item.namespace,
        "created_at": datetime.fromtimestamp(item.created_us / 1_000_000, UTC),
        "updated_at": datetime.fromtimestamp(item.updated_us / 1_000_000, UTC),
    }
