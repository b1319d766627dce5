"""The consumers that a runner pulls from: made if they are not there, adopted as they are if they are.

Two are the deployment's, shared by all runners (cancels, and what recurring schedules start), and two are each agent's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from cas_events.jetstream.api import JetStream
from cas_events.jetstream.topology import (
    ack_wait_s,
    agent_consumer,
    cancel_consumer,
    cron_consumer,
    ensure_consumer,
    wake_consumer,
)
from cas_events.runner.holds import Source
from cas_events.wire.subjects import Names


async def open_sources(
    js: JetStream, names: Names, agent_ids: Iterable[str], *, lease_s: float, places: int
) -> list[Source]:
    """Make or adopt the consumers to pull from.

    Args:
        js: of the runner.
        names: of the deployment.
        agent_ids: what it serves.
        lease_s: redelivery time of a consumer that is made.
        places: fleet-wide concurrency of an agent whose consumer is made.

    Raises:
        TopologyMismatchError: one exists with other filters.
    """
    deployment = names.deployment
    specs = [
        ("cancel", "", cancel_consumer(deployment, lease_s)),
        ("cron", "", cron_consumer(deployment, lease_s)),
    ]
    for agent_id in agent_ids:
        task = agent_consumer(deployment, agent_id, lease_s, places)
        wake = wake_consumer(deployment, agent_id, lease_s, places)
        specs += [("task", agent_id, task), ("wake", agent_id, wake)]
    infos = await asyncio.gather(*(ensure_consumer(js, spec) for _, _, spec in specs))
    return [
        Source(kind=kind, spec=spec, agent_id=agent_id, ack_wait_s=ack_wait_s(info))
        for (kind, agent_id, spec), info in zip(specs, infos, strict=True)
    ]
