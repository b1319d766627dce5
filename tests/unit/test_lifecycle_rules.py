"""The state machine of a lifecycle: what runners write passes, and each way of breaking it is named."""

from __future__ import annotations

from itertools import pairwise

import pytest

from cas_events.domain.lifecycle import BEGINNING, Step, complaint, is_handover


def steps(text: str) -> list[Step]:
    """``started.1.0.1`` is type, attempt, index, tries; ``!`` marks a hand-over."""
    found = [BEGINNING]
    for word in text.split():
        type_, attempt, index, tries = word.rstrip("!").split(".")
        step = Step(
            type=f"cas.task.{type_}",
            attempt=int(attempt),
            index=int(index),
            tries=int(tries) if tries != "-" else None,
            is_handover=word.endswith("!"),
        )
        found.append(step)
    return found


def complaints(text: str) -> list[str]:
    return [problem for before, after in pairwise(steps(text)) if (problem := complaint(before, after))]


@pytest.mark.parametrize(
    "text",
    [
        "started.1.0.1 completed.1.7.1",
        "started.1.0.1 retrying.1.3.1 started.2.0.2 failed.2.1.2",
        "started.1.0.1 retrying.1.3.1! started.2.0.1 completed.2.1.1",
        "started.1.0.1 started.2.0.2 started.3.0.3 failed.3.9.3",
        "started.1.0.1 interrupted.1.2.1 resumed.2.0.1 started.2.1.1 completed.2.5.1",
        "started.1.0.1 started.2.0.2 interrupted.2.1.2 interrupted.3.0.2 cancelled.4.0.2",
        "started.1.0.1 cancelled.2.0.1",
        "cancelled.1.0.0",
        "rejected.1.0.0",
        "failed.1.0.0",
        "started.1.0.- completed.1.1.-",
    ],
)
def test_what_runners_write_passes(text: str) -> None:
    assert complaints(text) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("completed.1.0.1", "cas.task.completed (1, 0) follows nothing"),
        ("retrying.1.0.1", "follows nothing"),
        ("started.1.1.1", "follows nothing"),
        ("started.2.0.1", "follows nothing"),
        ("started.1.0.1 completed.1.1.1 cancelled.2.0.1", "follows the end, cas.task.completed (1, 1)"),
        ("started.1.0.1 resumed.2.0.1", "follows cas.task.started"),
        ("started.1.0.1 retrying.1.1.1 completed.1.2.1", "follows cas.task.retrying"),
        ("started.1.0.1 interrupted.1.1.1 started.2.0.1", "follows cas.task.interrupted"),
        ("started.1.0.1 interrupted.1.1.1 resumed.2.0.1 started.3.0.1", "follows cas.task.resumed"),
        ("started.1.0.1 started.3.0.2", "follows cas.task.started"),
        ("started.1.4.1", "follows nothing"),
        ("started.1.0.1 completed.1.0.1", "follows cas.task.started"),
        ("started.1.0.1 started.2.0.1", "says 1 tries, not 2"),
        ("started.1.0.1 retrying.1.1.1! started.2.0.2", "says 2 tries, not 1"),
        ("started.1.0.2", "says 2 tries, not 1"),
    ],
)
def test_each_break_is_named(text: str, problem: str) -> None:
    [found] = complaints(text)
    assert problem in found


def test_handover_is_told_by_its_type() -> None:
    assert is_handover({"type": "handover", "message": "m"})
    assert not any(map(is_handover, ({"type": "E"}, {}, None, "handover", 5)))
