"""How an agent stands in the log: read, and changed by whoever may, a client or a runner.

An agent is registered or deregistered for the whole deployment, not for a process: its own subject says so, and every
runner that has its code goes by that (`runner.serving`). Nothing here needs a runner to live, and no consumer is touched: a
deregistration leaves pause, breaker and settings as they are. What depends on what was read is appended under the
subject's last sequence, so that of two who change it at once the second looks again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from cas_events.domain.agents import DEREGISTERED, NEW_TASKS, AgentFacts, NewTasks, evolve_agent
from cas_events.domain.events import AGENT_REGISTERED, Event
from cas_events.domain.tokens import require_token
from cas_events.errors import InvalidLimitError, UnknownAgentError, WireError, WrongLastSequenceError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.paging import stored_at_a_replica
from cas_events.jetstream.patience import patiently
from cas_events.uuid7 import uuid7
from cas_events.wire.envelope import decode_event, encode_agent_event
from cas_events.wire.jsonvalue import encode_json
from cas_events.wire.subjects import Names

RegisterAnswer = Literal["registered", "already_registered"]
DeregisterAnswer = Literal["deregistered", "already_deregistered"]

_PATIENCE_S = 20.0


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as its subject has it up to a sequence.

    Attributes:
        facts: what its events make of it.
        last_seq: the newest message of the subject that was read; 0 if there is none.
    """

    facts: AgentFacts
    last_seq: int = 0

    def after(self, event: Event) -> Standing:
        """With the next event of the subject."""
        return Standing(facts=evolve_agent(self.facts, event), last_seq=event.seq)


async def standing_of(
    js: JetStream, names: Names, agent_id: str, *, known: Standing | None = None
) -> Standing:
    """Read how an agent stands; from what is known on.

    Raises:
        InvalidNameError: the name is no token.
    """
    now = known or Standing(facts=AgentFacts(agent_id=require_token("agent", agent_id)))
    stored = stored_at_a_replica(
        js, names.events, names.agent_event(agent_id), from_seq=now.last_seq + 1, give_up_s=_PATIENCE_S
    )
    async for message in stored:
        try:
            now = now.after(decode_event(message.data, seq=message.seq, stream=message.stream))
        except WireError:  # A dead letter; the tables have it.
            now = Standing(facts=now.facts, last_seq=message.seq)
    return now


async def known_standing(js: JetStream, names: Names, agent_id: str) -> Standing:
    """As `standing_of`, of an agent that the log knows.

    Raises:
        UnknownAgentError: it does not.
    """
    now = await standing_of(js, names, agent_id)
    if not now.last_seq:
        raise UnknownAgentError(agent_id)
    return now


async def say(
    js: JetStream,
    names: Names,
    type_: str,
    agent_id: str,
    data: Mapping[str, Any],
    *,
    source: str,
    expected_seq: int | None = None,
) -> None:
    """Append an event of the agent; after a lost answer a second time, which says the same again.

    Raises:
        WrongLastSequenceError: with ``expected_seq``: another event came first, perhaps this one.
    """
    payload = encode_agent_event(
        type_,
        event_id=uuid7(),
        source=source,
        agent_id=agent_id,
        time_ns=time.time_ns(),
        data=encode_json(data, path="data"),
    )
    subject = names.agent_event(agent_id)
    await patiently(
        lambda: js.append(subject, payload, expected_last_seq=expected_seq), give_up_s=_PATIENCE_S
    )


async def deregister(
    js: JetStream, names: Names, agent_id: str, *, source: str, new_tasks: NewTasks, reason: str
) -> DeregisterAnswer:
    """Take an agent out of service for the whole deployment; see `Client.deregister_agent`.

    Raises:
        UnknownAgentError: the log does not know it.
        InvalidLimitError: ``new_tasks`` is neither word.
    """
    if new_tasks not in NEW_TASKS:
        raise InvalidLimitError("new_tasks", new_tasks, "'wait' or 'refuse'")
    data = {"new_tasks": new_tasks} | ({"reason": reason} if reason else {})
    while True:
        now = await known_standing(js, names, agent_id)
        if now.facts.stance == new_tasks:
            return "already_deregistered"
        try:
            await say(js, names, DEREGISTERED, agent_id, data, source=source, expected_seq=now.last_seq)
        except WrongLastSequenceError:
            continue
        return "deregistered"


async def register_again(js: JetStream, names: Names, agent_id: str, *, source: str) -> RegisterAnswer:
    """Put an agent into service again, with what was last registered; see `Client.register_agent`.

    Raises:
        UnknownAgentError: the log does not know it.
    """
    while True:
        now = await known_standing(js, names, agent_id)
        if now.facts.status == "registered":
            return "already_registered"
        data = now.facts.registration or {}
        try:
            await say(js, names, AGENT_REGISTERED, agent_id, data, source=source, expected_seq=now.last_seq)
        except WrongLastSequenceError:
            continue
        return "registered"
