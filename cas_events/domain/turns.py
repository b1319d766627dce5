"""Whose turn it is on a thread that several tasks share: a line of tasks, as a pure rule.

The first task of the line that has not ended has the thread; an interrupted task has not ended, so it keeps it. What a
newcomer does on a busy thread is one of LangGraph's four words (``multitask_strategy``):

- ``enqueue`` (also LangGraph's default): it waits for its turn, in the order of arrival;
- ``reject``: it is rejected;
- ``interrupt``: those before it are cancelled, what they have stored stays;
- ``rollback``: they are cancelled, and what they have stored in the thread is deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec

Strategy = Literal["enqueue", "reject", "interrupt", "rollback"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
LINE_MAX = 1_000

TaskKey = tuple[str, str]


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """A task's place in the line.

    Attributes:
        agent: its agent.
        task: its id.
        undo: tasks whose checkpoints it deletes before it begins.
    """

    agent: str
    task: str
    undo: list[str] = []

    @property
    def key(self) -> TaskKey:
        """Agent and task."""
        return self.agent, self.task


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a newcomer may do.

    Attributes:
        line: the line from now on.
        is_mine: it has the thread.
        is_refused: it is not in the line: the thread is busy, or the line too long.
        ahead: the tasks before it that are to be cancelled.
    """

    line: tuple[Place, ...]
    is_mine: bool = False
    is_refused: bool = False
    ahead: tuple[TaskKey, ...] = ()


def take_turn(
    line: Sequence[Place], me: TaskKey, strategy: Strategy, *, ended: Collection[TaskKey]
) -> Verdict:
    """Look whose turn it is, and join the line.

    Args:
        line: as it is.
        me: the task that asks.
        strategy: what it does on a busy thread.
        ended: those of the line that are known to have ended; all before the first one that has not, at least.
    """
    alive = [place for place in line if place.key == me or place.key not in ended]
    index = next((n for n, place in enumerate(alive) if place.key == me), None)
    if index is None:
        if (alive and strategy == "reject") or len(alive) >= LINE_MAX:
            return Verdict(line=tuple(alive), is_refused=True)
        undo = [place.task for place in alive] if strategy == "rollback" else []
        index = len(alive)
        alive.append(Place(*me, undo=undo))
    cancels = strategy in {"interrupt", "rollback"}
    ahead = tuple(place.key for place in alive[:index]) if cancels else ()
    return Verdict(line=tuple(alive), is_mine=index == 0, ahead=ahead)


def leave(line: Sequence[Place], me: TaskKey) -> tuple[Place, ...]:
    """The line without a task that has ended."""
    return tuple(place for place in line if place.key != me)
