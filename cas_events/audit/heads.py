"""Making a signed head, and telling whether one is: the signature, and that all it says of itself fits together."""

from __future__ import annotations

from hashlib import sha256

import msgspec

from cas_events.audit.keys import SigningKey, verify_signature
from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.audit import Head, Previous, StreamHead


def sign_head(key: SigningKey, streams: list[StreamHead], newest: StoredMessage | None) -> Head:
    """A signed head behind the newest that is stored."""
    previous = Previous(newest.seq, _sha256(newest.data)) if newest else None
    head = Head(streams=streams, previous=previous, public_key=key.public_key)
    text = head.signed_text()
    return msgspec.structs.replace(head, hash=_sha256(text), signature=key.sign(text))


def is_signed(head: Head) -> bool:
    """Whether its key signed it and all that it says of itself is so.

    Raises:
        WireError: its roots and frontiers, or its fingerprints, do not belong together.
    """
    text = head.signed_text()
    for part in head.streams:
        part.tree()
    return head.hash == _sha256(text) and verify_signature(head.public_key, head.signature, text)


def _sha256(data: bytes) -> str:
    return sha256(data).hexdigest()
