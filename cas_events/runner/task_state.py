"""`ctx.state`: the state of a task's own agent, from any thread.

Changes name the task's command as their cause. They are made at least once: an attempt that is tried again makes them
again, unless it expects a revision. An attempt that has ended changes nothing any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from cas_events.agent_states import AgentState, AgentStates
from cas_events.errors import AttemptOverError
from cas_events.runner.facts import TaskFacts
from cas_events.runner.workplace import Workplace

T = TypeVar("T")


class TaskState:
    """The state of a task's agent, while an attempt of the task runs.

    Args:
        place: what the process shares.
        facts: the task.
        loop: the runner's event loop.
        is_over: whether the attempt is to end, or has.
    """

    __slots__ = ("_facts", "_is_over", "_loop", "_place")

    def __init__(
        self,
        place: Workplace,
        facts: TaskFacts,
        *,
        loop: asyncio.AbstractEventLoop,
        is_over: Callable[[], bool],
    ) -> None:
        self._place = place
        self._facts = facts
        self._loop = loop
        self._is_over = is_over

    async def get(self, key: str | None = None) -> AgentState:
        """The newest state."""
        return await self._on_loop(lambda: self._states.get(self._facts.agent_id, key))

    async def update(
        self,
        patch: Mapping[str, Any],
        key: str | None = None,
        *,
        expected_revision: int | None = None,
        whole: bool = False,
    ) -> AgentState:
        """Merge a patch into the state, or put it in its place.

        Raises:
            AttemptOverError: the attempt is over; and what `Client.update_agent_state` raises.
        """
        self._require_running()
        return await self._on_loop(
            lambda: self._states.update(
                self._facts.agent_id,
                patch,
                key,
                expected_revision=expected_revision,
                whole=whole,
                causation_id=self._cause,
            )
        )

    async def reset(self, key: str | None = None, *, expected_revision: int | None = None) -> AgentState:
        """Empty the state. Errors as for `update`."""
        self._require_running()
        return await self._on_loop(
            lambda: self._states.reset(
                self._facts.agent_id, key, expected_revision=expected_revision, causation_id=self._cause
            )
        )

    @property
    def _states(self) -> AgentStates:
        place = self._place
        return AgentStates(place.js, place.names, place.blobs, source=place.source)

    @property
    def _cause(self) -> str:
        return f"{self._place.names.commands}:{self._facts.command_seq}"

    def _require_running(self) -> None:
        if self._is_over():
            raise AttemptOverError(self._facts.task_id)

    async def _on_loop(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run work on the runner's loop, from whatever thread and loop this is awaited in."""
        if asyncio.get_running_loop() is self._loop:
            return await make()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(make(), self._loop))
