"""One delivery that asks for a task to run, with what it takes to decide about it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from cas_events.domain.commands import Execute
from cas_events.domain.decide import Hint
from cas_events.jetstream.queue import Delivery
from cas_events.runner.facts import TaskFacts
from cas_events.runner.holds import Offer, TaskKey
from cas_events.runner.questions import Answer
from cas_events.runner.registry import AgentSpec


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """A delivery, read.

    Attributes:
        offer: the delivery.
        spec: the agent.
        task_id: the task.
        hint: what the delivery says to the table.
        command: the execute command as delivered or read.
        command_time_ns: when that was stored.
        answer: to an interrupt, of a resume; None if the delivery is none.
    """

    offer: Offer
    spec: AgentSpec
    task_id: str
    hint: Hint
    command: bytes
    command_time_ns: int
    answer: Answer | None = None

    @property
    def delivery(self) -> Delivery:
        """The delivery itself."""
        return self.offer.delivery

    @property
    def now_s(self) -> float:
        """Seconds since the epoch: by this machine's clock, or by the server's if that is known to be ahead.

        A wake was stored when its time had come by the server's clock; a clock behind that would wait anew, for ever.
        """
        return max(time.time(), self.delivery.time_ns / 1e9)

    @property
    def key(self) -> TaskKey:
        """The task, and whose it is."""
        return self.spec.agent_id, self.task_id

    def facts(self, execute: Execute) -> TaskFacts:
        """The task, once its command has been read."""
        return TaskFacts(
            task_id=self.task_id,
            agent_id=self.spec.agent_id,
            execute=execute,
            command_seq=self.hint.command_seq,
        )
