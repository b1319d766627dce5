"""Which lifecycle a task may have: the state machine of PROTOCOL sections 3 and 4, for whoever checks a stored log.

A runner needs none of this, since the lock and the table of `decide` keep it; it is written down a second time, on
purpose, to check what they left behind. Pure: one event after the other, in the order of the log.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cas_events.domain.decide import HANDOVER
from cas_events.domain.events import (
    CANCELLED,
    COMPLETED,
    FAILED,
    INTERRUPTED,
    REJECTED,
    RESUMED,
    RETRYING,
    STARTED,
    TERMINAL_TYPES,
)

_ENDS_WITHOUT_A_RUN = frozenset({FAILED, CANCELLED, REJECTED})
# What may follow what; "" is the beginning.
FOLLOWS: Mapping[str, frozenset[str]] = {
    "": _ENDS_WITHOUT_A_RUN | {STARTED},
    STARTED: TERMINAL_TYPES | {STARTED, RETRYING, INTERRUPTED},
    RETRYING: _ENDS_WITHOUT_A_RUN | {STARTED},
    # An invalid answer leads to new questions.
    INTERRUPTED: _ENDS_WITHOUT_A_RUN | {RESUMED, INTERRUPTED},
    RESUMED: _ENDS_WITHOUT_A_RUN | {STARTED},
    **dict.fromkeys((COMPLETED, FAILED, CANCELLED, REJECTED), frozenset()),
}


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A lifecycle event, as far as the machine looks at it; the default is the beginning.

    Attributes:
        type: its type, one of `FOLLOWS`.
        attempt: its attempt.
        index: its index in the attempt.
        tries: ``data.tries``; None if it has none, or is of a data version that is not known.
        is_handover: whether it is a `retrying` that hands over.
    """

    type: str = ""
    attempt: int = 0
    index: int = 0
    tries: int | None = None
    is_handover: bool = False

    @property
    def name(self) -> str:
        """For a message."""
        return f"{self.type} ({self.attempt}, {self.index})" if self.type else "nothing"


BEGINNING = Step()


def is_handover(error: object) -> bool:
    """Whether the error of a `retrying` is a hand-over."""
    return isinstance(error, Mapping) and error.get("type") == HANDOVER


def complaint(before: Step, after: Step) -> str:
    """Why a lifecycle event must not follow another one; empty if it may."""
    if before.type in TERMINAL_TYPES:
        return f"{after.name} follows the end, {before.name}"
    if after.type not in FOLLOWS[before.type] or not _key_follows(before, after):
        return f"{after.name} follows {before.name}"
    due = _tries_due(before, after)
    if due is not None and after.tries is not None and after.tries != due and after.type != REJECTED:
        return f"{after.name} says {after.tries} tries, not {due}, after {before.name}"
    return ""


def _key_follows(before: Step, after: Step) -> bool:
    """An attempt is opened with index 0; within one, the index rises; an answer is followed by a start."""
    opens = (after.attempt, after.index) == (before.attempt + 1, 0)
    if before == BEGINNING or after.type == RESUMED:
        return opens
    if after.type == STARTED:
        return (
            (after.attempt, after.index) == (before.attempt, before.index + 1)
            if before.type == RESUMED
            else opens
        )
    return opens or (after.attempt == before.attempt and after.index > before.index)


def _tries_due(before: Step, after: Step) -> int | None:
    """What the event must say; None if the one before did not say it."""
    if RESUMED in (after.type, before.type):
        return 1
    if before == BEGINNING:
        return int(after.type == STARTED)
    if before.tries is None or after.type != STARTED or before.is_handover:
        return before.tries
    return before.tries + 1
