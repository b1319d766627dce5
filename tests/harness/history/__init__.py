"""The checker: what a deployment's streams recorded, and each promise as a function over it.

One history, one checker: every fault test and the torture read the streams back with `read_history` and hand the
result to the functions below. Each returns complaints, one line each, and an empty list when the promise holds.
The functions are in
`commands`, `attempts` and `telemetry`, by what they look at; `check` is all of those that need nothing but the log. Numbers are those of DESIGN.md; rules are PROTOCOL's.

It shares nothing with the code under test but the reading of streams and envelopes: the rules are written down here
a second time, on purpose. `tests/faults/test_history.py` shows every function a history that it must refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tests.harness.history.attempts import (
    events_name_their_command,
    fenced_writers_are_silent,
    indexes_are_unique,
    lifecycles_are_strict,
    tries_are_bounded,
    tries_are_counted,
)
from tests.harness.history.commands import (
    acknowledged_are_stored,
    bad_commands_are_rejected,
    cancels_are_final,
    every_task_ends,
    repeated_ids_are_refused,
    streams_are_whole,
)
from tests.harness.history.reading import read_history
from tests.harness.history.records import STARTED, Command, Complaints, History, Recorded, unfinished
from tests.harness.history.telemetry import (
    floods_are_bounded,
    follower_saw_everything,
    large_values_are_elsewhere,
    telemetry_belongs_to_its_attempt,
    telemetry_precedes_the_end,
)

__all__ = [
    "CHECKS",
    "STARTED",
    "Command",
    "History",
    "Recorded",
    "acknowledged_are_stored",
    "bad_commands_are_rejected",
    "cancels_are_final",
    "check",
    "events_name_their_command",
    "every_task_ends",
    "fenced_writers_are_silent",
    "floods_are_bounded",
    "follower_saw_everything",
    "indexes_are_unique",
    "large_values_are_elsewhere",
    "lifecycles_are_strict",
    "read_history",
    "repeated_ids_are_refused",
    "streams_are_whole",
    "telemetry_belongs_to_its_attempt",
    "telemetry_precedes_the_end",
    "tries_are_bounded",
    "tries_are_counted",
    "unfinished",
]

CHECKS: Mapping[str, Callable[[History], Complaints]] = {
    "1 streams whole": streams_are_whole,
    "1 every task ends once": every_task_ends,
    "1 repeated ids refused": repeated_ids_are_refused,
    "2 lifecycle strict": lifecycles_are_strict,
    "2 indexes unique": indexes_are_unique,
    "2 commands named": events_name_their_command,
    "3 fenced writers silent": fenced_writers_are_silent,
    "3 telemetry in its attempt": telemetry_belongs_to_its_attempt,
    "6 telemetry before the end": telemetry_precedes_the_end,
    "4 tries counted": tries_are_counted,
    "4 tries bounded": tries_are_bounded,
    "5 cancels final": cancels_are_final,
    "8 floods bounded": floods_are_bounded,
    "8 large values elsewhere": large_values_are_elsewhere,
    "9 bad commands rejected": bad_commands_are_rejected,
}


def check(history: History, acknowledged: Iterable[tuple[str, int]] = ()) -> Complaints:
    """Every check that the log alone answers; empty when every promise holds."""
    complaints = [
        f"1 acknowledged are stored: {text}" for text in acknowledged_are_stored(history, acknowledged)
    ]
    for name, function in CHECKS.items():
        complaints += [f"{name}: {text}" for text in function(history)]
    return complaints
