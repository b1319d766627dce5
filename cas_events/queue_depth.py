"""How many tasks of an agent wait for their start: what no runner has taken, and what waits before a lane."""

from __future__ import annotations

from cas_events.errors import NotFoundError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.patience import patiently
from cas_events.wire.flow import all_waiting
from cas_events.wire.subjects import Names

_PATIENCE_S = 20.0


async def waiting_before_lanes(js: JetStream, names: Names, agent_id: str) -> int:
    """How many tasks of an agent wait for a slot of their key or a start time."""
    return await patiently(
        lambda: js.count(names.checkpoints, all_waiting(names, agent_id)), give_up_s=_PATIENCE_S
    )


async def queue_depth(js: JetStream, names: Names, agent_id: str) -> int:
    """How many tasks of an agent wait in all; those that another client sends at this moment are not counted."""
    waiting = await waiting_before_lanes(js, names, agent_id)
    try:
        info = await patiently(
            lambda: js.consumer_info(names.commands, f"agent-{agent_id}"), give_up_s=_PATIENCE_S
        )
    except NotFoundError:
        return waiting
    return info.num_pending + waiting
