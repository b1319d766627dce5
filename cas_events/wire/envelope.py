"""The envelope: CloudEvents 1.0, structured JSON, one message = one event, no headers (PROTOCOL section 3).

Writing is on the hot path, so the part of the envelope that does not change within an attempt is built once; every
string in it is a token or comes from us, so nothing needs escaping. Reading is strict about what readers rely on
and keeps everything else: unknown types and newer data versions pass.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from cas_events.domain.events import Event
from cas_events.domain.limits import JSON_DEPTH_MAX
from cas_events.domain.trace_context import valid_traceparent
from cas_events.errors import WireError
from cas_events.wire.upcasters import DATAVERSION, upcast

SPECVERSION = "1.0"

_SOURCE = re.compile(r"[A-Za-z0-9_./-]{1,128}")


class EventEncoder:
    """Writes the events of one attempt.

    Args:
        source: ``cas/runner/<runner>`` for example.
        task_id: the task.
        agent_id: its agent.
        attempt: the epoch.
        correlation_id: id of the root task.
        parent_id: id of the parent task, if any.
        causation_id: ``CAS_COMMANDS:<seq>`` of the command that caused the attempt, if known.
        traceparent: W3C trace context, if any.
    """

    __slots__ = ("_head", "_tail", "attempt", "source", "task_id")

    def __init__(
        self,
        *,
        source: str,
        task_id: str,
        agent_id: str,
        attempt: int,
        correlation_id: str,
        parent_id: str | None = None,
        causation_id: str | None = None,
        traceparent: str | None = None,
    ) -> None:
        assert _SOURCE.fullmatch(source), source
        self.source = source
        self.task_id = task_id
        self.attempt = attempt
        self._head = f'{{"specversion":"{SPECVERSION}","id":"{task_id}.{attempt}.'.encode()
        optional = {"parentid": parent_id, "causationid": causation_id, "traceparent": traceparent}
        extensions = "".join(f',"{name}":"{value}"' for name, value in optional.items() if value is not None)
        self._tail = (
            f'"source":"{source}","subject":"{task_id}","agentid":"{agent_id}","attempt":{attempt}'
            f',"correlationid":"{correlation_id}"{extensions},"dataversion":{DATAVERSION},"data":'
        ).encode()

    def event_id(self, index: int) -> str:
        """The id of the attempt's event with this index."""
        return f"{self.task_id}.{self.attempt}.{index}"

    def encode(self, type_: str, index: int, time_ns: int, data: bytes) -> bytes:
        """One event as bytes.

        Args:
            type_: the event type.
            index: its number in the attempt, from 0.
            time_ns: nanoseconds since the epoch.
            data: the `data` object, as JSON.
        """
        varying = f'{index}","type":"{type_}","time":"{format_time(time_ns)}","index":{index},'.encode()
        return b"%b%b%b%b}" % (self._head, varying, self._tail, data)


def encode_agent_event(
    type_: str,
    *,
    event_id: str,
    source: str,
    agent_id: str,
    time_ns: int,
    data: bytes,
    causation_id: str | None = None,
) -> bytes:
    """An event of an agent itself: no task, no attempt, a UUIDv7 as id."""
    causation = f',"causationid":"{causation_id}"' if causation_id else ""
    head = (
        f'{{"specversion":"{SPECVERSION}","id":"{event_id}","source":"{source}","type":"{type_}",'
        f'"subject":"{agent_id}","time":"{format_time(time_ns)}","agentid":"{agent_id}"{causation},'
        f'"dataversion":{DATAVERSION},"data":'
    )
    return b"%b%b}" % (head.encode(), data)


def encode_audit_event(type_: str, *, event_id: str, source: str, time_ns: int, data: bytes) -> bytes:
    """An event about the log itself: of no task and no agent, a UUIDv7 as id."""
    head = (
        f'{{"specversion":"{SPECVERSION}","id":"{event_id}","source":"{source}","type":"{type_}",'
        f'"time":"{format_time(time_ns)}","dataversion":{DATAVERSION},"data":'
    )
    return b"%b%b}" % (head.encode(), data)


def format_time(time_ns: int) -> str:
    """RFC 3339 in UTC with microseconds: ``2026-11-22T09:00:00.123456Z``."""
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    return f"{_format_second(seconds)}.{rest_ns // 1000:06d}Z"


@lru_cache(maxsize=8)
def _format_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class _Envelope(msgspec.Struct, frozen=True):
    """What readers rely on, with its types; everything unknown is ignored."""

    specversion: str
    id: str
    source: str
    type: str
    time: datetime
    data: dict[str, Any]
    subject: str = ""
    agentid: str = ""
    attempt: int = 0
    index: int = 0
    correlationid: str | None = None
    parentid: str | None = None
    causationid: str | None = None
    dataversion: int = 1
    traceparent: Any = None  # What is none counts as absent, as in a command.


_decoder = msgspec.json.Decoder(_Envelope)


def decode_event(data: bytes, *, seq: int, stream: str) -> Event:
    """Read a stored event.

    Args:
        data: the message's payload.
        seq: its sequence in the stream.
        stream: the stream's name.

    Raises:
        WireError: it is none of our envelopes; the message says where and why.
    """
    try:
        envelope = _decoder.decode(data)
        if envelope.time.tzinfo is None:
            raise WireError(f"{stream} {seq}: time has no offset from UTC")
        moment = envelope.time.astimezone(UTC)  # At the ends of the calendar an offset leads out of it.
    except RecursionError:
        raise WireError(f"{stream} {seq}: nested deeper than {JSON_DEPTH_MAX} levels") from None
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError) as error:
        raise WireError(f"{stream} {seq}: {error}") from error
    if envelope.specversion != SPECVERSION:
        raise WireError(f"{stream} {seq}: specversion {envelope.specversion!r} is not {SPECVERSION}")
    has_task = envelope.attempt > 0 or envelope.id == f"{envelope.subject}.0.{envelope.index}"
    dataversion, members = upcast(envelope.type, envelope.dataversion, envelope.data)
    return Event(
        type=envelope.type,
        task_id=envelope.subject if has_task else "",
        agent_id=envelope.agentid,
        attempt=envelope.attempt,
        index=envelope.index,
        time=moment,
        data=members,
        seq=seq,
        stream=stream,
        id=envelope.id,
        source=envelope.source,
        correlation_id=envelope.correlationid,
        parent_id=envelope.parentid,
        causation_id=envelope.causationid,
        dataversion=dataversion,
        traceparent=valid_traceparent(envelope.traceparent) if envelope.traceparent else None,
    )
