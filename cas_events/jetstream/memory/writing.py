"""Writing items: every put replaces exactly the item that it has read.

The last write wins. A put expects the item where it has read it, and reads again when somebody was faster; so an
item's `created_at` survives every put, and the pieces of a large value are deleted by the one put that replaced it.
Pieces go before the item that names them, under the id of their put alone: a writer that dies leaves the old item
whole, and pieces that `sweeping` finds. An answer that was lost is settled by the item, which has the id of its put.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from cas_events.errors import (
    ConnectionLostError,
    MemoryUnreadableError,
    NotConnectedError,
    WrongLastSequenceError,
)
from cas_events.jetstream.batches import Outgoing, append_each
from cas_events.jetstream.memory.reading import Found, ItemReader
from cas_events.wire.memory import StoredItem, decode_item, encode_item, encode_item_value
from cas_events.wire.pieces import Pieces, Whole, pack

_TIMEOUT_S = 5.0
_DELAY_S = 0.002
_DELAY_MAX_S = 0.5
_WAVE_BYTES = 8 * 1024 * 1024
_COMPRESS_ELSEWHERE_BYTES = 256 * 1024
# A refresh that would move the end by less than this share of the lifetime is not worth a write.
_REFRESH_SHARE = 0.01


def now_us() -> int:
    """Now, microseconds since the epoch, by this machine's clock."""
    return time.time_ns() // 1000


def new_put_id() -> str:
    """An id that begins with the time in milliseconds, twelve hexadecimal digits."""
    return f"{time.time_ns() // 1_000_000:012x}{uuid.uuid4().hex[:20]}"


class ItemWriter:
    """Writes a deployment's items.

    Args:
        reader: of the same items.
    """

    def __init__(self, reader: ItemReader) -> None:
        self._stream = reader.stream
        self._subjects = reader.subjects
        self._says_expiry = False
        # Puts of this process on one item wait for each other, instead of trying in vain.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def put(
        self, namespace: tuple[str, ...], key: str, value: Mapping[str, Any], ttl_s: float | None
    ) -> None:
        """Store an item, in place of the one that has its name.

        Raises:
            MemoryNameError, MemoryValueError: it cannot be stored.
            ServerError: not stored, or not known to be.
        """
        subject = self._subjects.item(namespace, key)
        pieces: Pieces = {}
        entry = encode_item_value(namespace, key, value, pieces)
        put_id = new_put_id()
        if ttl_s is not None:
            await self._say_expiry()
        await self._store_pieces(put_id, pieces)
        lock = self._locks.setdefault(subject, asyncio.Lock())
        async with lock:
            now = now_us()
            item = StoredItem(
                namespace=namespace,
                key=key,
                put=put_id,
                created_us=now,
                updated_us=now,
                ttl_s=0 if ttl_s is None else ttl_s,
                expires_us=0 if ttl_s is None else max(1, now + round(ttl_s * 1_000_000)),
                value=entry,
            )
            await self._replace(subject, item)

    async def _replace(self, subject: str, item: StoredItem) -> None:
        """Store an item under the condition that it replaces what was read, until it does."""
        deadline_s = time.monotonic() + self._stream.patience_s
        delay_s = _DELAY_S
        while True:
            old, old_seq = await self._old(subject)
            if old is not None and old.put == item.put:
                return  # An earlier try, whose answer was lost.
            # Clocks differ between machines: an item is never older than what it replaces.
            newest = item
            if old is not None and not old.is_over(item.updated_us):
                updated = max(item.updated_us, old.updated_us)
                newest = msgspec.structs.replace(item, created_us=old.created_us, updated_us=updated)
            try:
                await self._stream.js.append(
                    subject, encode_item(newest), expected_last_seq=old_seq, timeout_s=_TIMEOUT_S
                )
            except (WrongLastSequenceError, ConnectionLostError, NotConnectedError):
                if time.monotonic() + delay_s > deadline_s:
                    raise
                await asyncio.sleep(delay_s * (0.5 + random.random()))  # noqa: S311 - spreads tries
                delay_s = min(delay_s * 2, _DELAY_MAX_S)
                continue
            if old is not None:
                await self.drop_value(old)
            return

    async def _old(self, subject: str) -> tuple[StoredItem | None, int]:
        """What a put replaces; of what is no item, only where it is."""
        message = await self._stream.last(subject)
        if message is None:
            return None, 0
        try:
            return decode_item(self._subjects, subject, message.data), message.seq
        except MemoryUnreadableError:
            return None, message.seq

    async def _store_pieces(self, put_id: str, pieces: Pieces) -> None:
        place = self._subjects.value(put_id)
        for wave in _waves(pieces):
            if sum(map(len, wave.values())) > _COMPRESS_ELSEWHERE_BYTES:
                payloads = await asyncio.to_thread(lambda wave=wave: list(map(pack, wave.values())))  # type: ignore[misc]
            else:
                payloads = list(map(pack, wave.values()))
            messages = [
                Outgoing(place.piece(digest), payload) for digest, payload in zip(wave, payloads, strict=True)
            ]
            await self._stream.patiently(
                lambda messages=messages: append_each(self._stream.js, messages, timeout_s=_TIMEOUT_S)  # type: ignore[misc]
            )

    async def _say_expiry(self) -> None:
        """Before the first item that expires: listings of namespaces read items from then on."""
        if not self._says_expiry:
            subject = self._subjects.expiry
            if await self._stream.last(subject) is None:
                await self._stream.patiently(lambda: self._stream.js.append(subject, b"{}"))
            self._says_expiry = True

    # --- deleting

    async def delete(self, namespace: tuple[str, ...], key: str) -> None:
        """Delete an item, if there is one; one that is put meanwhile may stay."""
        subject = self._subjects.item(namespace, key)
        old, old_seq = await self._old(subject)
        if old_seq:
            await self._stream.purge([subject], before_seq=old_seq + 1)
        if old is not None:
            await self.drop_value(old)

    async def drop(self, found: Found) -> None:
        """Delete an item as it was read; a newer one under its name stays."""
        item, seq = found
        await self._stream.purge([self._subjects.item(item.namespace, item.key)], before_seq=seq + 1)
        await self.drop_value(item)

    async def drop_value(self, item: StoredItem) -> None:
        """Delete the pieces of an item that has been replaced or deleted."""
        if isinstance(item.value, Whole):
            await self._stream.purge([self._subjects.value(item.put).everything])

    # --- lifetimes

    async def refresh(self, found: Found) -> None:
        """Let an item's lifetime begin anew, unless somebody has written it meanwhile."""
        item, seq = found
        expires_us = now_us() + round(item.ttl_s * 1_000_000)
        if not item.ttl_s or expires_us - item.expires_us < item.ttl_s * 1_000_000 * _REFRESH_SHARE:
            return
        subject = self._subjects.item(item.namespace, item.key)
        payload = encode_item(msgspec.structs.replace(item, expires_us=expires_us))
        try:
            await self._stream.patiently(
                lambda: self._stream.js.append(subject, payload, expected_last_seq=seq, timeout_s=_TIMEOUT_S)
            )
        except WrongLastSequenceError:
            return  # Written, deleted or refreshed by another, or by a try whose answer was lost.


def _waves(pieces: Pieces) -> Iterator[Pieces]:
    """What is sent at once."""
    wave: Pieces = {}
    for digest, part in pieces.items():
        if wave and sum(map(len, wave.values())) + len(part) > _WAVE_BYTES:
            yield wave
            wave = {}
        wave[digest] = part
    if wave:
        yield wave
