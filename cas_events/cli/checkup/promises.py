"""DESIGN's ten promises, and which of them hold on a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cas_events.cli.checkup.check import Check

Verdict = Literal["holds", "holds with a condition", "does not hold"]

PROMISES = {
    1: "An acknowledged command is never lost, and every executed task reaches exactly one terminal event",
    2: "The lifecycle of a task is one strict sequence; nothing follows a terminal event",
    3: "A runner that lost its task cannot add to its lifecycle or checkpoints",
    4: "A crashed task goes on elsewhere, in at most max_attempts tries",
    5: "A cancel is durable, pushed and final",
    6: "A follower sees every stored event once and in order, live or late",
    7: "The tables are a deterministic function of the log",
    8: "Agent code that blocks, swallows cancellation, floods or returns 10 MB breaks no other task",
    9: "Bad input never stops a runner or a projector",
    10: "Nothing listens beyond loopback without authentication",
}
# What holds of this version on every server, not only on this one.
ALWAYS = {4: "a graph starts from its beginning: checkpoints are not in the log yet"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Whether a promise holds, and why not or with what restriction.

    Attributes:
        number: of the promise.
        promise: its words.
        verdict: whether it holds.
        reasons: why it does not, or what restricts it; empty when it simply holds.
    """

    number: int
    promise: str
    verdict: Verdict
    reasons: tuple[str, ...] = ()


def standings(checks: Sequence[Check]) -> Iterator[Standing]:
    """Every promise, by what the checks say of it."""
    for number, promise in PROMISES.items():
        broken = [f"{check.name}: {check.said}" for check in checks if number in check.breaks]
        conditions = [check.conditions[number] for check in checks if number in check.conditions]
        if number in ALWAYS:
            conditions.append(ALWAYS[number])
        verdict: Verdict = "holds"
        if broken or conditions:
            verdict = "does not hold" if broken else "holds with a condition"
        reasons = tuple(dict.fromkeys(broken or conditions))
        yield Standing(number=number, promise=promise, verdict=verdict, reasons=reasons)
