"""An error as `data.error`: type, message and traceback, without secrets, cut to the limits of PROTOCOL section 3."""

from __future__ import annotations

import traceback
from typing import Any

from cas_events.domain.limits import ERROR_MESSAGE_BYTES, TRACEBACK_BYTES, cut_utf8
from cas_events.domain.redaction import Redaction

SEARCHED_CHARACTERS = 256 * 1024  # of a text that is too long, so much of what stays is searched for secrets


def error_members(
    error: BaseException, redaction: Redaction, *, with_traceback: bool = True
) -> dict[str, Any]:
    """Describe an error.

    Args:
        error: what agent code raised.
        redaction: what is taken out of its words, before they are cut.
        with_traceback: whether to add where; the innermost frames survive the cut.

    Returns:
        ``type``, ``message`` and, where known, ``node``, ``traceback`` and ``truncated``.
    """
    message, is_cut = cut_utf8(redaction.text(_words(error)[:SEARCHED_CHARACTERS]), ERROR_MESSAGE_BYTES)
    members: dict[str, Any] = {"type": type(error).__name__, "message": message}
    node = getattr(error, "cas_node", None)
    if isinstance(node, str):
        members["node"] = node
    if with_traceback and error.__traceback__ is not None:
        story = "".join(traceback.format_exception(error))[-SEARCHED_CHARACTERS:]
        members["traceback"], lost = _last_utf8(redaction.text(story), TRACEBACK_BYTES)
        is_cut = is_cut or lost
    if is_cut:
        members["truncated"] = True
    return members


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as problem:  # The agent's own code; what it raised instead is part of the story.
        return f"({type(error).__name__} cannot say what it is: {type(problem).__name__})"


def _last_utf8(text: str, limit_bytes: int) -> tuple[str, bool]:
    """The longest suffix within ``limit_bytes`` of UTF-8, and whether something was cut."""
    encoded = text.encode("utf-8", "replace")
    return encoded[-limit_bytes:].decode("utf-8", "ignore"), len(encoded) > limit_bytes
