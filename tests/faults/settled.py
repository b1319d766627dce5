"""A deployment at rest: every promise that its log can show, checked; and each task's lifecycle for closer looks."""

from __future__ import annotations

from collections.abc import Iterable

from cas_events import Task
from cas_events.domain.events import Event
from tests.harness.faults import at_rest
from tests.harness.history import check


async def settled(
    url: str, deployment: str, tasks: Iterable[Task] = (), *, timeout_s: float = 60.0
) -> dict[str, list[Event]]:
    """Wait until every task has ended, check the promises, and return each task's lifecycle.

    ``tasks`` were acknowledged to their client, so their commands must be there.
    """
    history = await at_rest(url, deployment, timeout_s=timeout_s)
    acknowledged = [(f"{deployment}.cmd.execute.{task.agent_id}.{task.task_id}", task.seq) for task in tasks]
    complaints = check(history, acknowledged)
    assert not complaints, "\n".join(complaints[:20])
    return {task: [r.event for r in history.lifecycle_of(task)] for task in history.executes}


def kinds(events: list[Event]) -> list[str]:
    """The types of events, without what they share."""
    return [event.type.rpartition(".")[2] for event in events]
