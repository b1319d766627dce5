"""An error as `data.error`: type, message and traceback, cut to the limits of PROTOCOL section 3."""

from __future__ import annotations

import traceback
from typing import Any

from cas_events.domain.limits import ERROR_MESSAGE_BYTES, TRACEBACK_BYTES, cut_utf8


def error_members(error: BaseException, *, with_traceback: bool = True) -> dict[str, Any]:
    """Describe an error.

    Args:
        error: what agent code raised.
        with_traceback: whether to add where; the innermost frames survive the cut.

    Returns:
        ``type``, ``message`` and, where known, ``node``, ``traceback`` and ``truncated``.
    """
    message, is_cut = cut_utf8(str(error), ERROR_MESSAGE_BYTES)
    members: dict[str, Any] = {"type": type(error).__name__, "message": message}
    node = getattr(error, "cas_node", None)
    if node is not None:
        members["node"] = node
    if with_traceback and error.__traceback__ is not None:
        text = "".join(traceback.format_exception(error))
        members["traceback"], _ = cut_utf8(text[-TRACEBACK_BYTES:], TRACEBACK_BYTES)
        is_cut = is_cut or len(text) > len(members["traceback"])
    if is_cut:
        members["truncated"] = True
    return members
