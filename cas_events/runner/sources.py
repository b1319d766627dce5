"""The consumers that a runner pulls from: made if they are not there, adopted as they are if they are.

Two are the deployment's, shared by all runners (cancels, and what recurring schedules start), and two are each agent's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from cas_events.jetstream.api import JetStream
from cas_events.jetstream.topology import (
    ConsumerSpec,
    ack_wait_s,
    agent_consumer,
    cancel_consumer,
    cron_consumer,
    ensure_consumer,
    wake_consumer,
)
from cas_events.runner.holds import Source
from cas_events.runner.roster import Roster
from cas_events.wire.subjects import Names

AGENT_PLACES_FLEET = 1_000


async def agent_sources(js: JetStream, names: Names, agent_id: str, *, lease_s: float) -> tuple[Source, ...]:
    """Make or adopt the consumers of an agent.

    Raises:
        TopologyMismatchError: one exists with other filters.
    """
    task = agent_consumer(names.deployment, agent_id, lease_s, AGENT_PLACES_FLEET)
    wake = wake_consumer(names.deployment, agent_id, lease_s, AGENT_PLACES_FLEET)
    own = await asyncio.gather(_source(js, "task", agent_id, task), _source(js, "wake", agent_id, wake))
    return tuple(own)


async def open_roster(js: JetStream, names: Names, agent_ids: Iterable[str], *, lease_s: float) -> Roster:
    """The duties of a process with code for these agents; nothing of them is pulled before the log has been read.

    Args:
        js: of the runner.
        names: of the deployment.
        agent_ids: what it has code for.
        lease_s: redelivery time of a consumer that is made.

    Raises:
        TopologyMismatchError: a consumer exists with other filters.
    """
    known = tuple(agent_ids)
    cancels, crons, *owned = await asyncio.gather(
        _shared(js, "cancel", cancel_consumer(names.deployment, lease_s)),
        _shared(js, "cron", cron_consumer(names.deployment, lease_s)),
        *(agent_sources(js, names, agent_id, lease_s=lease_s) for agent_id in known),
    )
    roster = Roster(*cancels, *crons)
    for agent_id, sources in zip(known, owned, strict=True):
        roster.add(agent_id, sources)
    return roster


async def _shared(js: JetStream, kind: str, spec: ConsumerSpec) -> tuple[Source, ...]:
    return (await _source(js, kind, "", spec),)


async def _source(js: JetStream, kind: str, agent_id: str, spec: ConsumerSpec) -> Source:
    info = await ensure_consumer(js, spec)
    return Source(kind=kind, spec=spec, agent_id=agent_id, ack_wait_s=ack_wait_s(info))
