"""What operators change of an agent, for the whole fleet: pause, resume, and the settings of its consumers.

A pause is an event of the agent, and the server's own pause of its two consumers: it needs no runner, and survives the
restart of all of them. The order keeps it from being lost: paused in the log before the consumers are, and unpaused in
the log after they are. A runner whose breaker pauses the same consumers reads the same events: it never shortens an
operator's pause, and pauses anew for a breaker that is still open when that ends. Nothing here ends a running task.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal, TypeVar

from cas_events.agent_standing import known_standing, say
from cas_events.domain.agents import PAUSED, PAUSED_FOR_GOOD, UNPAUSED, UNPAUSED_SINCE
from cas_events.errors import InvalidLimitError, NotFoundError, UnknownAgentError
from cas_events.jetstream.api import ConsumerInfo, JetStream
from cas_events.jetstream.patience import patiently
from cas_events.jetstream.topology import ack_wait_s
from cas_events.wire.subjects import Names

T = TypeVar("T")

PauseAnswer = Literal["paused", "already_paused"]
ResumeAgentAnswer = Literal["resumed", "not_paused"]

LEASE_MIN_S = 1.0
CONCURRENCY_MAX = 1_000_000
_PATIENCE_S = 20.0
_NS = 1_000_000_000


class AgentControl:
    """Pauses, resumes and sets the agents of a deployment.

    Args:
        js: of the client.
        names: of the deployment.
        source: who asks, for the events.
    """

    def __init__(self, js: JetStream, names: Names, *, source: str) -> None:
        self._js = js
        self._names = names
        self._source = source

    async def pause(self, agent_id: str, reason: str) -> PauseAnswer:
        """See `Client.pause_agent`."""
        facts = (await known_standing(self._js, self._names, agent_id)).facts
        if not facts.is_paused:
            await self._say(PAUSED, agent_id, reason)
        await self._pause_until(agent_id, PAUSED_FOR_GOOD)
        return "already_paused" if facts.is_paused else "paused"

    async def resume(self, agent_id: str, reason: str) -> ResumeAgentAnswer:
        """See `Client.resume_agent`."""
        facts = (await known_standing(self._js, self._names, agent_id)).facts
        if not facts.is_paused:
            return "not_paused"  # What a breaker paused goes on at its probe time.
        await self._pause_until(agent_id, UNPAUSED_SINCE)
        await self._say(UNPAUSED, agent_id, reason)
        return "resumed"

    async def set(self, agent_id: str, *, concurrency: int | None, lease_s: float | None) -> dict[str, Any]:
        """See `Client.set_agent`."""
        changes: dict[str, Any] = {}
        if concurrency is not None:
            if isinstance(concurrency, bool) or not 1 <= concurrency <= CONCURRENCY_MAX:
                raise InvalidLimitError("concurrency", concurrency, f"from 1 to {CONCURRENCY_MAX:,}")
            changes["max_ack_pending"] = int(concurrency)
        if lease_s is not None:
            if not LEASE_MIN_S <= lease_s <= 3_600:
                raise InvalidLimitError("lease_s", lease_s, f"from {LEASE_MIN_S:g} to 3,600 seconds")
            changes["ack_wait"] = int(lease_s * _NS)
        await known_standing(self._js, self._names, agent_id)
        infos = [await self._update(stream, name, changes) for stream, name in self._consumers(agent_id)]
        config = infos[0].config
        return {"concurrency": config.get("max_ack_pending"), "lease_s": ack_wait_s(infos[0])}

    async def _update(self, stream: str, name: str, changes: dict[str, Any]) -> ConsumerInfo:
        info = await self._info(stream, name)
        if all(info.config.get(field) == value for field, value in changes.items()):
            return info
        config = info.config | changes
        return await patiently(
            lambda: self._js.create_consumer(stream, config, action="update"), give_up_s=_PATIENCE_S
        )

    async def _info(self, stream: str, name: str) -> ConsumerInfo:
        return await self._of_a_served_agent(name, lambda: self._js.consumer_info(stream, name))

    async def _pause_until(self, agent_id: str, moment: str) -> None:
        for stream, name in self._consumers(agent_id):
            await self._of_a_served_agent(name, partial(self._js.pause_consumer, stream, name, moment))

    async def _of_a_served_agent(self, consumer: str, call: Callable[[], Awaitable[T]]) -> T:
        try:
            return await patiently(call, give_up_s=_PATIENCE_S)
        except NotFoundError:  # The first runner makes it.
            raise UnknownAgentError(consumer.partition("-")[2]) from None

    def _consumers(self, agent_id: str) -> tuple[tuple[str, str], ...]:
        return (self._names.commands, f"agent-{agent_id}"), (self._names.timers, f"wake-{agent_id}")

    async def _say(self, type_: str, agent_id: str, reason: str) -> None:
        data = {"reason": reason} if reason else {}
        await say(self._js, self._names, type_, agent_id, data, source=self._source)
