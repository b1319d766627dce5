"""The checks of families can fail: each is shown a good history and the ones that it must refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from cas_events.domain.events import Event
from tests.harness import families
from tests.harness.history import Command, History, Recorded


def command(seq: int, task: str, kind: str = "execute", **body: Any) -> Command:
    subject = f"cas.cmd.cancel.{task}" if kind == "cancel" else f"cas.cmd.execute.x.{task}"
    return Command(
        seq, subject, kind, "x" if kind == "execute" else "", task, json.dumps(body).encode(), time_ns=seq
    )


def event(
    at: int, type_: str, task: str, *, parent: str | None = None, root: str = "p", **data: Any
) -> Recorded:
    made = Event(
        type=f"cas.{type_}",
        task_id=task,
        agent_id="x",
        attempt=1,
        index=at,
        time=datetime.now(UTC),
        data=data,
        seq=at,
        stream="E",
        correlation_id=root,
        parent_id=parent,
    )
    return Recorded(made, type_.split(".", maxsplit=1)[0], b"", at)


def family(
    child_end: str = "cancelled", *, cancelled: bool = True, recorded_at: int = 2, root: str = "p"
) -> History:
    """A parent `p` that was cancelled at 10, and its child `c`, stored at 3, which ended at 11."""
    history = History()
    history.commands = [command(1, "p"), command(3, "c", parent_id="p", correlation_id="p")]
    if cancelled:
        history.commands.append(command(9, "c", "cancel"))
    history.events = [
        event(1, "task.started", "p"),
        event(recorded_at, "step.started", "p", child={"agent": "x", "task_id": "c"}),
        event(5, "task.started", "c", parent="p", root=root),
        event(10, "task.cancelled", "p"),
    ]
    if child_end:
        history.events.append(event(11, f"task.{child_end}", "c", parent="p", root=root))
    return history


@pytest.mark.parametrize("child_end", ["cancelled", "completed"])
def test_a_good_family_passes(child_end: str) -> None:
    assert families.check(family(child_end)) == []


@pytest.mark.parametrize(
    ("check", "bad"),
    [
        (families.no_child_of_a_cancelled_parent_runs_on, family("")),
        (families.no_child_of_a_cancelled_parent_runs_on, family("completed", cancelled=False)),
        (families.children_are_recorded_before_they_exist, family(recorded_at=4)),
        (families.events_name_their_family, family(root="c")),
    ],
)
def test_a_bad_family_is_refused(check: Callable[[History], list[str]], bad: History) -> None:
    assert check(bad)
