"""Making, pausing, resuming, cancelling and listing schedules, and keeping their timers whole."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import structs

from cas_events import submit
from cas_events.agent_states import AgentState, AgentStates
from cas_events.agent_states.reading import state_event
from cas_events.domain.tokens import require_token
from cas_events.errors import (
    InvalidScheduleError,
    RefusedError,
    ScheduleExistsError,
    StateConflictError,
    UnknownScheduleError,
)
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.blobs import BlobStore
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.paging import stored_at_a_replica
from cas_events.jetstream.patience import patiently
from cas_events.schedules.definitions import (
    Definition,
    Schedule,
    read_definition,
    require_terms,
    rfc3339,
)
from cas_events.schedules.timers import Timers, read_timer
from cas_events.submit import PATIENCE_S, TaskOptions
from cas_events.uuid7 import uuid7
from cas_events.wire.jsonvalue import decode_json, encode_json
from cas_events.wire.subjects import CRON, Names

_log = logging.getLogger(__name__)

PauseScheduleAnswer = Literal["paused", "already_paused"]
ResumeScheduleAnswer = Literal["resumed", "not_paused"]

_TOO_MANY_SUBJECTS = 413


class Stored(msgspec.Struct, frozen=True):
    """A schedule that there is: its definition, and the state that holds it."""

    definition: Definition
    state: AgentState


class _States(AgentStates):
    """States of what is no agent: of a name that is not in the log there is none yet."""

    async def _require_known(self, agent_id: str) -> None:
        """Nobody registers it."""


class Schedules:
    """The schedules of a deployment.

    Args:
        js: of a client or a runner.
        names: of the deployment.
        blobs: where large definitions go.
        source: who changes them, for the events.
    """

    def __init__(self, js: JetStream, names: Names, blobs: BlobStore, *, source: str) -> None:
        self._js = js
        self._names = names
        self._states = _States(js, names, blobs, source=source)
        self.timers = Timers(js, names)

    # --- changing ------------------------------------------------------------------------------------------------------

    async def create(self, name: str, definition: Definition) -> Schedule:
        """Store a checked definition under a name; see `Client.create_schedule`."""
        while True:
            state = await self._states.get(CRON, name)
            found = read_definition(state.state)
            if found is not None:
                if not found.says_the_same(definition):
                    raise ScheduleExistsError(name)
                return await self._armed(name, Stored(found, state))
            try:
                return await self._armed(name, await self._store(name, definition, state.revision))
            except StateConflictError:
                continue  # Somebody was faster: see what they made.

    async def pause(self, name: str, requested_by: str) -> PauseScheduleAnswer:
        """See `Client.pause_schedule`."""
        while True:
            stored = await self.require(name)
            revision, was_paused = stored.state.revision, stored.definition.paused
            if not was_paused:
                changed = structs.replace(stored.definition, paused=True, changed_by=requested_by)
                try:
                    revision = (await self._store(name, changed, revision)).state.revision
                except StateConflictError:
                    continue
            await self.timers.disarm(name, revision)
            return "already_paused" if was_paused else "paused"

    async def resume(self, name: str, requested_by: str) -> ResumeScheduleAnswer:
        """See `Client.resume_schedule`."""
        while True:
            stored = await self.require(name)
            if not stored.definition.paused:
                await self._armed(name, stored)
                return "not_paused"
            changed = structs.replace(
                stored.definition, paused=False, since=datetime.now(UTC), changed_by=requested_by
            )
            try:
                await self._armed(name, await self._store(name, changed, stored.state.revision))
            except StateConflictError:
                continue
            return "resumed"

    async def cancel(self, name: str, requested_by: str) -> None:
        """See `Client.cancel_schedule`."""
        while True:
            stored = await self.require(name)
            last_word = {"cancelled_at": rfc3339(datetime.now(UTC)), "cancelled_by": requested_by}
            try:
                state = await self._states.update(
                    CRON, last_word, name, expected_revision=stored.state.revision, whole=True
                )
            except StateConflictError:
                continue
            await self.timers.disarm(name, state.revision)
            return

    async def _store(self, name: str, definition: Definition, revision: int) -> Stored:
        members = msgspec.to_builtins(definition)
        state = await self._states.update(CRON, members, name, expected_revision=revision, whole=True)
        return Stored(definition, state)

    async def _armed(self, name: str, stored: Stored) -> Schedule:
        return _shown(name, stored, await self.arm(name, stored, after=datetime.now(UTC)))

    async def arm(
        self, name: str, stored: Stored, *, after: datetime, fired: datetime | None = None
    ) -> datetime | None:
        """Make sure that an active schedule has a timer later than one that has fired, and say when that is due."""
        definition = stored.definition
        due = None if definition.paused else definition.next_after(after)
        if due is None:
            return None
        return await self.timers.arm(name, definition, stored.state.revision, due, fired=fired)

    # --- reading -------------------------------------------------------------------------------------------------------

    async def find(self, name: str) -> Stored | None:
        """A schedule, as the leader has it; None if there is none of the name."""
        state = await self._states.get(CRON, name)
        definition = read_definition(state.state)
        return None if definition is None else Stored(definition, state)

    async def require(self, name: str) -> Stored:
        """A schedule, as the leader has it.

        Raises:
            UnknownScheduleError: there is none of the name.
            InvalidNameError: the name is no token.
        """
        stored = await self.find(require_token("schedule", name))
        if stored is None:
            raise UnknownScheduleError(name)
        return stored

    async def shown(self) -> list[Schedule]:
        """Every schedule, by name."""
        timers = await self._newest(self._names.timers, self._names.schedule("*"))
        due = {name: timer.due for name, stored in timers.items() if (timer := read_timer(stored.data))}
        return [
            _shown(name, stored, None if stored.definition.paused else due.get(name))
            for name, stored in sorted((await self._all()).items())
        ]

    async def mend(self) -> None:
        """Give every active schedule that lacks one its timer; who was to store it may have died before."""
        timers = await self._newest(self._names.timers, self._names.schedule("*"))
        for name, stored in (await self._all()).items():
            if name in timers or stored.definition.paused:
                continue
            try:
                due = await self.arm(name, stored, after=datetime.now(UTC))
                _log.info("schedule %s had no timer; it is due at %s", name, due)
            except InvalidScheduleError as error:  # Another machine may know the zone.
                _log.warning("schedule %s has no timer: %s", name, error)

    async def _all(self) -> dict[str, Stored]:
        found = {}
        newest = await self._newest(self._names.events, self._names.state(CRON, "*"))
        for name, message in newest.items():
            event = state_event(message)
            if event is None:
                continue
            state = await self._states.read(event, CRON, name)
            definition = read_definition(state.state)
            if definition is not None:
                found[name] = Stored(definition, state)
        return found

    async def _newest(self, stream: str, subject_filter: str) -> dict[str, StoredMessage]:
        """The newest message of each subject that a filter matches, by the subject's last token."""
        try:
            messages = await patiently(
                lambda: self._js.direct_last(stream, [subject_filter]), give_up_s=PATIENCE_S
            )
        except RefusedError as error:
            if error.code != _TOO_MANY_SUBJECTS:
                raise
            every = stored_at_a_replica(self._js, stream, subject_filter, give_up_s=PATIENCE_S)
            messages = [message async for message in every]
        return {message.subject.rpartition(".")[2]: message for message in messages}


def define(
    agent_id: str,
    input_: Mapping[str, Any] | None,
    *,
    terms: Mapping[str, Any],
    options: TaskOptions,
    requested_by: str,
) -> Definition:
    """A checked definition, not stored yet; ``terms`` are cron, time_zone, missed and missed_after_s.

    Raises:
        InvalidScheduleError, InvalidCommandError, InvalidNameError, NotJsonError, PayloadTooLargeError: it is none.
    """
    require_terms(terms["time_zone"], terms["missed"], terms["missed_after_s"])
    submit.prepare(agent_id, input_, options)  # What it would refuse each time is refused now.
    said = {name: value for name, value in options.items() if value is not None}
    execute = decode_json(encode_json({**said, "input": {} if input_ is None else input_}, path="execute"))
    now = datetime.now(UTC)
    definition = Definition(
        id=uuid7(),
        agent=agent_id,
        execute=execute,
        since=now,
        created_at=now,
        created_by=requested_by,
        changed_by=requested_by,
        **terms,
    )
    if definition.next_after(now) is None:
        raise InvalidScheduleError("cron", f"{definition.cron!r} is never due: there is no such day")
    return definition


def _shown(name: str, stored: Stored, next_due: datetime | None) -> Schedule:
    definition, state = stored.definition, stored.state
    return Schedule(
        name=name,
        agent_id=definition.agent,
        cron=definition.cron,
        time_zone=definition.time_zone,
        missed=definition.missed,
        missed_after_s=definition.missed_after_s,
        is_paused=definition.paused,
        next_due=next_due,
        input=definition.execute.get("input", {}),
        metadata=definition.execute.get("metadata", {}),
        created_at=definition.created_at,
        created_by=definition.created_by,
        changed_at=state.time,
        changed_by=definition.changed_by,
        revision=state.revision,
    )
