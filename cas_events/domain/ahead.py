"""What stands in an agent's queue: who may overtake whom, as a pure rule.

The server delivers a queue in the order of arrival. Whoever looks ahead in it notes each command with its class; one
that stands behind a command of a lower class may overtake: the highest class first, within a class in the order of
arrival. What is not noted, or not overtaken in time, comes in its turn.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from cas_events.domain.flow import PRIORITIES, Priority


class Ahead:
    """The queue of one agent, as far as somebody has looked.

    Attributes:
        seen_until: sequence of the last command that was noted or delivered.
    """

    def __init__(self) -> None:
        self.seen_until = 0
        self._overtaking: list[tuple[int, int, str]] = []  # a heap of (rank of the class, sequence, task)
        self._last_of: dict[int, int] = {}  # by rank, the sequence of the last command that was noted

    def __len__(self) -> int:
        return len(self._overtaking)

    def deliver(self, until_seq: int) -> None:
        """Everything until this sequence has been delivered."""
        self.seen_until = max(self.seen_until, until_seq)
        if any(seq <= until_seq for _, seq, _ in self._overtaking):
            self._overtaking = [waiting for waiting in self._overtaking if waiting[1] > until_seq]
            heapify(self._overtaking)
        self._last_of = {rank: seq for rank, seq in self._last_of.items() if seq > until_seq}

    def note(self, seq: int, task: str, priority: Priority) -> None:
        """The next command of the queue, behind all that were noted."""
        rank = PRIORITIES.index(priority)
        if any(lower > rank for lower in self._last_of):
            heappush(self._overtaking, (rank, seq, task))
        self._last_of[rank] = seq
        self.seen_until = seq

    def overtakes(self) -> str | None:
        """The task that overtakes next, which is forgotten with that; None if none does."""
        return heappop(self._overtaking)[2] if self._overtaking else None
