"""Redaction of JSON that is encoded already: looked at as bytes, taken apart only if something in it may matter.

So objects are redacted in the form in which they are stored: the fields of dataclasses and models by their names, what
has no JSON form as its repr.
"""

from __future__ import annotations

import msgspec

from cas_events.domain.redaction import Redaction
from cas_events.wire.jsonvalue import encode_lossy

_decoder = msgspec.json.Decoder()


def redacted_json(redaction: Redaction, encoded: bytes) -> bytes:
    """One JSON document of our own encoding, without secrets.

    Raises:
        RecursionError: it is nested deeper than can be looked into here.
    """
    if not redaction.may_matter(encoded):
        return encoded
    return encode_lossy(redaction.value(_decoder.decode(encoded)))
