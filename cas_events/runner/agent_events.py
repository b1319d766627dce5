"""Events of an agent itself: registrations and ignored commands, on the agent's own subject."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from cas_events.agent_standing import Standing, standing_of
from cas_events.domain.events import AGENT_COMMAND_IGNORED, AGENT_REGISTERED
from cas_events.domain.limits import CLAIM_CHECK_BYTES
from cas_events.errors import ConnectionLostError, WrongLastSequenceError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.blobs import BlobStore
from cas_events.runner.registry import AgentSpec
from cas_events.uuid7 import uuid7
from cas_events.wire.claims import encode_members
from cas_events.wire.envelope import encode_agent_event
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

LOOK_AGAIN_S = 0.2  # after an append whose answer was lost

_LIMITS = ("timeout_s", "max_attempts", "concurrency_per_key", "key", "rate", "max_queued", "priorities")


async def append(
    js: JetStream,
    names: Names,
    type_: str,
    *,
    agent_id: str,
    source: str,
    members: Mapping[str, Any],
    causation_id: str | None = None,
    expected_seq: int | None = None,
) -> int:
    """Append an agent's event and return its sequence; large members become claim checks.

    With ``expected_seq`` only if that is still the last sequence of the agent's subject.

    Raises:
        ServerError: it could not be stored.
    """
    data, blobs = encode_members(members)
    for blob in blobs:
        await BlobStore(js, names.blob_bucket).put(blob)
    payload = encode_agent_event(
        type_,
        event_id=uuid7(),
        source=source,
        agent_id=agent_id,
        time_ns=time.time_ns(),
        data=data,
        causation_id=causation_id,
    )
    return (await js.append(names.agent_event(agent_id), payload, expected_last_seq=expected_seq)).seq


async def ignore(
    js: JetStream,
    names: Names,
    *,
    agent_id: str,
    source: str,
    command: tuple[int, str, bytes],
    reason: str,
    stream: str = "CAS_COMMANDS",
) -> None:
    """Leave a trace of a command (sequence, subject, body) that answers nothing (PROTOCOL section 2)."""
    seq, subject, body = command
    await append(
        js,
        names,
        AGENT_COMMAND_IGNORED,
        agent_id=agent_id,
        source=source,
        members={
            "command_seq": seq,
            "subject": subject,
            "reason": reason,
            "raw": base64.b64encode(body).decode(),
        },
        causation_id=f"{stream}:{seq}",
    )


async def register(
    js: JetStream, names: Names, spec: AgentSpec, *, source: str, again: bool = False
) -> Standing:
    """Say that an agent is served, unless the log says exactly that, or that it is not to be served.

    Args:
        js: to append with.
        names: of the deployment.
        spec: the agent.
        source: who says it.
        again: whether a deregistration ends with this.

    Returns:
        How the agent stands.
    """
    members = registration(spec)
    now = await standing_of(js, names, spec.agent_id)
    while not (now.facts.is_deregistered and not again):
        if now.facts.status == "registered" and now.facts.registration == members:
            break
        try:
            await append(
                js,
                names,
                AGENT_REGISTERED,
                agent_id=spec.agent_id,
                source=source,
                members=members,
                expected_seq=now.last_seq,
            )
        except WrongLastSequenceError:
            _log.debug("another writer was faster at registering %s", spec.agent_id)
        except ConnectionLostError:  # It may be stored all the same.
            await asyncio.sleep(LOOK_AGAIN_S)
        now = await standing_of(js, names, spec.agent_id, known=now)
    return now


def registration(spec: AgentSpec) -> dict[str, Any]:
    """What `registered` says of an agent. An overlong schema is left out."""
    members: dict[str, Any] = {
        "version": spec.version,
        "limits": {name: value for name in _LIMITS if (value := getattr(spec, name)) not in (None, False)},
        "on_crash": spec.on_crash,
    }
    if spec.description:
        members["description"] = spec.description
    if spec.schema and len(msgspec.json.encode(spec.schema)) <= CLAIM_CHECK_BYTES:
        members["schema"] = spec.schema
    return members
