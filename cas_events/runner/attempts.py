"""An attempt as adapters of agent frameworks see it: its place in the log, what was answered, and the wish to drain.

A plain agent function has no use for this; the adapter of graphs builds its checkpointer and its input from it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from cas_events.domain.interrupts import Dialogue, dialogue_of

if TYPE_CHECKING:
    from cas_events.runner.facts import TaskFacts
    from cas_events.runner.registry import AgentSpec
    from cas_events.runner.workplace import Workplace


class Attempt:
    """One attempt that this process holds.

    Args:
        place: what the process shares.
        spec: the agent.
        facts: the task.
        number: the attempt, from 1.
        fence_seq: sequence of its `started`: whatever the attempt stores elsewhere is fenced by it.

    Attributes:
        is_draining: the process shuts down; code that can stop at a safe point should.
        on_completed: to be awaited, beside the next things, once the task's `completed` is stored.
    """

    def __init__(
        self, place: Workplace, spec: AgentSpec, facts: TaskFacts, *, number: int, fence_seq: int
    ) -> None:
        self.place = place
        self.spec = spec
        self.facts = facts
        self.number = number
        self.fence_seq = fence_seq
        self.is_draining = False
        self.on_completed: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._on_drain: Callable[[], None] | None = None

    async def dialogue(self) -> Dialogue:
        """What the log says was asked and answered before this attempt."""
        if self.number == 1:
            return Dialogue()
        lifecycle = await self.place.ledger.history(
            self.facts.agent_id, self.facts.task_id, until_seq=self.fence_seq
        )
        return dialogue_of((event.type, event.data) for event in lifecycle)

    def on_drain(self, action: Callable[[], None]) -> None:
        """Have ``action`` called when the process shuts down; at once if it does already."""
        self._on_drain = action
        if self.is_draining:
            action()

    def drain(self) -> None:
        """The process shuts down."""
        self.is_draining = True
        if self._on_drain is not None:
            self._on_drain()
