"""Who started whom: from a task up to its root, as the commands say.

A command names its parent, and its root if its sender knew it. Commands of raw clients often do not: then the root
is looked up, one read a generation. Chains of raw clients may end nowhere or go round; they are followed a bounded
way, and what is known by then counts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from cas_events.domain.commands import Execute
from cas_events.errors import InvalidCommandError
from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.commands import decode_execute
from cas_events.wire.subjects import Names

GENERATIONS_MAX = 100

ReadFirst = Callable[[str], Awaitable[StoredMessage | None]]


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A task up the line; ``agent_id`` is that of the id's first execute."""

    agent_id: str
    task_id: str
    execute: Execute


async def ancestors(read_first: ReadFirst, names: Names, parent_id: str | None) -> AsyncIterator[Ancestor]:
    """A task's parent, its parent's parent and so on, as far as the log knows them.

    Args:
        read_first: reads the oldest command that matches a filter.
        names: of the deployment.
        parent_id: of the task whose ancestors they are.
    """
    seen: set[str] = set()
    while parent_id is not None and parent_id not in seen and len(seen) < GENERATIONS_MAX:
        seen.add(parent_id)
        command = await read_first(names.execute("*", parent_id))
        if command is None:
            return
        try:
            execute = decode_execute(command.data)
        except InvalidCommandError:
            return
        yield Ancestor(command.subject.split(".")[3], parent_id, execute)
        parent_id = execute.parent_id


async def root_of(read_first: ReadFirst, names: Names, parent_id: str) -> str:
    """Id of the root of a task with this parent; the farthest known ancestor if the chain breaks off."""
    root = parent_id
    async for ancestor in ancestors(read_first, names, parent_id):
        known = ancestor.execute.correlation_id
        if known is not None:
            return known
        root = ancestor.execute.parent_id or ancestor.task_id
    return root
