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


def woken_command(payload: bytes) -> int:
    """Sequence of the command that governs the attempt that a wake was stored for; 0 if the payload is not ours."""
    try:
        body = decode_json(payload)
    except WireError:
        return 0
    command_seq = body.get("command_seq") if isinstance(body, dict) else None
    return command_seq if isinstance(command_seq, int) else 0


async def store_wake(place: Workplace, facts: TaskFacts, *, attempt: int, delay_s: float) -> None:
    """Store the schedule that wakes a task; returns once the server has it.

    Args:
        place: what the process shares.
        facts: the task.
        attempt: the attempt whose `retrying` waits; 0 for a first start.
        delay_s: how long from now; whoever is woken too early waits again.
    """
    delay_s = min(max(delay_s, 0.0), WAKE_MAX_S)
    due = place.names.due(facts.agent_id, facts.task_id, attempt)
    at = format_time(time.time_ns() + int(delay_s * 1e9))
    header = build_header({"Nats-Schedule": f"@at {at}", "Nats-Schedule-Target": due})
    payload = encode_json(
        {"for": "retry" if attempt else "not_before", "attempt": attempt, "command_seq": facts.command_seq},
        path="wake",
    )
    subject = place.names.timer(facts.agent_id, facts.task_id)
    # Storing it twice is harmless: a subject holds one schedule.
    await patiently(lambda: place.js.append(subject, payload, header=header))


async def wake_now(place: Workplace, agent_id: str, task_id: str) -> None:
    """Wake a task that has not started; harmless if it has."""
    due = place.names.due(agent_id, task_id, 0)
    payload = encode_json({"for": "turn", "attempt": 0}, path="wake")
    await patiently(lambda: place.js.append(due, payload))
