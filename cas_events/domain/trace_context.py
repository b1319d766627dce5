"""The W3C trace context of a task, as a command carries it and its events repeat it.

`traceparent` comes from anybody. One that is not as https://www.w3.org/TR/trace-context/ has it is ignored, as that
document asks: a trace is lost then, never a task. What is let through needs no escaping in JSON.
"""

from __future__ import annotations

import re

LENGTH_MAX = 512  # A later version may be longer than 55 characters, but not endless.
_KNOWN = "00"
_INVALID = "ff"
_FORM = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_SAMPLED = 0x01
_SAMPLED_AND_RANDOM = 0x03  # what is known of the flags of a later version


def valid_traceparent(value: object) -> str | None:
    """A trace context in the form of version 00; None for anything else than a valid one.

    Args:
        value: whatever stood in the field.
    """
    if not isinstance(value, str) or len(value) > LENGTH_MAX:
        return None
    match = _FORM.fullmatch(value)
    if match is None or match["version"] == _INVALID or (match["version"] == _KNOWN and match["more"]):
        return None
    if not match["trace"].strip("0") or not match["span"].strip("0"):
        return None
    if match["version"] == _KNOWN:
        return value
    flags = int(match["flags"], 16) & _SAMPLED_AND_RANDOM
    return f"{_KNOWN}-{match['trace']}-{match['span']}-{flags:02x}"


def is_sampled(traceparent: str) -> bool:
    """Whether who began a valid trace wants it recorded."""
    return bool(int(traceparent[-2:], 16) & _SAMPLED)
