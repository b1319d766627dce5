"""An attempt and its children: what the attempt asks of them, whether there are any or not.

Most attempts have none and pay for this one small object only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from cas_events.runner.calls import ChildCalls
from cas_events.runner.context import TaskContext
from cas_events.runner.descent import end_children
from cas_events.runner.facts import TaskFacts
from cas_events.runner.holds import Offer
from cas_events.runner.telemetry import Telemetry
from cas_events.runner.workplace import Workplace


class Family:
    """The children of one attempt's task.

    Args:
        place: what the process shares.
        facts: the parent.
        offer: the delivery whose place is lent while the parent waits.
        attempt: the parent's.

    Attributes:
        may_exist: whether the task may have children: this attempt has started some, or an earlier one may have.
    """

    __slots__ = ("_attempt", "_calls", "_facts", "_loop", "_offer", "_place", "may_exist")

    def __init__(self, place: Workplace, facts: TaskFacts, offer: Offer, *, attempt: int) -> None:
        self._place = place
        self._facts = facts
        self._offer = offer
        self._attempt = attempt
        self._loop = asyncio.get_running_loop()
        self._calls: ChildCalls | None = None
        self.may_exist = attempt > 1

    def attach(self, context: TaskContext, fence_seq: Callable[[], int | None]) -> TaskContext:
        """Let agent code start children, by way of this context, which is given back.

        Args:
            context: of the attempt.
            fence_seq: sequence of its `started` while it runs, None once it is to end.
        """
        # The context is handed back when it is needed: held here, it would be a cycle for every attempt.
        context.make_children = lambda asking: self._make(asking, fence_seq)
        return context

    def _make(self, context: TaskContext, fence_seq: Callable[[], int | None]) -> ChildCalls:
        """When the agent first calls another; may be on a thread of its own."""
        self._calls = ChildCalls(
            self._place,
            self._facts,
            self._offer,
            attempt=self._attempt,
            loop=self._loop,
            telemetry=lambda: cast("Telemetry", context.emitter),
            fence_seq=fence_seq,
        )
        self.may_exist = True
        hold = self._place.desk.holds.get(self._facts.key)
        if hold is not None:
            hold.must_be_settled = True
        return self._calls

    @property
    def is_awaited(self) -> bool:
        """Whether the parent waits for a child."""
        return self._calls is not None and self._calls.is_waiting

    def stop(self) -> None:
        """The parent is asked to end: its threads that wait for a child are let go."""
        if self._calls is not None:
            self._calls.stop()

    def close(self) -> None:
        """The attempt is over."""
        if self._calls is not None:
            self._calls.close()

    async def end(self, type_: str) -> None:
        """The parent has ended so: end its children, if that ends them and there may be any."""
        if self.may_exist:
            await end_children(self._place, *self._facts.key, type_)
