"""Serving what the log has registered, of the agents that this process has code for.

An agent is registered or deregistered for the whole deployment (`agent_standing`), and every runner follows: it hears the
agent's events as they are stored, and looks at the log again every `LOOK_S` seconds, because what is heard may be lost.
A deregistered agent is not offered any more, here or after a restart, until somebody registers it again. What runs goes on to
its end; what has not begun waits in its consumer, unpulled, or is pulled to be rejected. An agent that leaves only this
process (`leave`) says nothing in the log: others may serve it.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from cas_events.agent_standing import DeregisterAnswer, Standing, deregister, standing_of
from cas_events.domain.agents import NewTasks
from cas_events.errors import CasEventsError, WireError
from cas_events.jetstream.connection import Message
from cas_events.jetstream.subscriptions import Subscription
from cas_events.runner import agent_events
from cas_events.runner.registry import AgentSpec
from cas_events.runner.sources import agent_sources
from cas_events.runner.workplace import Workplace
from cas_events.wire.envelope import decode_event

_log = logging.getLogger(__name__)

LOOK_S = 5.0
FOLLOW_S = 20.0  # a keeper that has lost its connection takes a while
_SUBJECTS_AT_ONCE = 512


class Serving:
    """Keeps the roster of one process as the log says.

    Args:
        place: what the process shares.
    """

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._known: dict[str, Standing] = {}
        self._changed = asyncio.Event()
        self._anew: set[str] = set()
        self._heard: Subscription | None = None
        self._forgetting: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Announce what this process has code for, and begin to follow what the log says of it."""
        names = self._place.names
        self._heard = self._place.connection.listen(names.live(names.agent_event("*")), self._hear)
        await asyncio.gather(*(self._announce(spec) for spec in self._place.agents.values()))

    def close(self) -> None:
        """Listen no more."""
        if self._heard is not None:
            self._heard.unsubscribe()
        for forgetting in self._forgetting:  # Code that ignores its end would keep it for good.
            forgetting.cancel()

    async def run(self) -> None:
        """Until cancelled: look at the log, when something was heard that does not say enough, and now and then."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), timeout=LOOK_S)
            self._changed.clear()
            try:
                await self._announce_anew()
                await self._look()
            except CasEventsError as error:
                _log.warning("not sure which agents are registered, looking again: %s", error)

    def serves(self, agent_id: str) -> bool:
        """Whether this process offers an agent."""
        return self._place.roster.stance(agent_id) == "serve"

    # --- at run time -----------------------------------------------------------------------------------------------------

    async def add(self, spec: AgentSpec) -> None:
        """Serve an agent more, or one that was deregistered, with this code; on return it is offered.

        Raises:
            CasEventsError: it could not be registered; it is not served.
        """
        place, agent_id = self._place, spec.agent_id
        if agent_id not in place.roster.duties:
            place.roster.add(
                agent_id, await agent_sources(place.js, place.names, agent_id, lease_s=place.lease_s)
            )
        await self._announce(spec, again=True)
        await self._carried_out()

    async def deregister(self, agent_id: str, new_tasks: NewTasks, reason: str) -> DeregisterAnswer:
        """Take an agent out of service for the whole deployment; on return this process does not offer it."""
        place = self._place
        answer = await deregister(
            place.js, place.names, agent_id, source=place.source, new_tasks=new_tasks, reason=reason
        )
        if agent_id in self._known:  # Else this process has no code for it, or has left it.
            await self._read(agent_id)
            await self._carried_out()
        return answer

    async def leave(self, agent_id: str) -> None:
        """Stop to offer an agent in this process only; on return it does not. Its code goes with its last task."""
        self._known.pop(agent_id, None)
        self._place.roster.stand(agent_id, "wait")
        forgetting = asyncio.get_running_loop().create_task(self._forget(agent_id))
        self._forgetting.add(forgetting)
        forgetting.add_done_callback(self._forgetting.discard)
        await self._carried_out()

    async def _forget(self, agent_id: str) -> None:
        await self.drained(agent_id)
        if agent_id not in self._known:  # It may have been added again meanwhile.
            self.abandon(agent_id)
            self._place.agents.pop(agent_id, None)

    def abandon(self, agent_id: str) -> None:
        """Have nothing to do with an agent any more."""
        self._known.pop(agent_id, None)
        self._place.roster.drop(agent_id)
        self._place.breakers.leave(agent_id)

    async def drained(self, agent_id: str) -> None:
        """Wait until this process runs no task of an agent."""
        while running := [one for key, one in self._place.running.items() if key[0] == agent_id]:
            await asyncio.gather(*(execution.ended.wait() for execution in running))

    async def _carried_out(self) -> None:
        async with asyncio.timeout(FOLLOW_S):
            await self._place.keeper.followed(self._place.roster.version)

    # --- following the log -----------------------------------------------------------------------------------------------

    async def _announce(self, spec: AgentSpec, *, again: bool = False) -> None:
        place = self._place
        now = await agent_events.register(place.js, place.names, spec, source=place.source, again=again)
        await place.breakers.watch(spec.agent_id, spec.breaker, place.roster.duties[spec.agent_id].sources)
        self._take(spec.agent_id, now)

    async def _announce_anew(self) -> None:
        """Of agents that somebody else has registered again: this process may have another version of them."""
        while self._anew:
            spec = self._place.agents.get(agent_id := self._anew.pop())
            if spec is not None and agent_id in self._known:
                place = self._place
                self._take(
                    agent_id,
                    await agent_events.register(place.js, place.names, spec, source=place.source),
                )

    def _hear(self, message: Message) -> None:
        """An event of an agent, as it is stored; one that does not follow the last known makes us look."""
        agent_id = message.subject.rpartition(".")[2]
        known = self._known.get(agent_id)
        if known is None:
            if agent_id in self._place.roster.duties:
                self._changed.set()  # It is being announced; what it is read from may be older than this.
            return
        before_seq = int(message.header_value("Nats-Last-Sequence") or 0)
        try:
            seq = int(message.header_value("Nats-Sequence") or 0)
            event = decode_event(message.data, seq=seq, stream=self._place.names.events)
        except WireError:
            self._changed.set()
            return
        if before_seq == known.last_seq:
            self._take(agent_id, known.after(event))
        elif seq > known.last_seq:
            self._changed.set()

    async def _look(self) -> None:
        subjects = [self._place.names.agent_event(agent_id) for agent_id in self._known]
        for at in range(0, len(subjects), _SUBJECTS_AT_ONCE):
            newest = await self._place.js.direct_last(
                self._place.names.events, subjects[at : at + _SUBJECTS_AT_ONCE]
            )
            for message in newest:
                agent_id = message.subject.rpartition(".")[2]
                known = self._known.get(agent_id)
                if known is not None and message.seq > known.last_seq:
                    await self._read(agent_id)

    async def _read(self, agent_id: str) -> None:
        place = self._place
        self._take(
            agent_id, await standing_of(place.js, place.names, agent_id, known=self._known.get(agent_id))
        )

    def _take(self, agent_id: str, now: Standing) -> None:
        """Act on how an agent stands."""
        known = self._known.get(agent_id)
        if known is not None and now.last_seq < known.last_seq:
            return
        self._known[agent_id] = now
        if not self._place.roster.stand(agent_id, now.facts.stance):
            return
        if not now.facts.is_deregistered:
            _log.info("agent %s is served", agent_id)
            if known is not None:
                self._anew.add(agent_id)
                self._changed.set()
            return
        new = "new tasks wait" if now.facts.stance == "wait" else "new tasks are refused"
        _log.warning(
            "agent %s is deregistered, and not served until `cas agents register %s`; %s",
            agent_id,
            agent_id,
            new,
        )
