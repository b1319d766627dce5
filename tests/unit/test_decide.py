"""The delivery table of PROTOCOL section 4, cell by cell.

Goal: every cell of the table is what `decide` answers. Method: one parametrised case a cell; the expected action is
written from the document, not from the code.
"""

from __future__ import annotations

import pytest

from cas_events.domain import events
from cas_events.domain.decide import (
    UNKNOWN_WAIT_S,
    Ack,
    AskOwner,
    Claim,
    Hint,
    Last,
    Nak,
    ReadAnswers,
    after_error,
    decide,
    next_tries,
)

NOW_S = 1_000.0
COMMAND = 17
OTHER = 12


def last(type_: str, **fields) -> Last:
    known = {"seq": 90, "attempt": 2, "tries": 2, "command_seq": COMMAND, "stored_s": NOW_S - 1}
    return Last(type=type_, **{**known, **fields})


def hint(kind: str, **fields) -> Hint:
    return Hint(kind=kind, **{"command_seq": COMMAND, **fields})


FRESH = Claim(expected_seq=0, attempt=1, tries=1)


@pytest.mark.parametrize(
    ("delivered", "state", "expected"),
    [
        # none
        (hint("execute"), None, FRESH),
        (hint("wake"), None, FRESH),
        # interrupted
        (
            hint("execute"),
            last(events.INTERRUPTED, interrupts=("a-1",)),
            ReadAnswers(expected_seq=90, interrupts=("a-1",)),
        ),
        (hint("wake", command_seq=OTHER), last(events.INTERRUPTED, interrupts=("a-1",)), Ack()),
        (
            hint("wake"),  # it governs the attempt that asks
            last(events.INTERRUPTED, interrupts=("a-1",)),
            ReadAnswers(expected_seq=90, interrupts=("a-1",)),
        ),
        (
            hint("wake", command_seq=OTHER),
            last(
                events.INTERRUPTED,
                interrupts=("a-1", "b-1"),
                timeouts=(("a-1", NOW_S - 1), ("b-1", NOW_S + 1)),
            ),
            ReadAnswers(expected_seq=90, interrupts=("a-1", "b-1"), overdue=("a-1",)),
        ),
        (
            hint("execute"),
            last(events.INTERRUPTED, interrupts=("a-1",), timeouts=(("a-1", NOW_S - 1),)),
            ReadAnswers(expected_seq=90, interrupts=("a-1",)),
        ),
        (
            hint("resume", interrupt="x-1"),  # its answer began the attempt that asks now
            last(events.INTERRUPTED, interrupts=("a-1",)),
            ReadAnswers(expected_seq=90, interrupts=("a-1",)),
        ),
        (
            hint("resume", interrupt="a-1"),
            last(events.INTERRUPTED, interrupts=("a-1", "b-1"), command_seq=OTHER),
            Claim(expected_seq=90, attempt=3, tries=1, resume=True),
        ),
        # started, retrying, resumed of another command
        (hint("execute"), last(events.STARTED, command_seq=OTHER), Ack()),
        (hint("resume"), last(events.STARTED, command_seq=OTHER), Nak(delay_s=None)),
        (
            hint("resume", delivered=2),
            last(events.RETRYING, command_seq=OTHER),
            Ack(ignored="the task waits for no answer"),
        ),
        (hint("wake"), last(events.RESUMED, command_seq=OTHER), Ack()),
        # started by the same command: ask, and on the owner's death claim the next attempt at the cost of a try
        (
            hint("execute"),
            last(events.STARTED, runner="r1"),
            AskOwner(
                runner="r1",
                fence_seq=90,
                then=Claim(expected_seq=90, attempt=3, tries=3, after_crash=True),
            ),
        ),
        # retrying of the same command
        (hint("execute"), last(events.RETRYING, delay_s=4.0), Nak(delay_s=3.0)),
        (hint("execute"), last(events.RETRYING, delay_s=0.5), Claim(expected_seq=90, attempt=3, tries=3)),
        (
            hint("execute"),
            last(events.RETRYING, delay_s=0.0, is_handover=True),
            Claim(expected_seq=90, attempt=3, tries=2),
        ),
        (hint("wake", wake_attempt=2), last(events.RETRYING), Claim(expected_seq=90, attempt=3, tries=3)),
        # a wake that began an attempt goes on with the next one: it is the only delivery that there is
        (hint("wake", wake_attempt=1), last(events.RETRYING), Claim(expected_seq=90, attempt=3, tries=3)),
        (hint("wake", wake_attempt=1), last(events.RETRYING, delay_s=4.0), Nak(delay_s=3.0)),
        # a wake names the execute, also when a resume governs the attempt that stored it
        (
            hint("wake", wake_attempt=2),
            last(events.RETRYING, command_seq=OTHER),
            Claim(expected_seq=90, attempt=3, tries=3),
        ),
        (hint("wake", wake_attempt=1), last(events.RETRYING, command_seq=OTHER), Ack()),
        # resumed of the same command: go on with started, in the same attempt
        (
            hint("resume"),
            last(events.RESUMED, tries=1),
            Claim(expected_seq=90, attempt=2, tries=1, after_resumed=True),
        ),
    ],
)
def test_each_cell_of_the_table(delivered: Hint, state: Last | None, expected) -> None:
    assert decide(delivered, state, now_s=NOW_S) == expected


def test_foreign_bytes_hold_the_lock_and_nothing_else() -> None:
    foreign = last("", seq=33, attempt=0, tries=0, command_seq=0)

    assert decide(hint("execute"), foreign, now_s=NOW_S) == Claim(expected_seq=33, attempt=1, tries=1)


def test_an_event_of_a_newer_version_is_left_to_a_runner_that_knows_it() -> None:
    assert decide(hint("execute"), last("cas.task.paused"), now_s=NOW_S) == Nak(delay_s=UNKNOWN_WAIT_S)


@pytest.mark.parametrize("kind", ["execute", "resume", "wake"])
@pytest.mark.parametrize("terminal", sorted(events.TERMINAL_TYPES))
def test_nothing_follows_a_terminal_event(kind: str, terminal: str) -> None:
    assert decide(hint(kind), last(terminal), now_s=NOW_S) == Ack()


@pytest.mark.parametrize("terminal", sorted(events.TERMINAL_TYPES))
def test_a_resume_of_a_task_that_has_ended_is_said_unless_it_governed_the_end(terminal: str) -> None:
    ended = last(terminal, command_seq=OTHER)

    assert decide(hint("resume"), ended, now_s=NOW_S) == Ack(ignored="the task has ended")
    assert decide(hint("execute"), ended, now_s=NOW_S) == decide(hint("wake"), ended, now_s=NOW_S) == Ack()


def test_a_resume_that_answers_nothing_is_acknowledged_and_said() -> None:
    unknown = decide(
        hint("resume", interrupt="x", command_seq=OTHER),
        last(events.INTERRUPTED, interrupts=("a-1",)),
        now_s=NOW_S,
    )
    fresh = decide(hint("resume", interrupt="x"), None, now_s=NOW_S)

    assert isinstance(unknown, Ack)
    assert unknown.ignored
    assert isinstance(fresh, Ack)
    assert fresh.ignored


@pytest.mark.parametrize(
    ("state", "tries"),
    [
        (None, 1),
        (last(events.STARTED, tries=2), 3),
        (last(events.RETRYING, tries=2), 3),
        (last(events.RETRYING, tries=2, is_handover=True), 2),
        (last(events.INTERRUPTED, tries=3), 1),
        (last(events.RESUMED, tries=1), 1),
    ],
)
def test_tries_count_crashes_and_errors_but_no_handover_or_answer(state: Last | None, tries: int) -> None:
    assert next_tries(state) == tries


@pytest.mark.parametrize(
    ("retryable", "tries", "max_attempts", "expected"),
    [
        (True, 1, 3, "retry"),
        (True, 3, 3, "attempts_exhausted"),
        (True, 1, 1, "error"),
        (False, 1, 3, "error"),
    ],
)
def test_what_follows_an_error(retryable: bool, tries: int, max_attempts: int, expected: str) -> None:
    assert after_error(retryable=retryable, tries=tries, max_attempts=max_attempts) == expected
