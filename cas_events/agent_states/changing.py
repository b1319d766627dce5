"""Changing states: optimistic appends that lose no update."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from cas_events.agent_states.reading import AgentState, StateReads, as_state, require_count, state_event
from cas_events.domain.events import STATE_RESET, STATE_UPDATED, Event
from cas_events.domain.limits import CLAIM_BYTES_MAX
from cas_events.domain.merge_patch import merge_patch
from cas_events.errors import (
    ConnectionLostError,
    InvalidStateError,
    NotConnectedError,
    StateConflictError,
    WrongLastSequenceError,
)
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.blobs import BlobStore
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.patience import patiently
from cas_events.submit import PATIENCE_S
from cas_events.uuid7 import uuid7
from cas_events.wire.claims import encode_members, looks_like_claim, require_small_enough
from cas_events.wire.envelope import decode_event, encode_agent_event
from cas_events.wire.jsonvalue import decode_json, encode_json
from cas_events.wire.subjects import Names

_RETRY_FIRST_S = 0.01
_RETRY_MAX_S = 0.5
_UNSETTLED = (WrongLastSequenceError, ConnectionLostError, NotConnectedError)


class AgentStates(StateReads):
    """Reads and changes the states of a deployment's agents.

    Args:
        js: of a client or a runner.
        names: of the deployment.
        blobs: where large states go.
        source: who changes them, for the events.
    """

    def __init__(self, js: JetStream, names: Names, blobs: BlobStore, *, source: str) -> None:
        super().__init__(js, names, blobs)
        self._source = source

    async def update(
        self,
        agent_id: str,
        patch: Mapping[str, Any],
        key: str | None = None,
        *,
        expected_revision: int | None = None,
        whole: bool = False,
        causation_id: str | None = None,
    ) -> AgentState:
        """Merge a patch into the state, or put it in its place; see `Client.update_agent_state`."""
        if not isinstance(patch, Mapping):
            raise InvalidStateError("patch", f"is a {type(patch).__name__}, not a JSON object")
        plain = decode_json(encode_json(patch, path="patch"))
        if whole:
            return await self._change(
                agent_id, key, lambda _: {"state": plain}, STATE_UPDATED, expected_revision, causation_id
            )
        return await self._change(
            agent_id,
            key,
            lambda state: {"state": merge_patch(state, plain), "patch": plain},
            STATE_UPDATED,
            expected_revision,
            causation_id,
        )

    async def reset(
        self,
        agent_id: str,
        key: str | None = None,
        *,
        expected_revision: int | None = None,
        causation_id: str | None = None,
    ) -> AgentState:
        """Empty the state; see `Client.reset_agent_state`."""
        return await self._change(
            agent_id, key, lambda _: {"state": {}}, STATE_RESET, expected_revision, causation_id
        )

    async def _change(
        self,
        agent_id: str,
        key: str | None,
        make: Callable[[dict[str, Any]], dict[str, Any]],
        type_: str,
        expected_revision: int | None,
        causation_id: str | None,
    ) -> AgentState:
        """Append what ``make`` makes of the newest state, anew as long as others come between."""
        if expected_revision is not None:
            require_count("expected_revision", expected_revision)
        subject, delay_s = self.subject(agent_id, key), _RETRY_FIRST_S
        while True:
            last = await self.last(subject)
            now = await self._current(agent_id, key, last)
            if expected_revision is not None and now.revision != expected_revision:
                raise StateConflictError(
                    agent_id, key or "", expected_revision=expected_revision, revision=now.revision
                )
            members = {**make(now.state), "revision": now.revision + 1}
            event = await self._append(
                subject, agent_id, type_, members, 0 if last is None else last.seq, causation_id
            )
            if event is not None:
                return as_state(event, agent_id, key, members["state"])
            pause_s = random.uniform(0, delay_s)  # noqa: S311 - full jitter, so that many do not meet again
            await asyncio.sleep(pause_s)
            delay_s = min(2 * delay_s, _RETRY_MAX_S)

    async def _current(self, agent_id: str, key: str | None, last: StoredMessage | None) -> AgentState:
        """What a change is made from."""
        event = None if last is None else state_event(last)
        if event is None:
            return await self.get(agent_id, key, as_of=None if last is None else last.seq)
        return await self.read(event, agent_id, key)

    async def _append(
        self,
        subject: str,
        agent_id: str,
        type_: str,
        members: dict[str, Any],
        expected_seq: int,
        causation_id: str | None,
    ) -> Event | None:
        """Store one change; None if another came first.

        Raises:
            InvalidStateError, NotJsonError, PayloadTooLargeError: the state cannot be stored.
        """
        if looks_like_claim(members["state"]):
            raise InvalidStateError("state", "has exactly the keys of a claim check; add or rename a member")
        data, large = encode_members(members)
        require_small_enough(large, "the state", CLAIM_BYTES_MAX)
        for blob in large:
            await patiently(lambda blob=blob: self._blobs.put(blob), give_up_s=PATIENCE_S)  # type: ignore[misc]
        event_id = uuid7()
        payload = encode_agent_event(
            type_,
            event_id=event_id,
            source=self._source,
            agent_id=agent_id,
            time_ns=time.time_ns(),
            data=data,
            causation_id=causation_id,
        )
        seq = await self._store(subject, payload, event_id, expected_seq)
        return None if seq is None else decode_event(payload, seq=seq, stream=self._names.events)

    async def _store(self, subject: str, payload: bytes, event_id: str, expected_seq: int) -> int | None:
        """Store an event behind the expected one: its sequence, or None if another event is there."""

        async def once() -> int | None:
            try:
                return (await self._js.append(subject, payload, expected_last_seq=expected_seq)).seq
            except (WrongLastSequenceError, ConnectionLostError):
                first = await self._js.next_message(self._names.events, subject, from_seq=expected_seq + 1)
                if first is None:
                    raise  # Nothing is there so far, or a write is on its way, which may be ours: the same bytes again.
                event = state_event(first)
                return first.seq if event is not None and event.id == event_id else None

        return await patiently(once, errors=_UNSETTLED, give_up_s=PATIENCE_S)
