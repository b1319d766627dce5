"""Words for a terminal: pure functions from values to text.

Everything shown passes `plain`: logs and file names are other people's bytes, and an escape sequence in them must
not move the cursor or change the colours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from cas_events.domain import events
from cas_events.domain.events import Event
from cas_events.domain.interrupts import items_of

# C0 and C1 controls but the line feed, and what turns the direction of writing.
_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_CUT_MARK = "…"

Style = str
STATUS_STYLES: Mapping[str, Style] = {
    "queued": "cyan",
    "running": "blue",
    "retrying": "yellow",
    "interrupted": "magenta",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "rejected": "red",
}
LEVELS = ("debug", "info", "warning", "error", "critical")
LEVEL_STYLES: Mapping[str, Style] = {
    "debug": "dim",
    "info": "",
    "warning": "yellow",
    "error": "red",
    "critical": "bold red",
}


def plain(text: str) -> str:
    """The text with control characters made visible."""
    return _CONTROLS.sub(lambda match: _visible(match[0]), text)


def _visible(character: str) -> str:
    return "    " if character == "\t" else f"\\x{ord(character):02x}"


def one_line(text: str) -> str:
    """The text on one line, control characters made visible."""
    return plain(" ".join(text.split("\n")).strip())


def cut(text: str, length: int) -> str:
    """At most ``length`` characters, with a mark where something is missing."""
    return text if len(text) <= length else text[: max(0, length - 1)] + _CUT_MARK


def json_text(value: Any) -> str:
    """A value as compact JSON; what has no JSON form as its repr."""
    return msgspec.json.encode(value, enc_hook=repr).decode()


def cell(value: Any) -> str:
    """A value of a table: text as it is, nothing for null, JSON for the rest."""
    if value is None:
        return ""
    return one_line(value if isinstance(value, str) else json_text(value))


def duration(seconds: float) -> str:
    """``0.12 s``, ``12.3 s`` or ``2 min 05 s``."""
    if seconds >= 60:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02} s"
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s"


def clock(time: datetime) -> str:
    """The local time of day, to the millisecond."""
    return time.astimezone().strftime("%H:%M:%S.%f")[:-3]


def fields(values: Mapping[str, Any]) -> str:
    """``key=value`` pairs of a log line."""
    return " ".join(f"{one_line(str(name))}={cell(value)}" for name, value in values.items())


def level_rank(level: str) -> int:
    """0 for debug; an unknown level counts as info, so that it is not lost."""
    return LEVELS.index(level) if level in LEVELS else LEVELS.index("info")


def log_text(event: Event) -> str:
    """Message and fields of a `cas.log` event."""
    metadata = event.data.get("metadata")
    return " ".join(
        part
        for part in (
            one_line(str(event.data.get("message", ""))),
            fields(metadata) if isinstance(metadata, dict) else "",
        )
        if part
    )


def log_level(event: Event) -> str:
    """The level of a `cas.log` event."""
    return str(event.data.get("level", "info"))


def failure_text(event: Event) -> str:
    """Why a task ended otherwise than completed, in a line; empty when nothing is known."""
    error = event.data.get("error")
    parts = []
    if isinstance(error, dict):
        parts.append(f"{error.get('type', 'Error')}: {error.get('message', '')}".rstrip(": "))
    reason = event.data.get("reason")
    if isinstance(reason, str) and reason and reason != "error":
        parts.append(f"({reason})" if parts else reason)
    detail = event.data.get("detail")
    if isinstance(detail, str) and detail:
        parts.append(detail)
    return one_line(" ".join(parts))


def summary(event: Event) -> str:
    """What an event says, in a line."""
    say = _SUMMARIES.get(event.type)
    return json_text(event.data) if say is None else say(event)


def progress_text(event: Event) -> str:
    """Percentage, node and message of a `cas.progress` event."""
    who = event.data.get("node") or event.data.get("agent")
    message = one_line(str(event.data.get("message", "")))
    return " ".join(
        part for part in (f"{fraction(event):.0%}", one_line(str(who)) if who else "", message) if part
    )


def fraction(event: Event) -> float:
    """The progress of a `cas.progress` event, from 0 to 1."""
    value = event.data.get("progress")
    return min(1.0, max(0.0, float(value))) if isinstance(value, int | float) else 0.0


def _log_summary(event: Event) -> str:
    return f"{log_level(event)} {log_text(event)}"


def _node(event: Event) -> str:
    return one_line(str(event.data.get("node", "")))


def questions(event: Event) -> list[tuple[str, str]]:
    """(name, value as JSON) of what a `cas.task.interrupted` event asks."""
    return [(item["id"], json_text(item.get("value"))) for item in items_of(event.data)]


def _asked(event: Event) -> str:
    return " ".join(
        filter(None, [failure_text(event), *(f"{name}={value}" for name, value in questions(event))])
    )


_SUMMARIES: Mapping[str, Callable[[Event], str]] = {
    events.LOG: _log_summary,
    events.PROGRESS: progress_text,
    events.STEP_STARTED: _node,
    events.STEP_COMPLETED: _node,
    events.STEP_FAILED: _node,
    events.STARTED: lambda event: f"input={json_text(event.data.get('input'))}",
    events.COMPLETED: lambda event: f"output={json_text(event.data.get('output'))}",
    events.FAILED: failure_text,
    events.CANCELLED: failure_text,
    events.REJECTED: failure_text,
    events.RETRYING: failure_text,
    events.INTERRUPTED: _asked,
    events.RESUMED: lambda event: f"{event.data.get('interrupt_id')}={json_text(event.data.get('value'))}",
}
