"""Waits longer than a nak may hold a place: stored as message schedules (PROTOCOL section 5).

The schedule fires on ``cas.due.<agent>.<task>.<n>``, where the agent's wake consumer finds it; it says what it is
for, and whoever gets it acts only if that still stands.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cas_events.errors import WireError
from cas_events.jetstream.connection import build_header
from cas_events.jetstream.patience import patiently
from cas_events.wire.envelope import format_time
from cas_events.wire.jsonvalue import decode_json, encode_json

if TYPE_CHECKING:
    from cas_events.runner.facts import TaskFacts
    from cas_events.runner.workplace import Workplace


# The server counts nanoseconds in 63 bits, so the year 2300 is in its past: it would fire at once, again and again.
WAKE_MAX_S = 30 * 86_400.0

# What a wake is for, where more than the time has to come.
TURN = "turn"
START = "start"  # its start time has been given to the task
LOOK = "look"  # whether somebody died before passing a turn on


def woken_command(payload: bytes) -> int:
    """Sequence of the command that governs the attempt that a wake was stored for; 0 if the payload is not ours."""
    try:
        body = decode_json(payload)
    except WireError:
        return 0
    command_seq = body.get("command_seq") if isinstance(body, dict) else None
    return command_seq if isinstance(command_seq, int) else 0


async def store_wake(
    place: Workplace,
    facts: TaskFacts,
    *,
    attempt: int,
    delay_s: float,
    purpose: str = "",
    command_seq: int | None = None,
) -> None:
    """Store the schedule that wakes a task; returns once the server has it.

    Args:
        place: what the process shares.
        facts: the task.
        attempt: the attempt whose `retrying` waits; 0 for a first start.
        delay_s: how long from now; whoever is woken too early waits again.
        purpose: what it is for, if that does not follow from the attempt.
        command_seq: the command that governs the attempt; that of the task without it.
    """
    delay_s = min(max(delay_s, 0.0), WAKE_MAX_S)
    governing = facts.command_seq if command_seq is None else command_seq
    payload = _payload(purpose or ("retry" if attempt else "not_before"), attempt, governing)
    at_ns = time.time_ns() + int(delay_s * 1e9)
    await _store_schedule(place, facts.key, attempt, payload, at_ns=at_ns)


async def wake_now(
    place: Workplace, agent_id: str, task_id: str, *, attempt: int = 0, command_seq: int = 0
) -> None:
    """Wake a task whose turn has come; harmless if it has started meanwhile.

    Args:
        place: what the process shares.
        agent_id: its agent.
        task_id: the task.
        attempt: the attempt that has ended before; 0 for a first start.
        command_seq: the command that governs it then.
    """
    due = place.names.due(agent_id, task_id, attempt)
    payload = _payload(TURN, attempt, command_seq)
    await patiently(lambda: place.js.append(due, payload))


async def wake_if_alone(place: Workplace, agent_id: str, task_id: str) -> None:
    """Wake a task that has not started, unless such a wake of it is stored and not dealt with.

    Raises:
        WrongLastSequenceError: one is, or may be.
        ServerError: it could not be stored.
    """
    due = place.names.due(agent_id, task_id, 0)
    await place.js.append(due, _payload(TURN, 0, 0), expected_last_seq=0)


async def store_start(
    place: Workplace, task: tuple[str, str], attempt: int, command_seq: int, *, start_ns: int
) -> None:
    """Wake a task (its agent and id) at the start time that it has been given; see `wake_now`."""
    payload = _payload(START, attempt, command_seq)
    await _store_schedule(place, task, attempt, payload, at_ns=start_ns)


def purpose_of(payload: bytes) -> str:
    """What a wake says that it is for; empty if it says nothing."""
    try:
        body = decode_json(payload)
    except WireError:
        return ""
    purpose = body.get("for") if isinstance(body, dict) else None
    return purpose if isinstance(purpose, str) else ""


def _payload(purpose: str, attempt: int, command_seq: int) -> bytes:
    return encode_json({"for": purpose, "attempt": attempt, "command_seq": command_seq}, path="wake")


async def _store_schedule(
    place: Workplace, task: tuple[str, str], attempt: int, payload: bytes, *, at_ns: int
) -> None:
    header = build_header(
        {
            "Nats-Schedule": f"@at {format_time(at_ns)}",
            "Nats-Schedule-Target": place.names.due(*task, attempt),
        }
    )
    # Storing it twice is harmless: a subject holds one schedule.
    await patiently(lambda: place.js.append(place.names.timer(*task), payload, header=header))
