"""Storing commands, so that the answer is sure (PROTOCOL section 2).

The server refuses a second message on a command's subject. Our client decides by reading the subject, not by the
error code alone: its own nonce means "mine" (after a lost answer too), another one means duplicate, none means that
the stream is full.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import msgspec

from cas_events.domain.limits import CLAIM_BYTES_MAX, CLAIM_CHECK_BYTES
from cas_events.domain.tokens import require_token
from cas_events.errors import (
    ConnectionLostError,
    DuplicateTaskError,
    PayloadTooLargeError,
    RefusedError,
    ServerError,
)
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.blobs import BlobStore
from cas_events.jetstream.connection import build_header
from cas_events.jetstream.patience import patiently, patiently_unsent
from cas_events.uuid7 import uuid7
from cas_events.wire.commands import SUBMIT_HEADER, encode_execute
from cas_events.wire.subjects import Names

SENDS_MAX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedExecute:
    """An execute command, ready to be sent: its bytes, and the objects of its claim checks."""

    agent_id: str
    task_id: str
    data: bytes
    blobs: list[bytes]


def prepare(*, agent_id: str, task_id: str | None, members: dict[str, Any]) -> PreparedExecute:
    """Validate and encode an execute command; nothing is sent.

    Raises:
        InvalidNameError: the agent or the id is no token.
        InvalidCommandError, NotJsonError: the command would be rejected.
        PayloadTooLargeError: a member is over the limit for claim checks, which the error names.
    """
    require_token("agent", agent_id)
    task_id = uuid7() if task_id is None else require_token("task id", task_id)
    present = {name: value for name, value in members.items() if value is not None}
    data, blobs = encode_execute(present, claim_bytes=CLAIM_CHECK_BYTES)
    for blob in blobs:
        if len(blob) > CLAIM_BYTES_MAX:
            raise PayloadTooLargeError("the input", payload_bytes=len(blob), limit_bytes=CLAIM_BYTES_MAX)
    return PreparedExecute(agent_id=agent_id, task_id=task_id, data=data, blobs=blobs)


async def require_unused(js: JetStream, names: Names, agent_id: str, task_id: str) -> None:
    """Check that no agent's task has the id.

    Raises:
        DuplicateTaskError: one has.
    """
    first = await js.next_message(names.commands, names.execute("*", task_id))
    if first is not None:
        raise DuplicateTaskError(task_id, agent_id=first.subject.split(".")[3] or agent_id)


async def send(js: JetStream, names: Names, blobs: BlobStore, command: PreparedExecute) -> int:
    """Store an execute command and return its sequence.

    Raises:
        DuplicateTaskError: the id is taken.
        RefusedError: the stream is full, for example.
        ConnectionLostError: the server stayed away.
    """
    for blob in command.blobs:
        await patiently(lambda blob=blob: blobs.put(blob), tries_max=SENDS_MAX)  # type: ignore[misc]
    seq, is_mine = await _store_once(
        js, names, names.execute(command.agent_id, command.task_id), command.data
    )
    if not is_mine:
        raise DuplicateTaskError(command.task_id, agent_id=command.agent_id)
    return seq


async def send_cancel(js: JetStream, names: Names, task_id: str, reason: str, requested_by: str) -> bool:
    """Store a cancel; False if one is stored already."""
    body = {"reason": reason, "requested_by": requested_by}
    data = msgspec.json.encode({name: text for name, text in body.items() if text})
    _, is_mine = await _store_once(js, names, names.cancel(task_id), data)
    return is_mine


async def _store_once(js: JetStream, names: Names, subject: str, data: bytes) -> tuple[int, bool]:
    """Store a command that its subject admits once: its sequence, and whether the stored one is ours."""
    nonce = os.urandom(12).hex()
    header = build_header({SUBMIT_HEADER: nonce})
    sends = 0
    while True:
        sends += 1
        try:
            ack = await patiently_unsent(lambda: js.append(subject, data, header=header), tries_max=SENDS_MAX)
            if not ack.duplicate:
                return ack.seq, True
            refusal: ServerError = ConnectionLostError(f"the server took {subject} for a repetition")
        except (RefusedError, ConnectionLostError) as error:
            refusal = error
        stored = await patiently(lambda: js.last_message(names.commands, subject), tries_max=SENDS_MAX)
        if stored is not None:
            return stored.seq, stored.header_value(SUBMIT_HEADER) == nonce
        if sends == SENDS_MAX or isinstance(refusal, RefusedError):
            raise refusal
