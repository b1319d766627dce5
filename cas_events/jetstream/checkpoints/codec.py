"""Checkpoints and writes to records and back, with LangGraph's serializer.

Lists are stored item by item where the serializer is LangGraph's own; what another one makes of an item, an encrypting
one for example, is new each time, so there a list is one value. Reading takes nothing on trust: only the forms that
this module writes are handed to the serializer, and LangGraph's own is strict unless the caller chose otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from cas_events.errors import WireError
from cas_events.jetstream.checkpoints.views import Version
from cas_events.wire.pieces import (
    INLINE_BYTES,
    Inline,
    Items,
    Pieces,
    Typed,
    Value,
    Whole,
    decode_entry,
    encode_items,
    encode_value,
)

_SCALARS = (int, float, bool, type(None))
_OWN_TYPES = frozenset({"null", "bytes", "bytearray", "msgpack"})
_MANY_ITEMS = 256
_SMALL_ITEM_BYTES = 64


def encode(value: Any, serde: SerializerProtocol, pieces: Pieces) -> Value:
    """A value's form in a record; pieces that it needs are added to ``pieces``."""
    if type(value) is list and isinstance(serde, JsonPlusSerializer) and _is_itemised(value, serde):
        items = [serde.dumps_typed(item) for item in value]
        if sum(len(data) for _, data in items) > INLINE_BYTES:
            return encode_items(items, pieces)
    return encode_value(serde.dumps_typed(value), pieces)


def _is_itemised(value: list[Any], serde: SerializerProtocol) -> bool:
    """Whether the items are worth being told apart; a list of many small ones is not."""
    if len(value) < 2:
        return bool(value)
    if isinstance(value[0], _SCALARS) or isinstance(value[-1], _SCALARS):
        return False
    return len(value) < _MANY_ITEMS or len(serde.dumps_typed(value[-1])[1]) >= _SMALL_ITEM_BYTES


def encode_whole(value: Any, serde: SerializerProtocol, pieces: Pieces) -> Inline | Whole:
    """As `encode`, for what is no channel's value; it stays inline unless it is too large for any message."""
    return encode_value(serde.dumps_typed(value), pieces, inline_bytes=128 * 1024)


def decode(value: Value, serde: SerializerProtocol, pieces: Mapping[bytes, bytes]) -> Any:
    """The value of its form in a record.

    Raises:
        WireError: it is not one that `encode` makes.
    """
    if not isinstance(value, Items):
        return _loads(decode_entry(value, pieces), serde)
    items = []
    for entry in value.entries:
        if not isinstance(entry, Inline | Whole):
            raise WireError("a page of a list is not unfolded")
        items.append(_loads(decode_entry(entry, pieces), serde))
    return items


def _loads(typed: Typed, serde: SerializerProtocol) -> Any:
    if isinstance(serde, JsonPlusSerializer) and typed[0] not in _OWN_TYPES and not serde.pickle_fallback:
        raise WireError(f"a value of type {typed[0][:40]!r}, which is never written here")
    try:
        return serde.loads_typed(typed)
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise WireError(f"a value that does not decode: {error}") from error


def encode_values(
    values: Mapping[str, Any],
    versions: Mapping[str, Version],
    new_versions: Mapping[str, Version],
    before: Mapping[str, tuple[Version, Value | None]],
    serde: SerializerProtocol,
    pieces: Pieces,
) -> dict[str, tuple[Version, Value | None]]:
    """Each channel's version and value: encoded if it is new, taken over from before if it is not.

    Args:
        values: of the checkpoint.
        versions: of all its channels.
        new_versions: of those that changed.
        before: the same of the checkpoint before it.
        serde: the serializer.
        pieces: what has to be stored besides the record is added here.
    """
    found: dict[str, tuple[Version, Value | None]] = {}
    for channel, version in {**versions, **new_versions}.items():
        if channel not in versions:
            continue
        known = before.get(channel)
        if channel not in new_versions and known is not None and known[0] == version:
            found[channel] = known
        elif channel in values:
            found[channel] = (version, encode(values[channel], serde, pieces))
        else:
            found[channel] = (version, None)
    return found
