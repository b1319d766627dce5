"""The order in which a follower of one task sees its events (PROTOCOL section 10), as a pure state machine.

Events arrive live and from the log, from two streams, more than once and out of step; they leave once each and in
the order (attempt, index). The rules:

- within an attempt the next index is delivered at once; anything beyond it is held;
- a stored lifecycle event proves that everything before it was stored or never will be, so once a catch-up read
  has offered all that is stored (``settle``), what is still missing below it is given up;
- a new attempt closes the old one: what was held of it is delivered, later arrivals are dropped.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from cas_events.domain.events import RESUMED, STARTED, Event

Key = tuple[int, int]


class Gap(NamedTuple):
    """Events of one attempt that are not stored (any more), by their first and last index."""

    attempt: int
    first_index: int
    last_index: int


class Sequencer:
    """Puts one task's events in order.

    Args:
        after: the (attempt, index) of the last event that the follower has seen; None for all of them.

    Attributes:
        gaps: what was given up between delivered events; the dropped tail of an overtaken attempt is not among it.
        is_done: the terminal event has been delivered.
    """

    def __init__(self, *, after: Key | None = None) -> None:
        self._attempt, self._next_index = (after[0], after[1] + 1) if after else (1, 0)
        self._attempt_closed = False
        self._held: dict[Key, Event] = {}
        self.gaps: list[Gap] = []
        self.is_done = False

    @property
    def is_waiting(self) -> bool:
        """Whether something is held behind a hole, so that a catch-up read is due."""
        return bool(self._held)

    @property
    def is_urgent(self) -> bool:
        """Whether a lifecycle event is held, so that a catch-up read is due at once."""
        return any(event.is_lifecycle for event in self._held.values())

    @property
    def last_lifecycle(self) -> Key:
        """The last lifecycle event that is held; (0, 0) for none."""
        return max((key for key, event in self._held.items() if event.is_lifecycle), default=(0, 0))

    def offer(self, event: Event) -> list[Event]:
        """Take one event, from wherever; return what can be delivered now."""
        key = (event.attempt, event.index)
        if self.is_done or event.is_duplicate_rejection or key < (self._attempt, self._next_index):
            return []
        if not self._held and key == (self._attempt, self._next_index):
            return self._deliver(key, event, [])  # Nearly all of them: nothing is missing and nothing waits.
        self._held.setdefault(key, event)
        return self._advance()

    def settle(self, *, final_before: datetime, proven: Key | None = None) -> list[Event]:
        """Give up the holes that are final, after everything stored has been offered.

        Args:
            final_before: an event made before this time had its chance: no publisher still tries to store
                anything that precedes it.
            proven: the last lifecycle event that was known before the reading began, so that what precedes it has
                been offered if it is stored; None for whichever is held now.
        """
        last_lifecycle = self.last_lifecycle if proven is None else proven
        delivered: list[Event] = []
        for key in sorted(self._held):
            if self.is_done or not (key <= last_lifecycle or self._held[key].time < final_before):
                break
            self._deliver(key, self._held.pop(key), delivered)
        return delivered + self._advance()

    def _advance(self) -> list[Event]:
        delivered: list[Event] = []
        while not self.is_done:
            if self._attempt_closed and (self._attempt + 1, 0) in self._held:
                self._attempt, self._next_index = self._attempt + 1, 0
            key = (self._attempt, self._next_index)
            if key not in self._held:
                break
            self._deliver(key, self._held.pop(key), delivered)
        return delivered

    def _deliver(self, key: Key, event: Event, delivered: list[Event]) -> list[Event]:
        delivered.append(event)
        first = self._next_index if key[0] == self._attempt else 0
        if key[1] > first:
            self.gaps.append(Gap(key[0], first, key[1] - 1))
        self._attempt, self._next_index = key[0], key[1] + 1
        # Whoever ended an attempt had everything of it stored first; only a crash leaves `started` as the last word.
        self._attempt_closed = event.is_lifecycle and event.type not in {STARTED, RESUMED}
        if event.is_terminal:
            self.is_done = True
            self._held.clear()
        return delivered
