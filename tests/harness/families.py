"""What a history must say of parents and children; functions over it, as those of `history`.

A child is what its parent recorded in its steps. Tasks that a client started with a `parent_id` of its own are in the
family by name only: their events name it, but their parent's end is not theirs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.harness.history import Complaints, History, Recorded

TERMINAL = frozenset(f"cas.task.{name}" for name in ("completed", "failed", "cancelled", "rejected"))
ENDS_CHILDREN = frozenset({"cas.task.cancelled", "cas.task.failed"})
GENERATIONS_MAX = 100


def records(history: History) -> Iterator[tuple[str, str, Recorded]]:
    """Every (parent, child, event) with which a parent recorded a child."""
    for recorded in history.events:
        child = recorded.event.data.get("child")
        if recorded.event.type == "cas.step.started" and child is not None:
            yield recorded.event.task_id, child["task_id"], recorded


def no_child_of_a_cancelled_parent_runs_on(history: History) -> Complaints:
    """A cancelled or failed parent's child ended before it, or was given a cancel. True only of a deployment at rest."""
    complaints = []
    for parent, child, _ in records(history):
        end = _end(history, parent)
        if end is None or end.event.type not in ENDS_CHILDREN or not _is_child(history, child, parent):
            continue
        own_end = _end(history, child)
        if own_end is None:
            complaints.append(f"{child} runs on although its parent ended: {end.name}")
        elif own_end.event.seq > end.event.seq and child not in history.cancelled:
            complaints.append(f"{own_end.name} comes after {end.name}, and nobody cancelled it")
    return complaints


def children_are_recorded_before_they_exist(history: History) -> Complaints:
    """Whoever ends the parent finds every child, since its record was stored before its execute."""
    first: dict[tuple[str, str], int] = {}
    for parent, child, recorded in records(history):
        first.setdefault((parent, child), recorded.time_ns)
    return [
        f"{child} was started by {parent} before that was recorded"
        for (parent, child), time_ns in first.items()
        if _is_child(history, child, parent) and time_ns > history.executes[child].time_ns
    ]


def events_name_their_family(history: History) -> Complaints:
    """Every event names its task's parent and root, at any depth."""
    complaints = []
    for task in history.executes:
        parent, root = _body(history, task).get("parent_id"), _root(history, task)
        complaints += [
            f"{recorded.name} names {recorded.event.parent_id} and {recorded.event.correlation_id}, not {parent} and {root}"
            for recorded in history.of_task(task)
            if (recorded.event.parent_id, recorded.event.correlation_id) != (parent, root)
        ]
    return complaints


CHECKS = (
    no_child_of_a_cancelled_parent_runs_on,
    children_are_recorded_before_they_exist,
    events_name_their_family,
)


def check(history: History) -> Complaints:
    """Every check of families; empty when all hold."""
    return [complaint for function in CHECKS for complaint in function(history)]


def _end(history: History, task: str) -> Recorded | None:
    if task not in history.executes:
        return None
    return next((r for r in history.lifecycle_of(task) if r.event.type in TERMINAL), None)


def _is_child(history: History, child: str, parent: str) -> bool:
    return child in history.executes and _body(history, child).get("parent_id") == parent


def _body(history: History, task: str) -> dict[str, Any]:
    try:
        body = json.loads(history.executes[task].data)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _root(history: History, task: str) -> str:
    for _ in range(GENERATIONS_MAX):
        body = _body(history, task)
        if body.get("correlation_id"):
            return str(body["correlation_id"])
        parent = body.get("parent_id")
        if parent is None:
            return task
        if parent not in history.executes:
            return str(parent)
        task = parent
    return task
