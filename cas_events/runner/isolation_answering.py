"""Answers what an isolated agent asks of its runner: its agent's state, and children of its task (`isolation_asking`).

Each question is an asyncio task of its own that does with the context what the agent's code would have done, so the same
rules hold and the same errors are raised. They end with the attempt.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from cas_events.errors import CasEventsError, WireError
from cas_events.runner.context import TaskContext
from cas_events.runner.isolation_link import Answer, Ask, Forget, frame
from cas_events.session import Task
from cas_events.wire.jsonvalue import decode_json

_log = logging.getLogger(__name__)

AT_ONCE_MAX = 1000


class Answers:
    """Answers the questions of one attempt.

    Args:
        context: of the attempt.
        send: sends a frame to the child.
    """

    def __init__(self, context: TaskContext, send: Callable[[bytes], None]) -> None:
        self._context = context
        self._send = send
        self._working: dict[int, asyncio.Task[None]] = {}
        self._children: dict[str, Task] = {}

    def begin(self, ask: Ask) -> None:
        """Start to answer a question."""
        if len(self._working) >= AT_ONCE_MAX:
            self._refuse(
                ask.number, CasEventsError(f"an isolated agent asks {AT_ONCE_MAX:,} things at once at most")
            )
            return
        work = asyncio.get_running_loop().create_task(self._answer(ask))
        self._working[ask.number] = work
        work.add_done_callback(lambda _: self._working.pop(ask.number, None))

    def forget(self, forget: Forget) -> None:
        """Nobody waits for an answer any more."""
        work = self._working.get(forget.number)
        if work is not None:
            work.cancel()

    async def close(self) -> None:
        """End what still works at an answer."""
        working = list(self._working.values())
        for work in working:
            work.cancel()
        if working:
            await asyncio.wait(working)

    async def _answer(self, ask: Ask) -> None:
        try:
            found = await self._found(ask.question, decode_json(ask.arguments))
        except Exception as error:  # Whatever it is, it is the agent's to deal with.
            self._refuse(ask.number, error)
        else:
            self._send(frame(Answer(ask.number, pickle.dumps(found))))

    def _refuse(self, number: int, error: Exception) -> None:
        members = dict(error.__dict__)
        try:
            body = pickle.dumps((type(error), error.args, members))
        except Exception as problem:  # Of anybody's making; its words can always be told.
            _log.debug("an error of %s cannot be pickled: %s", type(error).__name__, problem)
            body = pickle.dumps((CasEventsError, (f"{type(error).__name__}: {error}",), {}))
        self._send(frame(Answer(number, body, is_error=True)))

    async def _found(self, what: str, said: dict[str, Any]) -> Any:
        match what:
            case "state.get":
                return await self._context.state.get(said["key"])
            case "state.update":
                return await self._context.state.update(said.pop("patch"), said.pop("key"), **said)
            case "state.reset":
                return await self._context.state.reset(said.pop("key"), **said)
            case "children.call":
                return _plain(await self._context.children.call(*_child(said)))
            case "children.spawn":
                child = await self._context.children.spawn(*_child(said))
                self._children[child.task_id] = child
                return child.task_id, child.seq
            case "child.result":
                return _result(await self._children[said["task_id"]].result())
            case "child.cancel":
                return await self._children[said.pop("task_id")].cancel(said.pop("reason"), **said)
        raise WireError(f"an isolated agent asks for {what!r}, which there is not")


def _child(said: Mapping[str, Any]) -> tuple[Any, ...]:
    return said["agent"], said["input"], said["scope"], said["options"]


def _result(result: Any) -> Any:
    return msgspec.structs.replace(result, output=_plain(result.output))


def _plain(value: Any) -> Any:
    """JSON that was not read yet is read here."""
    return decode_json(bytes(value)) if isinstance(value, msgspec.Raw) else value
