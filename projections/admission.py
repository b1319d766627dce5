"""Which bytes DuckDB gets to see.

DuckDB parses the documents, but its parser lets through what JSON does not know (NaN, trailing commas), and it
trusts that text is UTF-8. So each payload is first skimmed by a strict parser, which costs a quarter of a
microsecond. What a payload says is not looked at here.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence

import msgspec

from cas_events.jetstream.messages import StoredMessage

# Deeper than any value that our encoder lets through, and well within what every reader's parser can take; an exact
# bound, because a rebuild must decide as the first run did, however deep its own call stack is.
DEPTH_MAX = 500

_BRACKETS_AND_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_PLAIN = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."


class _Document(msgspec.Struct):
    """An object with whatever members."""


_skim = msgspec.json.Decoder(_Document).decode


def all_admissible(payloads: Sequence[bytes], joined: bytes) -> bool:
    """Whether every payload is one strict JSON object; the fast answer for a whole batch.

    Args:
        payloads: the payloads.
        joined: the same, one after the other.
    """
    if not joined.isascii() and any(problem_of(payload) for payload in payloads if not payload.isascii()):
        return False
    if any(_is_deep(payload) for payload in payloads if len(payload) > 2 * DEPTH_MAX):
        return False
    try:
        deque(map(_skim, payloads), maxlen=0)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def problem_of(payload: bytes) -> str:
    """Why a payload is not one strict JSON object; empty if it is."""
    try:
        payload.decode()
        if len(payload) > 2 * DEPTH_MAX and _is_deep(payload):
            return f"nested deeper than {DEPTH_MAX} levels"
        _skim(payload)
    except RecursionError:
        return f"nested deeper than {DEPTH_MAX} levels"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"not a JSON object: {error}"
    return ""


def subjects_are_plain(joined: bytes) -> bool:
    """Whether subjects, one after the other, hold nothing but token characters and dots."""
    return not joined.translate(None, delete=_PLAIN)


def has_plain_subject(message: StoredMessage) -> bool:
    """Whether a message's subject holds nothing but token characters and dots."""
    return message.subject.isascii() and subjects_are_plain(message.subject.encode())


def _is_deep(payload: bytes) -> bool:
    if payload.count(b"[") + payload.count(b"{") <= DEPTH_MAX:
        return False
    depth = 0
    for match in _BRACKETS_AND_STRINGS.finditer(payload):
        first = match.group()[:1]
        if first in b"[{":
            depth += 1
            if depth > DEPTH_MAX:
                return True
        elif first in b"]}":
            depth -= 1
    return False
