"""What a runner does with a delivery: the table of PROTOCOL section 4 as one pure function.

A delivered command is a hint; the task's last lifecycle event decides. ``decide`` sees that event and the delivery
and answers with an action. It reads nothing, knows no clock (``now_s`` is handed in) and makes no ids.

What it leaves to its caller, because it needs another read: whether this process runs the task (adopt the
delivery), the cancel subject (a stored cancel wins over a claim), the answers to a listed interrupt, and whether a
resume that answers nothing now has been obeyed before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from cas_events.domain import events

# A delay up to this is a nak, which keeps its place in the agent's concurrency; a longer one is a schedule
# (PROTOCOL section 5).
NAK_DELAY_MAX_S = 5.0

# How often a task is looked at again that a newer version governs.
UNKNOWN_WAIT_S = 30.0

HANDOVER = "handover"


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """The last lifecycle event of a task, as far as the table looks at it.

    Attributes:
        type: its event type; empty for bytes that are no event.
        seq: its sequence in the log: the lock.
        attempt: its attempt.
        tries: ``data.tries``: what counts against ``max_attempts`` so far.
        command_seq: sequence of the command that governs the task.
        stored_s: when the server stored it, seconds since the epoch.
        source: who wrote it.
        runner: the runner of a `started`, empty otherwise.
        delay_s: of a `retrying`.
        is_handover: whether a `retrying` is a hand-over, which costs no try.
        interrupts: ids listed by an `interrupted`.
        timeouts: (id, seconds since the epoch) of the listed ones whose time is bounded.
        traceparent: of the event: the attempt that it belongs to, where that was traced.
    """

    type: str
    seq: int
    attempt: int
    tries: int
    command_seq: int
    stored_s: float
    source: str = ""
    runner: str = ""
    delay_s: float = 0.0
    is_handover: bool = False
    interrupts: tuple[str, ...] = ()
    timeouts: tuple[tuple[str, float], ...] = ()
    traceparent: str | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether nothing readable stands on the subject, only bytes that are no event of ours; they hold the lock."""
        return not self.type

    @property
    def is_terminal(self) -> bool:
        """Whether nothing may follow it."""
        return self.type in events.TERMINAL_TYPES


class Hint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a delivery says.

    Attributes:
        kind: execute, resume, or the wake of a schedule.
        command_seq: sequence of the command in `CAS_COMMANDS`; a wake names its execute's.
        interrupt: of a resume.
        wake_attempt: the attempt whose `retrying` a wake was stored for; 0 for a first start.
        delivered: how often this delivery was made, from 1.
    """

    kind: Literal["execute", "resume", "wake"]
    command_seq: int
    interrupt: str = ""
    wake_attempt: int = 0
    delivered: int = 1


class Claim(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Append `started`, expecting ``expected_seq`` on the lifecycle subject.

    Attributes:
        expected_seq: the lock.
        attempt: the attempt to open, or to go on with after a stored `resumed`.
        tries: what `data.tries` will be.
        resume: append `resumed` (index 0) before `started` (index 1).
        after_resumed: `resumed` is stored already; only `started` (index 1) is missing.
        after_crash: the last owner died in `started`; the agent's crash policy applies.
    """

    expected_seq: int
    attempt: int
    tries: int
    resume: bool = False
    after_resumed: bool = False
    after_crash: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Acknowledge; with ``ignored`` set, leave a `command_ignored` with this reason first."""

    ignored: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nak:
    """Ask for the delivery again after ``delay_s`` seconds, None for one lease: over `NAK_DELAY_MAX_S` as a schedule."""

    delay_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskOwner:
    """Ask the runner that wrote `started` whether it lives; on its death do ``then``."""

    runner: str
    fence_seq: int
    then: Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadAnswers:
    """The task is interrupted: look for a stored cancel and stored answers to ``interrupts``, else acknowledge.

    Of ``overdue`` the time is over: if nothing is stored, the default answer is given or the task fails.
    """

    expected_seq: int
    interrupts: tuple[str, ...]
    overdue: tuple[str, ...] = ()


Action = Claim | Ack | Nak | AskOwner | ReadAnswers


def decide(hint: Hint, last: Last | None, *, now_s: float) -> Action:
    """Answer a delivery (PROTOCOL section 4, the table)."""
    if last is None or last.is_foreign:
        return _decide_fresh(hint, lock_seq=last.seq if last else 0)
    if last.is_terminal:
        return _decide_ended(hint, last)
    if last.type not in events.LIFECYCLE_TYPES:
        # A newer version's event: leave the task to a runner that knows it.
        return Nak(delay_s=UNKNOWN_WAIT_S)
    if last.type == events.INTERRUPTED:
        return _decide_interrupted(hint, last, now_s=now_s)
    if last.command_seq != hint.command_seq and not _is_woken_by(hint, last):
        return _decide_governed_by_another(hint)
    return _decide_governed(last, now_s=now_s)


def _decide_fresh(hint: Hint, *, lock_seq: int) -> Action:
    if hint.kind == "resume":
        return Ack(ignored="the task has not started, so nothing waits for an answer")
    return Claim(expected_seq=lock_seq, attempt=1, tries=1)


def _decide_ended(hint: Hint, last: Last) -> Action:
    if hint.kind == "resume" and last.command_seq != hint.command_seq:
        return Ack(ignored="the task has ended")
    return Ack()


def _decide_interrupted(hint: Hint, last: Last, *, now_s: float) -> Action:
    if hint.kind == "resume":
        if hint.interrupt in last.interrupts:
            return answer(last)
        if hint.command_seq != last.command_seq:
            return Ack(ignored="the task does not wait for this interrupt")
        # It governs the attempt that asks, so nothing else may carry on what was stored before the question.
    elif hint.kind == "wake" and hint.command_seq != last.command_seq and not last.timeouts:
        return Ack()
    is_wake = hint.kind == "wake"
    overdue = tuple(name for name, due_s in last.timeouts if is_wake and due_s <= now_s)
    return ReadAnswers(expected_seq=last.seq, interrupts=last.interrupts, overdue=overdue)


def answer(last: Last) -> Claim:
    """Take a listed interrupt's answer: the next attempt, which counts its tries anew."""
    return Claim(expected_seq=last.seq, attempt=last.attempt + 1, tries=1, resume=True)


def _is_woken_by(hint: Hint, last: Last) -> bool:
    """Whether a wake is the one that a `retrying` waits for.

    It names the execute, while a resume may govern the attempt; what it is for is said by the attempt alone.
    """
    return hint.kind == "wake" and last.type == events.RETRYING and hint.wake_attempt == last.attempt


def _decide_governed_by_another(hint: Hint) -> Action:
    # A resume is given one more look, because the read that showed another command may have been stale.
    if hint.kind == "resume":
        return Nak(delay_s=None) if hint.delivered == 1 else Ack(ignored="the task waits for no answer")
    return Ack()


def _decide_governed(last: Last, *, now_s: float) -> Action:
    if last.type == events.RESUMED:
        return Claim(expected_seq=last.seq, attempt=last.attempt, tries=last.tries, after_resumed=True)
    claim = Claim(
        expected_seq=last.seq,
        attempt=last.attempt + 1,
        tries=next_tries(last),
        after_crash=last.type == events.STARTED,
    )
    if last.type == events.STARTED:
        return AskOwner(runner=last.runner, fence_seq=last.seq, then=claim)
    # A wake claims later attempts than its own, too: an attempt that it began and that gave it back, or whose runner
    # died before the next wake was stored, has no other delivery (found by simulation).
    wait_s = last.stored_s + last.delay_s - now_s
    return Nak(delay_s=wait_s) if wait_s > 0 else claim


def next_tries(last: Last | None) -> int:
    """`data.tries` of the `started` that follows ``last`` (PROTOCOL section 3).

    A crash and an error's retry count; a hand-over does not; an answer starts the count anew.
    """
    if last is None or last.type in {events.INTERRUPTED, events.RESUMED}:
        return 1
    return last.tries if last.is_handover else last.tries + 1


def after_error(
    *, retryable: bool, tries: int, max_attempts: int
) -> Literal["retry", "error", "attempts_exhausted"]:
    """What follows an attempt that ended in an error."""
    if not retryable or max_attempts == 1:
        return "error"
    return "retry" if tries < max_attempts else "attempts_exhausted"
