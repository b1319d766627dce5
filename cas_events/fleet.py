"""The fleet as an operator sees it: which runners live, and how each agent stands.

What the log knows of an agent is folded from its own subject; who serves it now, the runners say themselves when they
are asked (`wire.beats`); what waits, the agent's consumer says. No projector is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

import msgspec

from cas_events.agent_standing import standing_of
from cas_events.domain.agents import AgentFacts, NewTasks
from cas_events.errors import NotFoundError, WireError
from cas_events.jetstream.api import ConsumerInfo, JetStream
from cas_events.jetstream.connection import Message
from cas_events.jetstream.patience import patiently
from cas_events.jetstream.topology import ack_wait_s
from cas_events.queue_depth import waiting_before_lanes
from cas_events.wire.beats import BEAT_S, Beat, decode_beat
from cas_events.wire.subjects import Names

QUIET_S = 0.3
_PATIENCE_S = 20.0
_NO_RESPONDERS = 503


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as it stands now.

    Attributes:
        agent_id: its name.
        runners: how many live runner processes serve it.
        running: its tasks that run, also on runners that no longer offer it.
        queued: commands that wait for a runner, never taken or given back, and tasks that wait for a slot of their key or a
            start time.
        is_paused: whether an operator stopped its intake.
        breaker: ``closed``, ``open`` or ``half_open``.
        status: ``registered`` or ``deregistered``.
        new_tasks: of a deregistered agent, what becomes of new tasks, ``wait`` or ``refuse``; None otherwise.
        version: as last registered.
        last_seen: the newest sign of life: a live runner's beat, or else what its consumer saw last.
        concurrency: how many of its tasks run at once, fleet-wide.
        lease_s: its lease, in seconds; both None if it has no consumer yet.
    """

    agent_id: str
    runners: int
    running: int
    queued: int
    is_paused: bool
    breaker: str
    status: str | None
    new_tasks: NewTasks | None
    version: str
    last_seen: datetime | None
    concurrency: int | None
    lease_s: float | None


async def beats(js: JetStream, names: Names, *, quiet_s: float = QUIET_S) -> list[Beat]:
    """What the live runners answer, by runner; at most a beat and a little is waited for the first.

    Args:
        js: to ask with.
        names: of the deployment.
        quiet_s: how long to wait for one more, in seconds: who has not answered by then is not there.
    """
    connection, loop = js.connection, asyncio.get_running_loop()
    found: dict[str, Beat] = {}
    nobody = asyncio.Event()
    heard = asyncio.Event()

    def receive(answer: Message) -> None:
        if answer.status == _NO_RESPONDERS:
            nobody.set()
        else:
            try:
                beat = decode_beat(answer.data)
            except WireError:
                return
            found[beat.runner] = beat
        heard.set()

    inbox = connection.new_inbox()
    subscription = connection.listen(inbox, receive)
    try:
        connection.publish(names.beats, b"", reply=inbox)
        deadline_s = loop.time() + BEAT_S + quiet_s
        while not nobody.is_set() and loop.time() < deadline_s:
            heard.clear()
            wait_s = min(quiet_s, deadline_s - loop.time()) if found else deadline_s - loop.time()
            try:
                await asyncio.wait_for(heard.wait(), max(wait_s, 0.001))
            except TimeoutError:
                break
    finally:
        subscription.unsubscribe()
    return sorted(found.values(), key=lambda beat: beat.runner)


async def agent_statuses(js: JetStream, names: Names) -> list[AgentStatus]:
    """Every agent that the log knows, by name."""
    newest = await patiently(
        lambda: js.direct_last(names.events, [names.agent_event("*")]), give_up_s=_PATIENCE_S
    )
    agent_ids = sorted(message.subject.rpartition(".")[2] for message in newest)
    living = await beats(js, names)
    return [await _status(js, names, agent_id, living) for agent_id in agent_ids]


async def _status(js: JetStream, names: Names, agent_id: str, living: Sequence[Beat]) -> AgentStatus:
    facts = (await standing_of(js, names, agent_id)).facts
    consumer = await _consumer(js, names.commands, f"agent-{agent_id}")
    wakes = await _consumer(js, names.timers, f"wake-{agent_id}")
    serving = [beat for beat in living if agent_id in beat.agents]
    running = sum(beat.agents.get(agent_id, 0) + beat.withdrawn.get(agent_id, 0) for beat in living)
    return AgentStatus(
        agent_id=agent_id,
        runners=len(serving),
        running=running,
        queued=_queued(consumer, wakes, running=running) + await waiting_before_lanes(js, names, agent_id),
        is_paused=facts.is_paused,
        breaker=facts.breaker,
        status=facts.status,
        new_tasks=facts.new_tasks if facts.is_deregistered else None,
        version=facts.version,
        last_seen=_last_seen(facts, consumer, serving),
        concurrency=int(consumer.config.get("max_ack_pending", 0)) if consumer else None,
        lease_s=ack_wait_s(consumer) if consumer else None,
    )


def _queued(*consumers: ConsumerInfo | None, running: int) -> int:
    """What was never delivered, and what was and is not being run: given back, or its runner is gone."""
    left = sum(one.num_pending + one.num_ack_pending for one in consumers if one is not None)
    return max(0, left - running)


async def _consumer(js: JetStream, stream: str, name: str) -> ConsumerInfo | None:
    try:
        return await patiently(lambda: js.consumer_info(stream, name), give_up_s=_PATIENCE_S)
    except NotFoundError:
        return None


def _last_seen(facts: AgentFacts, consumer: ConsumerInfo | None, serving: Sequence[Beat]) -> datetime | None:
    if serving:
        return max(datetime.fromisoformat(beat.time) for beat in serving)
    seen = [facts.registered_at] if facts.registered_at is not None else []
    if consumer is not None:
        marks = (consumer.delivered.last_active, consumer.ack_floor.last_active)
        seen += [mark for mark in marks if mark is not None]
    return max(seen, default=None)
