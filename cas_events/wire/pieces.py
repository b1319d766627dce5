"""How the values of a checkpoint become bytes in messages, and bytes become values again: pure.

A *typed* value is what a LangGraph serializer makes of an object: a type's name and bytes. A small one stays inline
in the record. Of a larger one the record holds the hashes of its pieces: parts of at most `PIECE_BYTES`, each stored
once per thread under its own hash. A list is stored item by item, so that what a conversation keeps from step to step
is stored once; a long list's entries are gathered into pages, which are pieces too, with borders that depend on the
entries alone, so that appending to a list leaves its older pages as they are.

What is read is not trusted: everything is decoded into closed types, a piece must have the hash that names it, and
nothing unpacks to more than its limit.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from cas_events.errors import WireError

Typed = tuple[str, bytes]

PIECE_BYTES = 512 * 1024
INLINE_BYTES = 1024
ITEM_INLINE_BYTES = 256
HASH_BYTES = 16
BODY_BYTES_MAX = 64 * 1024 * 1024

_PAGE_ENTRIES_MIN = 16
_PAGE_ENTRIES_MAX = 256
_PAGE_BORDER_MASK = 31
_PAGE_BYTES = 32 * 1024  # What a page has at most, for the size of a request.
_COMPRESS_FROM_BYTES = 1024
_RAW, _ZLIB, _MOVED = 0, 1, 2
_TYPE_CODES = {"msgpack": ""}
_TYPE_NAMES = {code: name for name, code in _TYPE_CODES.items()}


class Inline(msgspec.Struct, frozen=True, array_like=True, tag=0, gc=False):
    """A typed value as it is; ``kind`` is its type, written as nothing if it is ``msgpack``."""

    kind: str
    data: bytes


class Whole(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """A typed value in pieces: its size and the hashes of its parts, one after the other."""

    kind: str
    size: int
    hashes: bytes

    def parts(self) -> Iterator[bytes]:
        """The hash of each part, in order."""
        for at in range(0, len(self.hashes), HASH_BYTES):
            yield self.hashes[at : at + HASH_BYTES]


class Page(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """A run of a list's entries, in a piece of its own."""

    hash: bytes


class Items(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A list, item by item."""

    entries: list[Inline | Whole | Page]


Entry = Inline | Whole
Value = Inline | Whole | Items
Pieces = dict[bytes, bytes]
"""Bytes by their hash, in the order in which they are to be stored."""

_encode = msgspec.msgpack.Encoder().encode
_decode_page = msgspec.msgpack.Decoder(list[Inline | Whole]).decode
_decode_moved = msgspec.msgpack.Decoder(Whole).decode


# --- values


def encode_value(typed: Typed, pieces: Pieces, *, inline_bytes: int = INLINE_BYTES) -> Entry:
    """A value's form in a record; what it is too large for is added to ``pieces``."""
    type_, data = typed
    code = _TYPE_CODES.get(type_, type_)
    if len(data) <= inline_bytes:
        return Inline(code, data)
    return Whole(code, len(data), b"".join(add_pieces(data, pieces)))


def encode_items(items: Sequence[Typed], pieces: Pieces) -> Items:
    """A list's form in a record."""
    entries: list[Inline | Whole | Page] = []
    tail: list[Entry] = []
    for typed in items:
        entry = encode_value(typed, pieces, inline_bytes=ITEM_INLINE_BYTES)
        tail.append(entry)
        if len(tail) >= _PAGE_ENTRIES_MIN and (len(tail) >= _PAGE_ENTRIES_MAX or _is_border(entry)):
            entries.append(_page(tail, pieces))
            tail = []
    return Items([*entries, *tail])


def _is_border(entry: Entry) -> bool:
    content = entry.hashes if isinstance(entry, Whole) else entry.data
    return zlib.crc32(content) & _PAGE_BORDER_MASK == 0


def _page(entries: list[Entry], pieces: Pieces) -> Page:
    (digest,) = add_pieces(_encode(entries), pieces)
    return Page(digest)


def add_pieces(data: bytes, pieces: Pieces) -> list[bytes]:
    """Cut bytes into pieces; their hashes."""
    digests = []
    for at in range(0, len(data), PIECE_BYTES) or (0,):
        part = data[at : at + PIECE_BYTES]
        digest = hash_of(part)
        pieces[digest] = part
        digests.append(digest)
    return digests


def hash_of(part: bytes) -> bytes:
    """The name of a piece."""
    return hashlib.blake2b(part, digest_size=HASH_BYTES).digest()


def wanted(value: Value) -> Iterator[tuple[bytes, int]]:
    """The pieces that a value needs, pages first of all, each with the bytes that it has at most."""
    if isinstance(value, Whole):
        for digest in value.parts():
            yield digest, min(value.size, PIECE_BYTES)
    elif isinstance(value, Items):
        for entry in value.entries:
            if isinstance(entry, Page):
                yield entry.hash, _PAGE_BYTES
            else:
                yield from wanted(entry)


def pages_of(value: Value) -> Iterator[tuple[bytes, int]]:
    """The pages among them: what `unfold` needs."""
    if isinstance(value, Items):
        for entry in value.entries:
            if isinstance(entry, Page):
                yield entry.hash, _PAGE_BYTES


def unfold(value: Value, pieces: Mapping[bytes, bytes]) -> Value:
    """The same value with the entries of its pages in their place.

    Raises:
        WireError: a page is missing, or is none.
    """
    if not isinstance(value, Items):
        return value
    entries: list[Inline | Whole | Page] = []
    for entry in value.entries:
        if isinstance(entry, Page):
            entries += _decoded_page(_piece(entry.hash, pieces))
        else:
            entries.append(entry)
    return Items(entries)


def _decoded_page(data: bytes) -> list[Inline | Whole]:
    try:
        return _decode_page(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a page of a list: {error}") from error


def decode_entry(entry: Inline | Whole, pieces: Mapping[bytes, bytes]) -> Typed:
    """The typed value of an entry.

    Raises:
        WireError: a piece is missing, or has another size.
    """
    type_ = _TYPE_NAMES.get(entry.kind, entry.kind)
    if isinstance(entry, Inline):
        return type_, entry.data
    return type_, join_pieces(entry, pieces)


def join_pieces(whole: Whole, pieces: Mapping[bytes, bytes]) -> bytes:
    """The bytes of a value in pieces.

    Raises:
        WireError: a piece is missing, or has another size.
    """
    data = b"".join(_piece(digest, pieces) for digest in whole.parts())
    if len(data) != whole.size:
        raise WireError(f"a value of {whole.size} bytes has {len(data)}")
    return data


def _piece(digest: bytes, pieces: Mapping[bytes, bytes]) -> bytes:
    try:
        return pieces[digest]
    except KeyError:
        raise WireError(f"piece {digest.hex()} is missing") from None


# --- message bodies


def pack(body: bytes) -> bytes:
    """A body as the payload of a message, compressed if that saves a tenth."""
    if len(body) >= _COMPRESS_FROM_BYTES:
        compressed = zlib.compress(body, 1)
        if len(compressed) < len(body) * 0.9:
            return bytes((_ZLIB,)) + compressed
    return bytes((_RAW,)) + body


def pack_or_move(body: bytes, pieces: Pieces) -> bytes:
    """As `pack`; a body that is too large for a message is moved to pieces, and the payload says which."""
    if len(body) <= PIECE_BYTES:
        return pack(body)
    return bytes((_MOVED,)) + _encode(Whole("", len(body), b"".join(add_pieces(body, pieces))))


def moved(payload: bytes) -> Whole | None:
    """Where the body of a payload was moved to; None if it is in the payload.

    Raises:
        WireError: the payload is not one of ours.
    """
    if not payload or payload[0] != _MOVED:
        return None
    try:
        whole = _decode_moved(payload[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a reference to pieces: {error}") from error
    if whole.size > BODY_BYTES_MAX:
        raise WireError(f"a body of {whole.size} bytes, over the limit of {BODY_BYTES_MAX}")
    return whole


def unpack(payload: bytes, *, limit_bytes: int = PIECE_BYTES) -> bytes:
    """The body of a payload.

    Raises:
        WireError: it is not one of ours, or unpacks to more than ``limit_bytes``.
    """
    format_ = payload[0] if payload else None
    if format_ == _RAW:
        return payload[1:]  # No larger than a message.
    if format_ != _ZLIB:
        raise WireError(f"a payload of {len(payload)} bytes in the unknown format {format_}")
    inflater = zlib.decompressobj()
    try:
        body = inflater.decompress(payload[1:], limit_bytes + 1)
    except zlib.error as error:
        raise WireError(f"a payload that does not decompress: {error}") from error
    if len(body) > limit_bytes or not inflater.eof:
        raise WireError(f"a payload that decompresses to more than {limit_bytes} bytes, or is cut off")
    return body


def unpack_piece(digest: bytes, payload: bytes) -> bytes:
    """The bytes of a piece.

    Raises:
        WireError: they are not those that its name says.
    """
    part = unpack(payload)
    if hash_of(part) != digest:
        raise WireError(f"piece {digest.hex()} has other bytes than its name says")
    return part
