"""Claim checks: a large `data` member travels as a reference to an object (PROTOCOL section 3, sizes).

A claim check has exactly the keys ``$ref``, ``bytes`` and ``sha256``; anything else is the user's own data. The
object holds the member's JSON, and its name is the sha256 of that. Putting and getting objects is done elsewhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cas_events.domain.limits import CLAIM_CHECK_BYTES
from cas_events.errors import PayloadTooLargeError
from cas_events.wire.jsonvalue import encode_if_clean, encode_json

_KEYS = frozenset({"$ref", "bytes", "sha256"})
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_claim(value: object) -> bool:
    """Whether a decoded value is a claim check."""
    if not isinstance(value, dict) or value.keys() != _KEYS:
        return False
    sha256, size = value["sha256"], value["bytes"]
    return (
        isinstance(sha256, str)
        and _SHA256.fullmatch(sha256) is not None
        and value["$ref"] == sha256
        and isinstance(size, int)
        and not isinstance(size, bool)
        and size >= 0
    )


def looks_like_claim(value: object) -> bool:
    """Whether a value has a claim check's keys, well-formed or not."""
    return isinstance(value, dict) and value.keys() == _KEYS


def claim_for(blob: bytes) -> dict[str, Any]:
    """The claim check of an object's bytes."""
    sha256 = hashlib.sha256(blob).hexdigest()
    return {"$ref": sha256, "bytes": len(blob), "sha256": sha256}


def encode_members(
    members: Mapping[str, Any], *, limit_bytes: int = CLAIM_CHECK_BYTES
) -> tuple[bytes, list[bytes]]:
    """Encode the members of a `data` or command object, large ones as claim checks.

    Returns:
        The JSON object, and the bytes of the objects that have to be put before it is appended.

    Raises:
        NotJsonError: a member has no JSON form; the error's path starts with the member's name.
    """
    whole = encode_if_clean(members)
    if whole is not None and len(whole) <= limit_bytes:
        return whole, []
    parts: list[bytes] = []
    blobs: list[bytes] = []
    for name, value in members.items():
        encoded = encode_json(value, path=name)
        if len(encoded) > limit_bytes:
            blobs.append(encoded)
            encoded = encode_json(claim_for(encoded), path=name)
        parts.append(b"%b:%b" % (encode_json(name, path=name), encoded))
    return b"{" + b",".join(parts) + b"}", blobs


def require_small_enough(blobs: Sequence[bytes], what: str, limit_bytes: int) -> None:
    """Check the objects of claim checks against the configured limit, before any is put.

    Raises:
        PayloadTooLargeError: one is over ``limit_bytes``.
    """
    for blob in blobs:
        if len(blob) > limit_bytes:
            raise PayloadTooLargeError(what, payload_bytes=len(blob), limit_bytes=limit_bytes)
