"""What a task's end means for its children (PROTOCOL section 6: a cancelled parent cancels its children).

A parent that is cancelled or has failed for good ends the children that have not ended: each gets a cancel of its own,
stored before whatever delivered the parent's end is acknowledged. So it happens although a process dies in between,
and again for the children's children. Whoever completed leaves its children alone; so do a retry, a hand-over and a
crash, after which the next attempt finds them again.

Children are found in the parent's own steps: each is recorded there, acknowledged, before its execute goes out
(`calls`). Tasks that a client started with a `parent_id` of its own are in no record, and are not ended.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from cas_events import submit
from cas_events.domain import events
from cas_events.domain.tokens import is_token
from cas_events.errors import InvalidCommandError, WireError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.paging import stored_at_a_replica
from cas_events.jetstream.patience import patiently
from cas_events.runner.holds import TaskKey
from cas_events.runner.workplace import Workplace
from cas_events.wire.commands import decode_execute
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

ENDS_CHILDREN = frozenset({events.CANCELLED, events.FAILED})
AT_ONCE = 32
GENERATIONS_MAX = 100  # through children that have ended: their own may still run

_MARK = b'"child":'


class _Child(msgspec.Struct):
    agent: str
    task_id: str


class _Data(msgspec.Struct):
    child: _Child | None = None


class _Step(msgspec.Struct):
    data: _Data


_decoder = msgspec.json.Decoder(_Step)


async def end_children(place: Workplace, agent_id: str, task_id: str, type_: str) -> None:
    """Store a cancel for every child that has not ended; to be called before the parent's end is acknowledged.

    Args:
        place: what the process shares.
        agent_id: the parent's agent.
        task_id: the parent.
        type_: how it ended; nothing is done unless that ends children.
    """
    if type_ not in ENDS_CHILDREN:
        return
    seen: set[TaskKey] = {(agent_id, task_id)}
    parents = [(agent_id, task_id)]
    for _ in range(GENERATIONS_MAX):
        children: list[tuple[TaskKey, TaskKey]] = []
        for parent in parents:
            found = await recorded_children(place.js, place.names, *parent)
            children += [(parent, child) for child in found if child not in seen]
            seen.update(found)
        if not children:
            return
        parents = []
        for start in range(0, len(children), AT_ONCE):
            batch = children[start : start + AT_ONCE]
            ended = await asyncio.gather(*(_end(place, parent, child, type_) for parent, child in batch))
            parents += [child for (_, child), is_over in zip(batch, ended, strict=True) if is_over]


async def recorded_children(js: JetStream, names: Names, agent_id: str, task_id: str) -> list[TaskKey]:
    """The (agent, task) of every child that a task recorded, up to the leader's last word."""
    subject = names.event("step", agent_id, task_id)
    found: dict[TaskKey, None] = {}
    from_seq = 1
    async for message in stored_at_a_replica(js, names.events, subject):
        from_seq = message.seq + 1
        _note(message.data, found)
    while True:  # What the replica may have missed is asked of the leader.
        next_from = from_seq
        newest = await patiently(lambda: js.next_message(names.events, subject, from_seq=next_from))  # noqa: B023
        if newest is None:
            return list(found)
        from_seq = newest.seq + 1
        _note(newest.data, found)


def _note(data: bytes, found: dict[TaskKey, None]) -> None:
    if _MARK not in data:
        return
    try:
        child = _decoder.decode(data).data.child
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    if child is not None and is_token(child.agent) and is_token(child.task_id):
        found[child.agent, child.task_id] = None


async def _end(place: Workplace, parent: TaskKey, child: TaskKey, type_: str) -> bool:
    """Store a child's cancel; True if it has ended already, so that only its own children are left to end."""
    agent_id, task_id = child
    stored = await place.first_command(place.names.execute("*", task_id))
    if stored is not None and not _is_child(stored.subject, stored.data, agent_id, parent[1]):
        return False  # The id was somebody else's; what was recorded never came to be.
    last = await place.ledger.last(agent_id, task_id)
    if last is not None and last.is_terminal:
        return True
    # Without an execute, too: whoever recorded it may be about to send it, and a cancel is valid for ever.
    what = "was cancelled" if type_ == events.CANCELLED else "failed"
    await submit.send_cancel(
        place.js, place.names, task_id, f"the parent task {parent[1]} {what}", f"task {parent[1]}"
    )
    _log.info("task %s %s, its child %s is cancelled", parent[1], what, task_id)
    return False


def _is_child(subject: str, command: bytes, agent_id: str, parent_id: str) -> bool:
    if subject.split(".")[3] != agent_id:
        return False
    try:
        return decode_execute(command).parent_id == parent_id
    except (InvalidCommandError, WireError):
        return False
