"""What an isolated agent cannot do in its own process: the state of its agent and children of its task, by asking the runner.

A question goes over the link with a number, and its answer comes back with the same one, in whatever order. What is
asked travels as JSON, since it comes from the agent's code; answers are pickled, as the child trusts the runner that
started it, so that errors arrive as what they are, with their attributes.
"""

from __future__ import annotations

import asyncio
import itertools
import pickle
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from cas_events.agent_states import AgentState
from cas_events.errors import NotInTaskError
from cas_events.results import TaskResult
from cas_events.runner.children import ChildOptions, output_of
from cas_events.runner.isolation_emitter import Outbox
from cas_events.runner.isolation_link import Answer, Ask, Forget
from cas_events.wire.jsonvalue import encode_json

if TYPE_CHECKING:
    from cas_events.session import CancelAnswer, Task


class Questions:
    """Asks the runner, from any thread and any event loop.

    Args:
        outbox: to the runner.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()

    async def ask(self, what: str, **arguments: Any) -> Any:
        """The runner's answer.

        Raises:
            NotJsonError: an argument has no JSON form.
            Exception: what the same call raises in the runner.
        """
        body = encode_json(arguments, path=what)
        answer: Future[Any] = Future()
        number = next(self._numbers)
        with self._lock:
            self._waiting[number] = answer
        self._outbox.put(Ask(number, what, body))
        try:
            return await asyncio.wrap_future(answer)
        except asyncio.CancelledError:
            self._outbox.put(Forget(number))
            raise
        finally:
            with self._lock:
                self._waiting.pop(number, None)

    def take(self, answer: Answer) -> None:
        """The runner has answered; called in the thread that listens."""
        with self._lock:
            future = self._waiting.pop(answer.number, None)
        if future is None or not future.set_running_or_notify_cancel():
            return
        value = pickle.loads(answer.body)  # noqa: S301 - of the process that started this one
        if answer.is_error:
            future.set_exception(_raised(*value))
        else:
            future.set_result(value)


def _raised(type_: type[BaseException], words: tuple[Any, ...], members: dict[str, Any]) -> BaseException:
    """An error as it was, without its own way of being made."""
    error: BaseException = type_.__new__(type_, *words)
    error.args = words
    error.__dict__.update(members)
    return error


class AskedState:
    """`ctx.state`; see `StateOfAgent`."""

    def __init__(self, questions: Questions) -> None:
        self._ask = questions.ask

    async def get(self, key: str | None = None) -> AgentState:
        """The newest state."""
        return cast("AgentState", await self._ask("state.get", key=key))

    async def update(
        self,
        patch: Mapping[str, Any],
        key: str | None = None,
        *,
        expected_revision: int | None = None,
        whole: bool = False,
    ) -> AgentState:
        """Merge a patch into the state, or put it in its place."""
        return cast(
            "AgentState",
            await self._ask(
                "state.update", patch=patch, key=key, expected_revision=expected_revision, whole=whole
            ),
        )

    async def reset(self, key: str | None = None, *, expected_revision: int | None = None) -> AgentState:
        """Empty the state."""
        return cast(
            "AgentState", await self._ask("state.reset", key=key, expected_revision=expected_revision)
        )


class AskedChildren:
    """`ctx.call` and `ctx.spawn`; see `TaskContext`."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions

    def call(
        self, agent_id: str, input_: Mapping[str, Any] | None, scope: str, options: ChildOptions
    ) -> Coroutine[Any, Any, Any]:
        """Start a child and wait for its output."""
        return self._start("call", agent_id, input_, scope, options)

    async def spawn(
        self, agent_id: str, input_: Mapping[str, Any] | None, scope: str, options: ChildOptions
    ) -> Task:
        """Start a child."""
        task_id, seq = await self._start("spawn", agent_id, input_, scope, options)
        return cast("Task", AskedTask(self._questions, agent_id, task_id, seq))

    def _start(
        self, verb: str, agent_id: str, input_: Mapping[str, Any] | None, scope: str, options: ChildOptions
    ) -> Coroutine[Any, Any, Any]:
        said = {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in options.items()
        }
        return self._questions.ask(
            f"children.{verb}", agent=agent_id, input=input_, scope=scope, options=said
        )


class AskedTask:
    """The handle of a child that an isolated agent has started: it can be waited for and cancelled.

    Attributes:
        agent_id: its agent.
        task_id: its id.
        seq: sequence of its execute command.
    """

    def __init__(self, questions: Questions, agent_id: str, task_id: str, seq: int) -> None:
        self._questions = questions
        self.agent_id = agent_id
        self.task_id = task_id
        self.seq = seq

    async def result(self) -> TaskResult:
        """Wait for the child's end, or read it if it is over."""
        return cast("TaskResult", await self._questions.ask("child.result", task_id=self.task_id))

    async def output(self) -> Any:
        """Wait for the child's output.

        Raises:
            ChildTaskError: it did not complete.
            CallCycleError: waiting for this agent could deadlock.
        """
        return output_of(self.agent_id, await self.result())

    async def cancel(self, reason: str = "", *, requested_by: str = "", wait: bool = False) -> CancelAnswer:
        """End the child, wherever it is."""
        answer = await self._questions.ask(
            "child.cancel", task_id=self.task_id, reason=reason, requested_by=requested_by, wait=wait
        )
        return cast("CancelAnswer", answer)

    def __getattr__(self, name: str) -> Any:
        raise NotInTaskError(f"a child's {name!r} is not at hand in an agent with isolation='process'")
