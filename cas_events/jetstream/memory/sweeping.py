"""Deleting what is over: items whose time has come, and pieces that a put which died left behind."""

from __future__ import annotations

import asyncio
import logging

from cas_events.errors import CasEventsError
from cas_events.jetstream.memory.reading import Found, ItemReader
from cas_events.jetstream.memory.writing import ItemWriter, now_us
from cas_events.wire.memory import StoredItem
from cas_events.wire.pieces import Whole

_log = logging.getLogger(__name__)

# No put is on its way for so long: what it stored for an item that never came belongs to nobody.
_ORPHAN_AGE_S = 3600.0
_ROUND_ITEMS = 1000


async def sweep(reader: ItemReader, writer: ItemWriter) -> int:
    """Read every item, and delete what is over.

    Returns:
        How many items were deleted.
    """
    over: list[Found] = []
    used: set[str] = set()
    now = now_us()

    def look(item: StoredItem, seq: int) -> None:
        if item.is_over(now):
            over.append((item, seq))
        if isinstance(item.value, Whole):
            used.add(item.put)

    # Pieces first: an item that is stored meanwhile is then seen with them.
    stored = {
        reader.subjects.put_of(each) for each in await reader.stream.subjects(reader.subjects.all_pieces)
    }
    await reader.scan(reader.subjects.within(()), look)
    for start in range(0, len(over), _ROUND_ITEMS):
        await asyncio.gather(*map(writer.drop, over[start : start + _ROUND_ITEMS]))
    lost = [put for put in stored - used if _age_s(put, now) > _ORPHAN_AGE_S]
    await reader.stream.purge(reader.subjects.value(put).everything for put in lost)
    return len(over)


async def sweep_forever(reader: ItemReader, writer: ItemWriter, interval_s: float) -> None:
    """Sweep at intervals, until it is cancelled; a sweep that fails is tried again at the next one."""
    while True:
        await asyncio.sleep(interval_s)
        try:
            count = await sweep(reader, writer)
        except CasEventsError as error:
            _log.warning("a sweep of long-term memory failed, the next is in %.0f s: %s", interval_s, error)
            continue
        if count:
            _log.info("swept %d items whose time had come from long-term memory", count)


def _age_s(put: str, now: int) -> float:
    """How old a put is, by its id; what has no time in it is old."""
    try:
        return now / 1_000_000 - int(put[:12], 16) / 1000
    except ValueError:
        return float("inf")
