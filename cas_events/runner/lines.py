"""What an agent says in words, as the `data` of its events: cut to the limits of PROTOCOL section 3, without secrets.

Texts are redacted before they are cut, as far as the cut could run through a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from cas_events.domain.limits import CLAIM_CHECK_BYTES, LOG_LINE_BYTES, cut_utf8
from cas_events.domain.redaction import Redaction
from cas_events.runner.context import Origin
from cas_events.wire.jsonvalue import encode_lossy
from cas_events.wire.redacted import redacted_json

SLACK_BYTES = 4096  # so much of a text that is too long is looked at behind the cut


def log_data(
    level: str, message: str, metadata: Mapping[str, Any], origin: Origin, redaction: Redaction
) -> bytes:
    """`data` of a `cas.log` event; fields without a JSON form are stored as their repr."""
    text, is_cut = _cut(message, redaction)
    fields = encode_lossy(dict(metadata))
    if not fields.startswith(b"{"):
        fields = b'{"unencodable":%b}' % fields
    if len(fields) > CLAIM_CHECK_BYTES:
        fields, is_cut = b"{}", True
    line: dict[str, Any] = {
        "level": level,
        "message": text,
        "metadata": msgspec.Raw(fields),
        **_origin_members(origin),
    }
    if is_cut:
        line["truncated"] = True
    try:
        return redacted_json(redaction, encode_lossy(line))
    except RecursionError:  # Nobody can look into these fields, so nobody can vouch for them.
        line |= {"message": redaction.text(text), "metadata": {}, "truncated": True}
        return encode_lossy(line)


def progress_data(fraction: float, message: str, origin: Origin, redaction: Redaction) -> bytes:
    """`data` of a `cas.progress` event."""
    text, _ = _cut(message, redaction)
    return encode_lossy({"progress": fraction, "message": redaction.text(text), **_origin_members(origin)})


def _cut(text: str, redaction: Redaction) -> tuple[str, bool]:
    whole, is_cut = cut_utf8(text, LOG_LINE_BYTES)
    if is_cut:
        longer, _ = cut_utf8(text, LOG_LINE_BYTES + SLACK_BYTES)
        whole, _ = cut_utf8(redaction.text(longer), LOG_LINE_BYTES)
    return whole, is_cut


def _origin_members(origin: Origin) -> dict[str, str]:
    members = {"node": origin.node, "agent": origin.agent}
    return {name: value for name, value in members.items() if value is not None}
