"""One finding of `cas doctor`, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["ok", "note", "warning", "problem"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "problem")

RATIO_WARNING = 0.75
RATIO_PROBLEM = 0.9  # From here on runners store the lifecycle only and pull nothing (PROTOCOL section 4).


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        area: the heading that it belongs under.
        name: what was looked at.
        level: ``ok``; a ``note`` (not visible, or worth knowing); a ``warning``; a ``problem``, which makes
            `cas doctor` fail.
        said: what was found.
        advice: what to do about it; empty when nothing is to be done.
        breaks: numbers of the promises that do not hold because of it.
        conditions: what restricts promises, by number.
    """

    area: str
    name: str
    level: Level
    said: str
    advice: str = ""
    breaks: tuple[int, ...] = ()
    conditions: Mapping[int, str] = field(default_factory=dict)


def ratio_level(ratio: float) -> Level:
    """How bad it is that a storage is so full."""
    if ratio >= RATIO_PROBLEM:
        return "problem"
    return "warning" if ratio >= RATIO_WARNING else "ok"


def size(count: float) -> str:
    """A number of bytes in words, such as ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}".replace(".0 ", " ")
        count /= 1024
    return f"{count:.1f} TiB"


def span(seconds: float) -> str:
    """A length of time in words, such as ``10 s``, ``2 h`` or ``7 days``."""
    for unit, length_s in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:g} {unit}"
    return f"{seconds:g} s"
