"""Tokens: the names and ids that may stand in a subject (PROTOCOL section 1)."""

from __future__ import annotations

import re

from cas_events.errors import InvalidNameError

TOKEN_LENGTH_MAX = 64
_TOKEN = re.compile(rf"[A-Za-z0-9_-]{{1,{TOKEN_LENGTH_MAX}}}")


def is_token(value: object) -> bool:
    """Whether a value is a string of 1 to 64 characters out of ``[A-Za-z0-9_-]``."""
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None


def require_token(kind: str, value: str) -> str:
    """Return the value unchanged.

    Args:
        kind: what the value is for the reader of the error, such as ``task id``.
        value: the candidate.

    Raises:
        InvalidNameError: it is no token.
    """
    if not is_token(value):
        raise InvalidNameError(kind, str(value))
    return value
