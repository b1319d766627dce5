"""Reading states: the newest, an old one, all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import msgspec

from cas_events.domain.events import STATE_RESET, STATE_UPDATED, Event
from cas_events.domain.limits import CLAIM_BYTES_MAX
from cas_events.domain.tokens import require_token
from cas_events.errors import InvalidStateError, UnknownAgentError, WireError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.blobs import BlobStore
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.patience import patiently
from cas_events.submit import PATIENCE_S
from cas_events.wire.claims import is_claim
from cas_events.wire.envelope import decode_event
from cas_events.wire.jsonvalue import decode_json
from cas_events.wire.subjects import Names

_PAGE = 256


class AgentState(msgspec.Struct, frozen=True, kw_only=True):
    """A state of an agent, or of one of its keys, as one change left it.

    Attributes:
        agent_id: whose.
        key: which of its states; empty for the agent's own.
        state: the whole state, a JSON object.
        revision: how many changes made it; 0 before the first.
        seq: sequence of the change's event, good for ``wait_for``; 0 before the first.
        time: when it was made; None before the first.
        source: who made it, such as ``cas/runner/<runner>``.
        is_reset: whether the change was a reset.
    """

    agent_id: str
    key: str = ""
    state: dict[str, Any] = {}
    revision: int = 0
    seq: int = 0
    time: datetime | None = None
    source: str = ""
    is_reset: bool = False


class StateReads:
    """Reads the states of a deployment's agents.

    Args:
        js: of a client or a runner.
        names: of the deployment.
        blobs: where large states are.
    """

    def __init__(self, js: JetStream, names: Names, blobs: BlobStore) -> None:
        self._js = js
        self._names = names
        self._blobs = blobs

    async def get(self, agent_id: str, key: str | None = None, *, as_of: int | None = None) -> AgentState:
        """The newest state, or that after an event of the log; see `Client.get_agent_state`."""
        subject = self.subject(agent_id, key)
        if as_of is not None:
            require_count("as_of", as_of)
        found = await self._newest(subject, as_of)
        if found is None:
            await self._require_known(agent_id)
            return AgentState(agent_id=agent_id, key=key or "")
        return await self.read(found, agent_id, key)

    async def history(self, agent_id: str, key: str | None = None) -> AsyncIterator[AgentState]:
        """Every change until now, oldest first; see `Client.agent_state_history`."""
        subject = self.subject(agent_id, key)
        last = await self.last(subject)
        if last is None:
            await self._require_known(agent_id)
            return
        async for event in self._events(subject, until_seq=last.seq):
            yield await self.read(event, agent_id, key)

    async def _newest(self, subject: str, as_of: int | None = None) -> Event | None:
        """The event of the highest revision, until a sequence."""
        last = await self.last(subject)
        if last is None:
            return None
        if as_of is not None and last.seq > as_of:
            last = await self._last_until(subject, as_of)
        event = None if last is None else state_event(last)
        if event is not None or last is None:
            return event
        # Somebody stored what is no state: the newest one that is counts, as in the tables.
        async for older in self._events(subject, until_seq=last.seq):
            if event is None or older.data["revision"] > event.data["revision"]:
                event = older
        return event

    async def last(self, subject: str) -> StoredMessage | None:
        """The subject's last message, as the leader has it."""
        return await patiently(
            lambda: self._js.last_message(self._names.events, subject), give_up_s=PATIENCE_S
        )

    async def _last_until(self, subject: str, seq: int) -> StoredMessage | None:
        """The subject's last message up to a sequence."""
        stream = self._names.events
        found = await patiently(
            lambda: self._js.direct_last(stream, [subject], up_to_seq=seq), give_up_s=PATIENCE_S
        )
        last = found[-1] if found else None
        while (
            True
        ):  # The answer may be a replica's, which can be behind; the leader knows whether another follows.
            after = 1 if last is None else last.seq + 1
            following = await patiently(
                lambda after=after: self._js.next_message(stream, subject, from_seq=after),  # type: ignore[misc]
                give_up_s=PATIENCE_S,
            )
            if following is None or following.seq > seq:
                return last
            last = following

    async def _events(self, subject: str, *, until_seq: int) -> AsyncIterator[Event]:
        from_seq, stream = 1, self._names.events
        while from_seq <= until_seq:
            page, _ = await patiently(
                lambda at=from_seq: self._js.direct_batch(stream, subject, from_seq=at, batch=_PAGE),  # type: ignore[misc]
                give_up_s=PATIENCE_S,
            )
            if not page:  # A replica that is behind; the leader is not.
                following = await patiently(
                    lambda at=from_seq: self._js.next_message(stream, subject, from_seq=at),  # type: ignore[misc]
                    give_up_s=PATIENCE_S,
                )
                if following is None:
                    return
                page = [following]
            for message in page:
                event = state_event(message)
                if event is not None and message.seq <= until_seq:
                    yield event
            from_seq = page[-1].seq + 1

    async def read(self, event: Event, agent_id: str, key: str | None) -> AgentState:
        """What an event says, with its claim check fetched."""
        state: Any = event.data["state"]
        if is_claim(state):
            sha256 = state["sha256"]
            blob = await patiently(
                lambda: self._blobs.get(sha256, max_bytes=CLAIM_BYTES_MAX), give_up_s=PATIENCE_S
            )
            state = decode_json(blob)
        return as_state(event, agent_id, key, state)

    async def _require_known(self, agent_id: str) -> None:
        """Check that the log knows an agent.

        Raises:
            UnknownAgentError: it does not.
        """
        if await self.last(self._names.agent_event(agent_id)) is None:
            raise UnknownAgentError(agent_id)

    def subject(self, agent_id: str, key: str | None) -> str:
        """Where a state is.

        Raises:
            InvalidNameError: the agent or the key is no token.
        """
        require_token("agent", agent_id)
        return self._names.state(agent_id, "" if key is None else require_token("key", key))


def as_state(event: Event, agent_id: str, key: str | None, state: dict[str, Any]) -> AgentState:
    """What an event says, given the whole state."""
    return AgentState(
        agent_id=agent_id,
        key=key or "",
        state=state,
        revision=event.data["revision"],
        seq=event.seq,
        time=event.time,
        source=event.source,
        is_reset=event.type == STATE_RESET,
    )


def state_event(message: StoredMessage) -> Event | None:
    """The event of a stored message, if it is a state as the tables know it."""
    try:
        event = decode_event(message.data, seq=message.seq, stream=message.stream)
    except WireError:
        return None
    revision = event.data.get("revision")
    is_state = (
        event.type in (STATE_UPDATED, STATE_RESET)
        and isinstance(revision, int)
        and not isinstance(revision, bool)
        and revision >= 0
        and isinstance(event.data.get("state"), dict)
    )
    return event if is_state else None


def require_count(field: str, value: int) -> None:
    """Check a revision or a sequence.

    Raises:
        InvalidStateError: it is none; the error names the argument.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidStateError(field, f"is {value!r}; it must be a whole number from 0 on")
