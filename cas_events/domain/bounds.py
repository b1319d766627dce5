"""Whether a number that somebody set is one that makes sense. Pure."""

from __future__ import annotations

import math

from cas_events.errors import InvalidLimitError


def require_number(
    field: str,
    value: object,
    *,
    least: float = 0.0,
    may_be_least: bool = False,
    is_whole: bool = False,
    of: str = "",
) -> None:
    """Check a setting that somebody handed in.

    Args:
        field: its name.
        value: what was handed in.
        least: what it must be above.
        may_be_least: whether it may be ``least`` itself.
        is_whole: whether it must be an int; infinite is no bound otherwise.
        of: whose setting it is, for the message.

    Raises:
        InvalidLimitError: it is no number, or out of range.
    """
    allowed = f"{least:g} or more" if may_be_least else f"above {least:g}"
    kinds = int if is_whole else (int, float)
    is_number = isinstance(value, kinds) and not isinstance(value, bool) and not math.isnan(value)
    if not is_number or value < least or (value == least and not may_be_least):  # type: ignore[operator]
        raise InvalidLimitError(field, value, f"{'a whole number, ' if is_whole else ''}{allowed}", of=of)
