"""Storing commands, so that the answer is sure (PROTOCOL section 2).

The server refuses a second message on a command's subject. Our client decides by reading the subject, not by the
error code alone: its own nonce means "mine" (after a lost answer too), another one means duplicate, none means that
the stream is full.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TypedDict

import msgspec
from msgspec import structs

from cas_events.domain.limits import CLAIM_BYTES_MAX, CLAIM_CHECK_BYTES
from cas_events.domain.tokens import require_token
from cas_events.errors import (
    ConnectionLostError,
    DuplicateTaskError,
    NotConnectedError,
    RefusedError,
    ServerError,
)
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.blobs import BlobStore
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.patience import patiently, patiently_unsent
from cas_events.lineage import root_of
from cas_events.observe import tracing
from cas_events.uuid7 import uuid7
from cas_events.wire.claims import encode_members, require_small_enough
from cas_events.wire.commands import SUBMIT_HEADER, decode_execute, encode_execute, not_before_text
from cas_events.wire.jsonvalue import decode_json, encode_json
from cas_events.wire.subjects import Names

SENDS_MAX = 4
_NONCE_HEADER = f"NATS/1.0\r\n{SUBMIT_HEADER}: %b\r\n\r\n".encode()
# How long a client waits for a server that is away: longer than a restart, and than the election of a leader (5 to 10 s).
PATIENCE_S = 20.0


class TaskOptions(TypedDict, total=False):
    """What may be said of a task when it is started; all of it optional.

    Attributes:
        task_id: an id of the caller's own, which makes the start idempotent; a UUIDv7 without it.
        metadata: shown in the tables.
        timeout_s: bound on one attempt, in seconds; the agent's own without it.
        idle_timeout_s: bound on an attempt's silence, in seconds; the agent's own without it.
        queue_timeout_s: bound on the wait for the first start, in seconds; the agent's own without it.
        max_attempts: bound on tries; the agent's own without it.
        retry: how errors are backed off (``base_s``, ``cap_s``, ``factor``); the agent's own without it.
        parent_id: the task that asks for this one.
        correlation_id: the root task; looked up from the parent without it.
        traceparent: W3C trace context of the caller.
        not_before: when it may start: an aware datetime, seconds from now, or an RFC 3339 time.
        wait_for_runner_s: how long to wait for a runner that serves the agent, in seconds.
        priority: class among the tasks that compete with it: ``high``, ``normal`` (also without it) or ``low``.
        key: under which it competes for the agent's ``concurrency_per_key``: a customer, for example.
    """

    task_id: str | None
    metadata: Mapping[str, Any] | None
    timeout_s: float | None
    idle_timeout_s: float | None
    queue_timeout_s: float | None
    retry: Mapping[str, float] | None
    max_attempts: int | None
    parent_id: str | None
    correlation_id: str | None
    traceparent: str | None
    not_before: datetime | float | str | None
    wait_for_runner_s: float | None
    priority: Literal["high", "normal", "low"] | None
    key: str | None


class PreparedExecute(msgspec.Struct, frozen=True, kw_only=True):
    """An execute command, ready to be sent.

    Attributes:
        agent_id: the agent.
        task_id: the task.
        is_own_id: whether the caller chose the id, so that it may be taken.
        wait_for_runner_s: how long to wait for a runner, in seconds.
        data: the command's bytes.
        blobs: the objects of its claim checks.
        rootless_parent: the parent, when the command names one and not the root.
        traceparent: what the command carries of the caller's, if anything.
    """

    agent_id: str
    task_id: str
    is_own_id: bool
    wait_for_runner_s: float
    data: bytes
    blobs: list[bytes]
    rootless_parent: str | None = None
    traceparent: str | None = None


_MEMBERS = frozenset(TaskOptions.__annotations__) | {"input"}


def prepare(agent_id: str, input_: Mapping[str, Any] | None, options: TaskOptions) -> PreparedExecute:
    """Validate and encode an execute command; nothing is sent.

    Raises:
        InvalidNameError: the agent or the id is no token.
        InvalidCommandError, NotJsonError: the command would be rejected.
        PayloadTooLargeError: a member is over the limit for claim checks, which the error names.
        TypeError: an option that there is not.
    """
    require_token("agent", agent_id)
    members: dict[str, Any] = {**options, "input": {} if input_ is None else input_}
    own_id = members.pop("task_id", None)
    wait_for_runner_s = members.pop("wait_for_runner_s", None) or 0.0
    if not members.keys() <= _MEMBERS:
        raise TypeError(f"a task has no option {min(members.keys() - _MEMBERS)!r}")
    present = {name: value for name, value in members.items() if value is not None}
    if "not_before" in present:
        present["not_before"] = not_before_text(present["not_before"], now_ns=time.time_ns())
    data, blobs = encode_execute(present, claim_bytes=CLAIM_CHECK_BYTES)
    require_small_enough(blobs, "the input", CLAIM_BYTES_MAX)
    return PreparedExecute(
        agent_id=agent_id,
        task_id=uuid7() if own_id is None else require_token("task id", own_id),
        is_own_id=own_id is not None,
        wait_for_runner_s=wait_for_runner_s,
        data=data,
        blobs=blobs,
        rootless_parent=present.get("parent_id") if "correlation_id" not in present else None,
        traceparent=present.get("traceparent"),
    )


async def rooted(js: JetStream, names: Names, command: PreparedExecute) -> PreparedExecute:
    """A command that names its root: looked up from the parent, if the command has one and says no more."""
    if command.rootless_parent is None:
        return command

    async def read_first(subject_filter: str) -> StoredMessage | None:
        return await patiently(lambda: js.next_message(names.commands, subject_filter), give_up_s=PATIENCE_S)

    root = await root_of(read_first, names, command.rootless_parent)
    members = {**decode_json(command.data), "correlation_id": root}
    return structs.replace(command, data=encode_json(members, path="command"), rootless_parent=None)


def repeat(agent_id: str, task_id: str, command: bytes, *, wait_for_runner_s: float) -> PreparedExecute:
    """The command of a new task like an old one, whose child it is; a claim check stays the same object.

    Raises:
        InvalidCommandError: the old command was no valid one.
    """
    members = msgspec.to_builtins(decode_execute(command))
    members |= {"parent_id": task_id, "correlation_id": members.get("correlation_id", task_id)}
    members.pop("not_before", None)
    data, blobs = encode_execute(members, claim_bytes=CLAIM_CHECK_BYTES)
    return PreparedExecute(
        agent_id=agent_id,
        task_id=uuid7(),
        is_own_id=False,
        wait_for_runner_s=wait_for_runner_s,
        data=data,
        blobs=blobs,
        traceparent=members.get("traceparent"),
    )


async def require_unused(js: JetStream, names: Names, agent_id: str, task_id: str) -> None:
    """Check that no agent's task has the id.

    Raises:
        DuplicateTaskError: one has.
    """
    any_execute = names.execute("*", task_id)
    first = await patiently(lambda: js.next_message(names.commands, any_execute), give_up_s=PATIENCE_S)
    if first is not None:
        raise DuplicateTaskError(task_id, agent_id=first.subject.split(".")[3] or agent_id)


async def send(js: JetStream, names: Names, blobs: BlobStore, command: PreparedExecute) -> int:
    """Store an execute command and return its sequence; a span of the caller's trace, where there is one.

    Raises:
        DuplicateTaskError: the id is taken.
        RefusedError: the stream is full, for example.
        ConnectionLostError: the server stayed away.
    """
    tracer = tracing.tracer()
    if tracer is None:
        return await _send(js, names, blobs, command)
    span = tracer.submitting(command.agent_id, command.task_id, command.traceparent)
    try:
        seq = await _send(js, names, blobs, _traced(command, span.traceparent))
    except BaseException as error:
        span.end(error)
        raise
    span.end()
    return seq


def _traced(command: PreparedExecute, traceparent: str) -> PreparedExecute:
    """A command that carries the span that it is sent in."""
    if command.traceparent is None:
        separator = b"," if len(command.data) > len(b"{}") else b""
        data = b'%b%b"traceparent":"%b"}' % (command.data[:-1], separator, traceparent.encode())
    else:
        data = encode_json({**decode_json(command.data), "traceparent": traceparent}, path="command")
    return structs.replace(command, data=data, traceparent=traceparent)


async def _send(js: JetStream, names: Names, blobs: BlobStore, command: PreparedExecute) -> int:
    for blob in command.blobs:
        await patiently(lambda blob=blob: blobs.put(blob), give_up_s=PATIENCE_S)  # type: ignore[misc]
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


async def send_answer(
    js: JetStream, names: Names, blobs: BlobStore, target: tuple[str, str, str], value: Any
) -> bool:
    """Store the answer to an interrupt; False if one is stored already.

    Args:
        js: where to.
        names: of the deployment.
        blobs: where a large value goes.
        target: agent, task and the interrupt's name.
        value: the answer, JSON-able.

    Raises:
        NotJsonError: the value has no JSON form.
        PayloadTooLargeError: it is over the limit for claim checks.
    """
    data, large = encode_members({"value": value})
    require_small_enough(large, "the answer", CLAIM_BYTES_MAX)
    for blob in large:
        await patiently(lambda blob=blob: blobs.put(blob), give_up_s=PATIENCE_S)  # type: ignore[misc]
    _, is_mine = await _store_once(js, names, names.resume(*target), data)
    return is_mine


async def _store_once(js: JetStream, names: Names, subject: str, data: bytes) -> tuple[int, bool]:
    """Store a command that its subject admits once: its sequence, and whether the stored one is ours."""
    nonce = os.urandom(12).hex()
    header = _NONCE_HEADER % nonce.encode()
    sends = 0
    while True:
        sends += 1
        try:
            try:
                ack = await js.append(subject, data, header=header)
            except NotConnectedError:
                ack = await patiently_unsent(
                    lambda: js.append(subject, data, header=header), give_up_s=PATIENCE_S
                )
            if not ack.duplicate:
                return ack.seq, True
            refusal: ServerError = ConnectionLostError(f"the server took {subject} for a repetition")
        except (RefusedError, ConnectionLostError) as error:
            refusal = error
        stored = await patiently(lambda: js.last_message(names.commands, subject), give_up_s=PATIENCE_S)
        if stored is not None:
            return stored.seq, stored.header_value(SUBMIT_HEADER) == nonce
        if sends == SENDS_MAX or isinstance(refusal, RefusedError):
            raise refusal
