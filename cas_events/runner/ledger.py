"""A task's lifecycle as it stands in the log: reading its last event, appending the next one under the lock.

PROTOCOL section 4: every lifecycle append expects the last sequence of the task's exact subject. No answer, 10071 or
10164 is settled only by evidence: an ack without ``duplicate``, our own event as the first one after the expected
sequence, or another writer's event there. "Not there" means: send the same bytes again. Our own is the one with our
bytes: two claims of one task in one process would make the same id and the same source.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from cas_events.domain import events
from cas_events.domain.decide import HANDOVER, Last
from cas_events.domain.events import Event
from cas_events.domain.interrupts import items_of
from cas_events.errors import (
    ConnectionLostError,
    InvalidCommandError,
    NotConnectedError,
    RefusedError,
    ServerError,
    StreamFullError,
    WireError,
    WrongLastSequenceError,
)
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.blobs import BlobStore
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.paging import stored_until
from cas_events.jetstream.patience import patiently, patiently_unsent
from cas_events.observe.meter import NO_METER, Meter
from cas_events.wire.claims import encode_members, require_small_enough
from cas_events.wire.commands import parse_time
from cas_events.wire.envelope import EventEncoder, decode_event
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

EVIDENCE_PAUSE_S = 0.02
REFUSED_PAUSE_S = 0.5
_UNAVAILABLE = 503
NUMBER_MAX = 2**53  # JSON knows no bounds; beyond these nothing of ours counts, and arithmetic would fail


class LostRaceError(ServerError):
    """Another writer's lifecycle event stands where ours should have gone: decide anew.

    Attributes:
        seq: sequence of that event.
    """

    def __init__(self, subject: str, seq: int) -> None:
        super().__init__(f"another writer appended to {subject} first, at sequence {seq}")
        self.seq = seq


class Ledger:
    """Reads and appends lifecycle events.

    Args:
        js: the connection's JetStream.
        names: of the deployment.
        blobs: where large `data` members go; None where none can occur.
        meter: told what was stored and what was refused.
    """

    def __init__(self, js: JetStream, names: Names, blobs: BlobStore, meter: Meter = NO_METER) -> None:
        self._js = js
        self._names = names
        self._blobs = blobs
        self._meter = meter

    async def last(self, agent_id: str, task_id: str) -> Last | None:
        """The last lifecycle event of a task, by a leader read; None if there is none."""
        subject = self._names.lifecycle(agent_id, task_id)
        message = await patiently(lambda: self._js.last_message(self._names.events, subject))
        if message is None:
            return None
        try:
            return last_from(decode_event(message.data, seq=message.seq, stream=message.stream), message)
        except WireError as error:
            _log.warning("undecodable lifecycle event subject=%s seq=%d: %s", subject, message.seq, error)
            return await self._last_decodable(agent_id, task_id, lock_seq=message.seq)

    async def lifecycle(self, agent_id: str, task_id: str) -> AsyncIterator[Last]:
        """The readable lifecycle events of a task, oldest first; the newest may be missing, since any replica answers."""
        subject = self._names.lifecycle(agent_id, task_id)
        from_seq, more = 1, True
        while more:
            messages, more = await patiently(
                partial(self._js.direct_batch, self._names.events, subject, from_seq=from_seq)
            )
            for message in messages:
                from_seq = message.seq + 1
                try:
                    event = decode_event(message.data, seq=message.seq, stream=message.stream)
                except WireError:
                    continue
                yield last_from(event, message)

    async def _last_decodable(self, agent_id: str, task_id: str, *, lock_seq: int) -> Last:
        """The newest readable event below a foreign one; the foreign one's sequence stays the lock."""
        known = Last(type="", seq=lock_seq, attempt=0, tries=0, command_seq=0, stored_s=0.0)
        async for event in self.lifecycle(agent_id, task_id):
            known = replace(event, seq=lock_seq)
        return known

    async def history(self, agent_id: str, task_id: str, *, until_seq: int) -> list[Event]:
        """A task's lifecycle events, oldest first, at least up to the stored one at ``until_seq``."""
        subject, found = self._names.lifecycle(agent_id, task_id), []
        async for message in stored_until(self._js, self._names.events, subject, until_seq=until_seq):
            try:
                found.append(decode_event(message.data, seq=message.seq, stream=message.stream))
            except WireError as error:
                _log.debug("skipped a foreign message at %d: %s", message.seq, error)
        return found

    async def append(
        self,
        encoder: EventEncoder,
        type_: str,
        *,
        agent_id: str,
        index: int,
        time_ns: int,
        members: Mapping[str, Any],
        expected_seq: int,
        member_bytes_max: int | None = None,
        is_held: Callable[[], bool] | None = None,
    ) -> int:
        """Append a lifecycle event and return its sequence.

        Args:
            encoder: of the attempt.
            type_: the event type.
            agent_id: the task's agent.
            index: the event's index in its attempt.
            time_ns: when it happened, nanoseconds since the epoch.
            members: its `data`; large members become claim checks, put before the append.
            expected_seq: the lock.
            member_bytes_max: the largest member that may travel by claim check; None for no bound.
            is_held: whether the task is still ours. With it, an append that is refused for now (no room, no leader) is
                repeated while this holds: giving up the end of an attempt would run finished work again.

        Raises:
            LostRaceError: somebody else appended first.
            NotJsonError: a member has no JSON form; nothing was sent.
            PayloadTooLargeError: a member is over ``member_bytes_max``; nothing was sent.
            RefusedError: the server refuses it for good.
        """
        data, blobs = encode_members(members)
        if member_bytes_max is not None:
            require_small_enough(blobs, "the output", member_bytes_max)
        payload = encoder.encode(type_, index, time_ns, data)
        subject = self._names.lifecycle(agent_id, encoder.task_id)
        while True:
            try:
                if blobs:
                    await self.put_blobs(blobs)
                seq = await self.append_bytes(subject, payload, expected_seq=expected_seq)
            except LostRaceError:
                self._meter.refused(agent_id, type_)
                raise
            except RefusedError as error:
                if is_held is None or not _is_temporary(error):
                    raise
                _log.warning("%s waits for the log: %s", encoder.event_id(index), error)
            else:
                self._meter.appended(agent_id, type_, encoder.attempt, is_handover=_is_handover(members))
                return seq
            await asyncio.sleep(REFUSED_PAUSE_S)
            if not is_held():
                raise LostRaceError(subject, expected_seq)

    async def append_bytes(self, subject: str, payload: bytes, *, expected_seq: int) -> int:
        """Append an encoded lifecycle event; see `append`."""
        while True:
            try:
                try:
                    ack = await self._js.append(subject, payload, expected_last_seq=expected_seq)
                except NotConnectedError:
                    ack = await patiently_unsent(
                        lambda: self._js.append(subject, payload, expected_last_seq=expected_seq)
                    )
                if not ack.duplicate:
                    return ack.seq
            except (WrongLastSequenceError, ConnectionLostError):
                _log.debug("append to %s is ambiguous, looking for evidence", subject)
            seq = await self._evidence(subject, payload, expected_seq=expected_seq)
            if seq is not None:
                return seq

    async def _evidence(self, subject: str, payload: bytes, *, expected_seq: int) -> int | None:
        """What stands first after the expected sequence: our event's sequence, or None for nothing yet.

        Raises:
            LostRaceError: another writer's event.
        """
        first = await patiently(
            lambda: self._js.next_message(self._names.events, subject, from_seq=expected_seq + 1)
        )
        if first is None:
            # On R3 a write of the same subject may still be in flight (10164): give it a moment.
            await asyncio.sleep(EVIDENCE_PAUSE_S)
            return None
        if first.data == payload:
            return first.seq
        raise LostRaceError(subject, first.seq)

    async def put_blobs(self, blobs: Sequence[bytes]) -> None:
        """Put the objects of claim checks, trying again while the connection is down."""
        for blob in blobs:
            await patiently(lambda blob=blob: self._blobs.put(blob))  # type: ignore[misc]


def _is_handover(members: Mapping[str, Any]) -> bool:
    error = members.get("error")
    return isinstance(error, dict) and error.get("type") == HANDOVER


def _is_temporary(error: RefusedError) -> bool:
    return error.code == _UNAVAILABLE or isinstance(error, StreamFullError)


def last_from(event: Event, message: StoredMessage) -> Last:
    """What the delivery table looks at in a lifecycle event; odd values of foreign writers count as absent."""
    data = event.data
    items = items_of(data) if event.type == events.INTERRUPTED else []
    return Last(
        type=event.type,
        seq=message.seq,
        attempt=event.attempt,
        tries=_number(data.get("tries"), int),
        command_seq=_number(data.get("command_seq"), int),
        stored_s=message.time_ns / 1e9,
        source=event.source,
        runner=data["runner"] if isinstance(data.get("runner"), str) else "",
        delay_s=_number(data.get("delay_s"), float),
        is_handover=event.type == events.RETRYING and _is_handover(data),
        interrupts=tuple(item["id"] for item in items),
        timeouts=tuple((item["id"], due_s) for item in items if (due_s := _due_s(item)) is not None),
        traceparent=event.traceparent,
    )


def _number(value: Any, kind: type[int | float]) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return kind(value) if is_number and -NUMBER_MAX < value < NUMBER_MAX else kind(0)


def _due_s(item: Mapping[str, Any]) -> float | None:
    """When the time of a listed interrupt is over, in seconds since the epoch."""
    timeout_at = item.get("timeout_at")
    try:
        return parse_time(timeout_at) if isinstance(timeout_at, str) else None
    except InvalidCommandError:
        return None
