"""Long-term memory in the stream of checkpoints: its subjects, and what an item is in bytes. Pure.

Below ``<deployment>.ckpt.~store``, each subject holding one message at most; ``~store`` can be no thread's token, since
those have no ``~`` (`wire.threads.token_of`):

- ``i.<label>….<key>``: an item, with the labels of its namespace and its key as tokens;
- ``v.<put>.p.<hash>``: a piece of a value that is too large for its item, stored for one put and deleted with it;
- ``x``: there are, or were, items that expire.

An item is MessagePack with named members, closed types only: what is decoded is plain data, and no classes are
constructed. Its namespace and key are in it, since long ones are hashes in the subject, and must be those of the
subject.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cas_events.domain.memory import ANY_LABEL, Namespace
from cas_events.errors import MemoryNameError, MemoryUnreadableError, MemoryValueError, WireError
from cas_events.wire.pieces import (
    BODY_BYTES_MAX,
    Inline,
    Pieces,
    Whole,
    decode_entry,
    encode_value,
    pack,
    unpack,
)
from cas_events.wire.subjects import Names
from cas_events.wire.threads import ThreadSubjects, text_of, token_of

ROOT = "~store"
INLINE_BYTES = 128 * 1024
SUBJECT_BYTES_MAX = 2048  # The server takes 4,096 for a whole control line.
NAME_BYTES_MAX = 16 * 1024
_ITEM_BYTES_MAX = INLINE_BYTES + 8 * NAME_BYTES_MAX


class StoredItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An item.

    Attributes:
        namespace: its labels.
        key: its key.
        put: the id of the put that stored it, a UUIDv7.
        created_us: when it was first put, microseconds since the epoch.
        updated_us: when it was last put.
        ttl_s: how long it lives after a put, or a read that refreshes it; 0: for ever.
        expires_us: when it is over; 0: never.
        value: the MessagePack of its value, or where that is.
    """

    namespace: tuple[str, ...]
    key: str
    put: str
    created_us: int
    updated_us: int
    ttl_s: float = 0
    expires_us: int = 0
    value: Inline | Whole

    def is_over(self, now_us: int) -> bool:
        """Whether it has expired."""
        return 0 < self.expires_us <= now_us


@dataclass(frozen=True, slots=True)
class MemorySubjects:
    """The subjects of a deployment's memory.

    Attributes:
        prefix: what they all begin with, such as ``cas.ckpt.~store``.
    """

    prefix: str

    @classmethod
    def of(cls, names: Names) -> MemorySubjects:
        """Those of a deployment."""
        return cls(names.thread(ROOT))

    @property
    def expiry(self) -> str:
        """Subject of the word that there are items that expire."""
        return f"{self.prefix}.x"

    @property
    def all_pieces(self) -> str:
        """Filter for the pieces of every put."""
        return f"{self.prefix}.v.>"

    def item(self, namespace: Sequence[str], key: str) -> str:
        """Subject of an item.

        Raises:
            MemoryNameError: it would be too long, or is no text.
        """
        subject = ".".join((self.prefix, "i", *map(token_of, namespace), token_of(key)))
        problem = _problem_of_name(subject, "".join((*namespace, key)))
        if problem:
            raise MemoryNameError(tuple(namespace), key, problem)
        return subject

    def within(self, path: Sequence[str], *, wildcards: bool = False) -> str:
        """Filter for the items of the namespaces that begin with a path; with ``wildcards``, ``*`` is any label."""
        tokens = (ANY_LABEL if wildcards and label == ANY_LABEL else token_of(label) for label in path)
        return ".".join((self.prefix, "i", *tokens, ">"))

    def value(self, put: str) -> ThreadSubjects:
        """The place of a put's pieces, which has them as a thread has its own."""
        return ThreadSubjects(f"{self.prefix}.v.{token_of(put)}")

    def put_of(self, piece_subject: str) -> str:
        """The put that a piece was stored for."""
        return piece_subject.removeprefix(f"{self.prefix}.v.").partition(".")[0]

    def namespace_of(self, item_subject: str) -> Namespace | None:
        """The namespace of an item; None if the subject has only a hash of it.

        Raises:
            ValueError: a token is none of ours.
        """
        *labels, _ = item_subject.removeprefix(f"{self.prefix}.i.").split(".")
        texts = tuple(map(text_of, labels))
        return None if None in texts else texts  # type: ignore[return-value]


def _problem_of_name(subject: str, text: str) -> str:
    if len(subject) > SUBJECT_BYTES_MAX:
        return (
            f"its subject has {len(subject)} bytes, over the limit of {SUBJECT_BYTES_MAX}; use fewer labels"
        )
    if text.isascii():
        size = len(text)
    else:
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            return f"it is no Unicode text: {error}"
    if size > NAME_BYTES_MAX:
        return f"it has {size} bytes, over the limit of {NAME_BYTES_MAX}; shorten it"
    return ""


_encode = msgspec.msgpack.Encoder().encode
_decode_item = msgspec.msgpack.Decoder(StoredItem).decode
_decode_value = msgspec.msgpack.Decoder(dict[str, Any]).decode


def encode_item_value(
    namespace: Namespace, key: str, value: Mapping[str, Any], pieces: Pieces
) -> Inline | Whole:
    """A value's form in its item; what it is too large for is added to ``pieces``.

    Raises:
        MemoryValueError: it is not plain data.
    """
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise MemoryValueError(namespace, key, "it is no mapping with strings as its keys")
    try:
        data = _encode(dict(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MemoryValueError(namespace, key, str(error)) from error
    if len(data) > BODY_BYTES_MAX:
        raise MemoryValueError(
            namespace, key, f"it has {len(data)} bytes, over the limit of {BODY_BYTES_MAX}"
        )
    return encode_value(("msgpack", data), pieces, inline_bytes=INLINE_BYTES)


def decode_item_value(item: StoredItem, pieces: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The value of an item.

    Raises:
        WireError: it is not one that `encode_item_value` makes, or a piece is missing.
    """
    _, data = decode_entry(item.value, pieces)
    try:
        return _decode_value(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"not a value: {error}") from error


def encode_item(item: StoredItem) -> bytes:
    """The payload of an item's message."""
    return pack(_encode(item))


def decode_item(subjects: MemorySubjects, subject: str, payload: bytes) -> StoredItem:
    """The item of a message.

    Raises:
        MemoryUnreadableError: there is none in it, or one of another subject.
    """
    try:
        item = _decode_item(unpack(payload, limit_bytes=_ITEM_BYTES_MAX))
    except (WireError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MemoryUnreadableError(subject, str(error)) from error
    try:
        own = subjects.item(item.namespace, item.key)
    except MemoryNameError as error:
        raise MemoryUnreadableError(subject, str(error)) from error
    if own != subject:
        raise MemoryUnreadableError(subject, f"it says that it belongs to {own}")
    if isinstance(item.value, Whole) and item.value.size > BODY_BYTES_MAX:
        raise MemoryUnreadableError(subject, f"its value would have {item.value.size} bytes")
    return item
