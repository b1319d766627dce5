"""The circuit breakers of a runner's agents: one per agent, the same for the whole fleet.

The rules are ``domain.breaker``'s. Every runner sees the outcome of every attempt of its agents on the live
lifecycle subjects and so comes to the same conclusion; the transition goes to the one that appends it first, under
the agent's own subject as lock, and the others see it there. While open, an agent that waits has its consumers paused
by the server until the probe time (fleet-wide, surviving restarts); one that fails fast is asked about in the claim.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from cas_events.domain import breaker, events
from cas_events.domain.agents import PAUSED, PAUSED_FOR_GOOD, UNPAUSED, UNPAUSED_SINCE
from cas_events.domain.breaker import BreakerPolicy, BreakerState, Window
from cas_events.domain.events import Event
from cas_events.errors import (
    CasEventsError,
    InvalidCommandError,
    RefusedError,
    WireError,
    WrongLastSequenceError,
)
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Message
from cas_events.jetstream.patience import patiently
from cas_events.jetstream.subscriptions import Subscription
from cas_events.runner import agent_events
from cas_events.runner.holds import Desk, Source
from cas_events.wire.commands import parse_time
from cas_events.wire.envelope import decode_event, format_time
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

LOOK_S = 0.5  # how often a breaker that only time moves is looked at


class Breaker:
    """One agent's breaker, as this process knows it.

    Attributes:
        agent_id: the agent.
        policy: as registered.
        sources: its consumers, which a pause is for.
        subscriptions: to its outcomes and its own events.
        state: as the log says.
        window: outcomes since the last transition.
        last_seq: newest sequence seen on the agent's subject: the lock of the next transition.
        is_paused: whether an operator stopped the intake.
        paused_until_s: until when the consumers are known to be paused: a probe time, infinite, or 0.
    """

    def __init__(self, agent_id: str, policy: BreakerPolicy, sources: Sequence[Source]) -> None:
        self.agent_id = agent_id
        self.policy = policy
        self.sources = sources
        self.subscriptions: list[Subscription] = []
        self.state = BreakerState()
        self.window = Window()
        self.last_seq = 0
        self.is_paused = False
        self.paused_until_s = 0.0

    @property
    def pause_wanted_s(self) -> float:
        """Until when the consumers are to be paused: for good by an operator, or until an open breaker's probe; 0: not."""
        if self.is_paused:
            return math.inf
        is_waiting = self.state.phase == "open" and self.policy.while_open == "wait"
        return self.state.probe_at_s if is_waiting else 0.0

    def fold(self, event: Event) -> bool:
        """Take an event of the agent's subject; whether it was a transition or a pause that is news."""
        if event.seq <= self.last_seq:
            return False
        self.last_seq = event.seq
        if event.type in (PAUSED, UNPAUSED):
            self.is_paused = event.type == PAUSED
            return True
        if event.type not in breaker.TRANSITIONS:
            return False
        before = self.state
        self.state = breaker.evolve(
            before,
            event.type,
            time_s=event.time.timestamp(),
            probe_at_s=_time_s(event.data.get("probe_at")),
        )
        if event.type == breaker.HALF_OPENED:
            # The server lets commands through at the probe time, perhaps before this transition is in the log.
            self.window.drop_before(before.probe_at_s)
        else:
            self.window.clear()
        return True

    def count(self, event: Event) -> None:
        """Take an outcome; what says nothing about the agent is not counted."""
        succeeded = outcome(event)
        if succeeded is not None:
            self.window.add(time_s=event.time.timestamp(), succeeded=succeeded)


def outcome(event: Event) -> bool | None:
    """Whether an attempt succeeded; None for a lifecycle event that says nothing about the agent."""
    if event.type == events.COMPLETED:
        return True
    if event.type == events.FAILED:
        return None if event.data.get("reason") == "circuit_open" else False
    if event.type == events.RETRYING:
        error = event.data.get("error")
        return None if isinstance(error, dict) and error.get("type") == "handover" else False
    return None


class Breakers:
    """All breakers of one runner process.

    Args:
        js: the connection's JetStream.
        names: of the deployment.
        source: who writes the transitions.
        desk: told which agents may only be probed.
    """

    def __init__(
        self,
        js: JetStream,
        names: Names,
        *,
        source: str,
        desk: Desk,
    ) -> None:
        self._js = js
        self._names = names
        self._source = source
        self._desk = desk
        self._breakers: dict[str, Breaker] = {}
        self._changed = asyncio.Event()

    def phases(self) -> list[tuple[str, str, bool]]:
        """Each agent that has one: its phase, and whether an operator stopped the intake; from any thread."""
        return [
            (known.agent_id, known.state.phase, known.is_paused) for known in list(self._breakers.values())
        ]

    def fails_fast(self, agent_id: str) -> bool:
        """Whether a task of the agent is to end with `circuit_open` instead of running."""
        known = self._breakers.get(agent_id)
        return known is not None and known.policy.while_open == "fail" and known.state.phase == "open"

    async def watch(self, agent_id: str, policy: BreakerPolicy | None, sources: Sequence[Source]) -> None:
        """Keep an agent's breaker, if it has one, instead of an earlier one of its name: fold what the log says and listen."""
        self.leave(agent_id)
        if policy is None:
            return
        known = Breaker(agent_id, policy, sources)
        lifecycle = self._names.live(self._names.lifecycle(agent_id, "*"))
        own = self._names.live(self._names.agent_event(agent_id))
        known.subscriptions = [
            self._js.connection.listen(lifecycle, partial(self._hear, known)),
            self._js.connection.listen(own, partial(self._hear_own, known)),
        ]
        self._breakers[agent_id] = known
        await self._catch_up(known)
        self._changed.set()

    def leave(self, agent_id: str) -> None:
        """Keep it no longer."""
        known = self._breakers.pop(agent_id, None)
        if known is not None:
            self._desk.probing.discard(agent_id)
            for subscription in known.subscriptions:
                subscription.unsubscribe()

    def close(self) -> None:
        """Stop listening."""
        for agent_id in list(self._breakers):
            self.leave(agent_id)

    async def run(self) -> None:
        """Until cancelled: carry out what the outcomes or the clock ask for."""
        while True:
            self._changed.clear()
            for known in list(self._breakers.values()):
                await self._move(known)
                await self._pause(known)
            try:
                await asyncio.wait_for(self._changed.wait(), timeout=self._pause_s())
            except TimeoutError:
                continue

    def _pause_s(self) -> float | None:
        """How long nothing can be due, unless something is heard: until the next probe time."""
        if not self._breakers:
            return None
        open_ones = [known.state for known in self._breakers.values() if known.state.phase == "open"]
        next_s = min((state.probe_at_s - time.time() for state in open_ones), default=LOOK_S)
        return min(LOOK_S, max(next_s, 0.01))

    # --- what is heard -----------------------------------------------------------------------------------------------

    def _hear(self, known: Breaker, message: Message) -> None:
        event = _read(message, self._names.events)
        if event is not None:
            known.count(event)
            self._changed.set()

    def _hear_own(self, known: Breaker, message: Message) -> None:
        event = _read(message, self._names.events)
        if event is not None and known.fold(event):
            self._throttle(known)
            self._changed.set()

    async def _catch_up(self, known: Breaker) -> None:
        """Read the agent's subject to its end; live messages may have been lost, and others may have moved."""
        subject = self._names.agent_event(known.agent_id)
        while True:
            message = await patiently(
                partial(self._js.next_message, self._names.events, subject, from_seq=known.last_seq + 1)
            )
            if message is None:
                break
            try:
                known.fold(decode_event(message.data, seq=message.seq, stream=message.stream))
            except WireError:
                known.last_seq = message.seq
        self._throttle(known)

    # --- what is done ------------------------------------------------------------------------------------------------

    async def _move(self, known: Breaker) -> None:
        """Append the transition that is due, if any, and pause what it pauses."""
        now_s = time.time()
        transition = breaker.decide(known.policy, known.state, known.window, now_s=now_s)
        if transition is None:
            return
        members: dict[str, Any] = {"calls": known.window.calls, "failures": known.window.failures}
        if transition == breaker.OPENED:
            members["probe_at"] = format_time(int((now_s + known.policy.open_s) * 1e9))
            members["while_open"] = known.policy.while_open
        try:
            await agent_events.append(
                self._js,
                self._names,
                transition,
                agent_id=known.agent_id,
                source=self._source,
                members=members,
                expected_seq=known.last_seq,
            )
        except WrongLastSequenceError:
            _log.debug("another runner moved the breaker of %s", known.agent_id)
        except CasEventsError as error:
            _log.warning("breaker of %s not moved: %s", known.agent_id, error)
            return
        await self._catch_up(known)
        _log.info("breaker of %s is %s", known.agent_id, known.state.phase)

    async def _pause(self, known: Breaker) -> None:
        """Keep the consumers paused as the log says; every runner does, in case one dies on it.

        An operator's pause is the operator's own doing; here it is made good again where a breaker's came later.
        """
        wanted_s, before_s = known.pause_wanted_s, known.paused_until_s
        if wanted_s == before_s:
            return
        if wanted_s == 0 and before_s != math.inf:
            known.paused_until_s = 0.0  # A breaker's pause ends by itself.
            return
        until = _until(wanted_s)
        for source in known.sources:
            try:
                await patiently(partial(self._js.pause_consumer, source.spec.stream, source.consumer, until))
            except RefusedError as error:  # Deleted, for example: the keeper makes it anew.
                _log.warning("consumer %s is not paused: %s", source.consumer, error)
        known.paused_until_s = wanted_s

    def _throttle(self, known: Breaker) -> None:
        """Unless it is closed, this process pulls the agent's commands one at a time."""
        if known.state.phase != "closed":
            self._desk.probing.add(known.agent_id)
        else:
            self._desk.probing.discard(known.agent_id)


def _read(message: Message, stream: str) -> Event | None:
    try:
        return decode_event(message.data, seq=int(message.header_value("Nats-Sequence") or 0), stream=stream)
    except WireError:
        return None


def _until(wanted_s: float) -> str:
    if wanted_s == math.inf:
        return PAUSED_FOR_GOOD
    return format_time(int(wanted_s * 1e9)) if wanted_s else UNPAUSED_SINCE


def _time_s(text: Any) -> float:
    try:
        return parse_time(text) or 0.0 if isinstance(text, str) else 0.0
    except InvalidCommandError:
        return 0.0
