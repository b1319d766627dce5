"""Which events of a task have been seen, in little memory: pure."""

from __future__ import annotations


class KeySet:
    """Keys of one agent's task that have been seen; the usual ones, 0, 1, 2 and so on, as one number an attempt."""

    def __init__(self) -> None:
        self._next: dict[int, int] = {}
        self._odd: set[tuple[int, int]] = set()

    def add(self, attempt: int, index: int) -> bool:
        """Whether it is new."""
        until = self._next.get(attempt, 0)
        if index < until or (attempt, index) in self._odd:
            return False
        if index > until:
            self._odd.add((attempt, index))
            return True
        until += 1
        while (attempt, until) in self._odd:
            self._odd.remove((attempt, until))
            until += 1
        self._next[attempt] = until
        return True

    @property
    def has_beginning(self) -> bool:
        """Whether the task's first event is among them, and so all that came before the newest."""
        return 1 in self._next or 0 in self._next
