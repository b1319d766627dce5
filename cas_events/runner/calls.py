"""Child tasks of one attempt: `ctx.call` and `ctx.spawn`.

The order makes them durable. A child is recorded in the parent's steps, and that is stored, before its execute goes
out: whoever ends the parent later finds every child (`descent`). Between the two stands a leader read that the parent
is still this attempt's: a record that came too late for `descent` starts nothing. The child's id follows from the
call, so another attempt finds the child that the first one started, and its result if it has ended.

While a task waits for children its place in the process is lent to other tasks; its place among the agent's tasks,
fleet-wide, it keeps. That is why a call up its own line is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import structs

from cas_events import submit
from cas_events.domain import events
from cas_events.errors import (
    AttemptOverError,
    CallCycleError,
    ChildConflictError,
    DuplicateTaskError,
    InvalidCommandError,
)
from cas_events.jetstream.messages import StoredMessage
from cas_events.lineage import ancestors
from cas_events.results import TaskResult
from cas_events.runner.child_ids import ChildIds
from cas_events.runner.children import ChildOptions, output_of
from cas_events.runner.facts import TaskFacts
from cas_events.runner.holds import Offer
from cas_events.runner.telemetry import Telemetry
from cas_events.runner.workplace import Workplace
from cas_events.session import CancelAnswer, Task
from cas_events.submit import PreparedExecute, TaskOptions
from cas_events.wire.commands import decode_execute

WAIT_FOR_RUNNER_S = 10.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """One call, read: the command, and whether its id was chosen so that an earlier child may have it."""

    command: PreparedExecute
    is_named: bool
    verb: Literal["call", "spawn"]


class ChildCalls:
    """Starts the children of one attempt. `call` and `spawn` may be used from any thread.

    Args:
        place: what the process shares.
        facts: the parent.
        offer: the delivery whose place is lent while the parent waits.
        attempt: the parent's.
        loop: the runner's event loop.
        telemetry: makes or gives the attempt's telemetry.
        fence_seq: sequence of the attempt's `started` while it runs, None once it is to end.
    """

    def __init__(
        self,
        place: Workplace,
        facts: TaskFacts,
        offer: Offer,
        *,
        attempt: int,
        loop: asyncio.AbstractEventLoop,
        telemetry: Callable[[], Telemetry],
        fence_seq: Callable[[], int | None],
    ) -> None:
        self._place = place
        self._facts = facts
        self._offer = offer
        self._attempt = attempt
        self._telemetry = telemetry
        self._fence_seq = fence_seq
        self._loop = loop
        self._ids = ChildIds(facts.task_id)
        self._naming = threading.Lock()
        self._line: list[tuple[str, str]] | None = None
        self._from_threads: set[asyncio.Task[Any]] = set()
        self._waits = 0
        self._is_over = False

    @property
    def is_waiting(self) -> bool:
        """Whether the parent waits for a child, and is not silent for lack of work."""
        return self._waits > 0

    def stop(self) -> None:
        """The attempt ends: threads that wait for a child are let go."""
        for task in self._from_threads:
            task.cancel()

    def close(self) -> None:
        """The attempt is over: nothing is lent any more."""
        self._is_over = True
        self.stop()

    # --- what agent code calls, through its context ----------------------------------------------------------------------

    def call(
        self, agent_id: str, input_: Mapping[str, Any] | None, scope: str, options: ChildOptions
    ) -> Coroutine[Any, Any, Any]:
        """Start a child, or find the one that this call started before, and wait for its output."""
        request = self._request(agent_id, input_, scope, options, "call")
        return self.on_loop(lambda: self._call(request))

    def spawn(
        self, agent_id: str, input_: Mapping[str, Any] | None, scope: str, options: ChildOptions
    ) -> Coroutine[Any, Any, Task]:
        """Start a child, or find the one that this call started before."""
        request = self._request(agent_id, input_, scope, options, "spawn")
        return self.on_loop(lambda: self._start(request))

    async def on_loop(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run work on the runner's loop, from whatever thread and loop this is awaited in."""
        if asyncio.get_running_loop() is self._loop:
            return await make()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._tracked(make), self._loop))

    async def _tracked(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._from_threads.add(task)
        try:
            return await make()
        finally:
            self._from_threads.discard(task)

    def _request(
        self,
        agent_id: str,
        input_: Mapping[str, Any] | None,
        scope: str,
        options: ChildOptions,
        verb: Literal["call", "spawn"],
    ) -> _Request:
        """Validate and name a call; its id is fixed here, in the order in which calls are made."""
        facts, said = self._facts, {**options}
        key, own_id = said.pop("key", None), said.get("task_id")
        if said.get("wait_for_runner_s") is None:
            said["wait_for_runner_s"] = WAIT_FOR_RUNNER_S
        members: TaskOptions = {
            **said,  # type: ignore[typeddict-item] # `prepare` refuses what is no option
            "parent_id": facts.task_id,
            "correlation_id": facts.execute.correlation_id or facts.execute.parent_id or facts.task_id,
            "traceparent": facts.execute.traceparent,
        }
        command = submit.prepare(agent_id, input_, members)
        if own_id is None:
            with self._naming:
                task_id = (
                    self._ids.next(scope, agent_id, _digest(command))
                    if key is None
                    else self._ids.named(str(key))
                )
            command = structs.replace(command, task_id=task_id)
        return _Request(command=command, is_named=key is not None or own_id is not None, verb=verb)

    # --- starting --------------------------------------------------------------------------------------------------------

    async def _call(self, request: _Request) -> Any:
        await self._refuse_cycle(request.command.agent_id)
        child = await self._start(request)
        return await child.output()

    async def _start(self, request: _Request) -> ChildTask:
        command = request.command
        stored = await self._find(command.task_id) if request.is_named or self._attempt > 1 else None
        sent = stored or await self._send(request)
        if not isinstance(sent, int):
            _require_same(self._facts.task_id, command, sent)
            self._say(events.STEP_STARTED, command.agent_id, command.task_id, request.verb)
            sent = sent.seq
        return ChildTask(self, command.agent_id, command.task_id, sent, request.verb)

    async def _find(self, task_id: str) -> StoredMessage | None:
        return await self._place.first_command(self._place.names.execute("*", task_id))

    async def _send(self, request: _Request) -> int | StoredMessage:
        """Record the child, then send it: its sequence, or the command that had its id before."""
        place, command = self._place, request.command
        await place.session.require_runner(command.agent_id, command.wait_for_runner_s)
        self._require_ours()
        members = _members(command.agent_id, command.task_id, request.verb)
        await self._telemetry().record(events.STEP_STARTED, members)
        fence_seq = self._require_ours()
        last = await place.ledger.last(self._facts.agent_id, self._facts.task_id)
        if last is None or last.seq != fence_seq:
            raise AttemptOverError(self._facts.task_id)
        try:
            seq = await submit.send(place.js, place.names, place.blobs, command)
            place.meter.submitted(command.agent_id)
            return seq  # noqa: TRY300 - the error is of the sending alone
        except DuplicateTaskError:
            stored = await self._find(command.task_id)
            if stored is None:
                raise
            return stored

    def _require_ours(self) -> int:
        fence_seq = self._fence_seq()
        if fence_seq is None or self._is_over:
            raise AttemptOverError(self._facts.task_id)
        return fence_seq

    # --- waiting ---------------------------------------------------------------------------------------------------------

    async def wait(self, child: ChildTask) -> TaskResult:
        """Wait for a child's end with the parent's place lent."""
        await self._refuse_cycle(child.agent_id)
        with self._lent_place():
            result = await Task.result(child)
        type_ = events.STEP_COMPLETED if result.is_success else events.STEP_FAILED
        self._say(type_, child.agent_id, child.task_id, child.verb, error=result.error)
        return result

    @contextmanager
    def _lent_place(self) -> Generator[None]:
        self._waits += 1
        if self._waits == 1 and not self._is_over:
            self._place.desk.lend(self._offer)
            self._place.keeper.place_freed()
        try:
            yield
        finally:
            self._waits -= 1
            if self._waits == 0 and not self._is_over:
                self._place.desk.take_back(self._offer)

    async def _refuse_cycle(self, agent_id: str) -> None:
        """Refuse to wait for an agent that this task's line goes through.

        Raises:
            CallCycleError: it is this task's own agent, or that of an ancestor that has not ended.
        """
        facts = self._facts
        if self._line is None:
            line = ancestors(self._place.first_command, self._place.names, facts.execute.parent_id)
            self._line = [(facts.agent_id, facts.task_id)] + [(a.agent_id, a.task_id) async for a in line]
        for generation, (line_agent, line_task) in enumerate(self._line):
            if line_agent != agent_id:
                continue
            last = await self._place.ledger.last(line_agent, line_task)
            if generation == 0 or (last is not None and not last.is_terminal):
                raise CallCycleError([agent for agent, _ in reversed(self._line[: generation + 1])])

    def _say(self, type_: str, agent_id: str, task_id: str, verb: str, *, error: Any = None) -> None:
        members = _members(agent_id, task_id, verb)
        if error is not None:
            members["error"] = {name: error[name] for name in ("type", "message") if name in error}
        self._telemetry().step(type_, members)


class ChildTask(Task):
    """The handle of a child, good on any thread but for `events`, which only the agent's own loop may follow."""

    def __init__(self, calls: ChildCalls, agent_id: str, task_id: str, seq: int, verb: str) -> None:
        super().__init__(calls._place.session, agent_id, task_id, seq)  # noqa: SLF001 - the two are one
        self._calls = calls
        self.verb = verb

    async def result(self) -> TaskResult:
        """Wait for the child's end, or read it if it is over; whatever the outcome.

        Raises:
            CallCycleError: waiting for this agent could deadlock.
        """
        return await self._calls.on_loop(lambda: self._calls.wait(self))

    async def output(self) -> Any:
        """Wait for the child's output.

        Raises:
            ChildTaskError: it did not complete.
            CallCycleError: waiting for this agent could deadlock.
        """
        return output_of(self.agent_id, await self.result())

    async def cancel(self, reason: str = "", *, requested_by: str = "", wait: bool = False) -> CancelAnswer:
        """End the child, wherever it is; see `Task.cancel`."""
        cancel = super().cancel
        return await self._calls.on_loop(lambda: cancel(reason, requested_by=requested_by, wait=wait))


def _members(agent_id: str, task_id: str, verb: str) -> dict[str, Any]:
    """`data` of a step that a child is: its id is the child's."""
    return {
        "node": f"{verb}:{agent_id}",
        "path": [],
        "step_id": task_id,
        "child": {"agent": agent_id, "task_id": task_id},
    }


def _digest(command: PreparedExecute) -> str:
    """The same for equal inputs, in whatever order their members came."""
    return hashlib.sha256(_canonical(command.data)).hexdigest()


def _canonical(command: bytes) -> bytes:
    return msgspec.json.encode(decode_execute(command).input, order="sorted")


def _require_same(parent_id: str, command: PreparedExecute, stored: StoredMessage) -> None:
    """Check that a stored command is what this call would have sent.

    Raises:
        ChildConflictError: it is not.
    """
    agent_id = stored.subject.split(".")[3]
    try:
        parent = decode_execute(stored.data).parent_id
        is_same_input = _canonical(stored.data) == _canonical(command.data)
    except InvalidCommandError:
        parent, is_same_input = None, False
    if parent != parent_id:
        raise ChildConflictError(command.task_id, f"by another task than {parent_id}")
    if agent_id != command.agent_id:
        raise ChildConflictError(command.task_id, f"for agent {agent_id!r} and not for {command.agent_id!r}")
    if not is_same_input:
        raise ChildConflictError(command.task_id, f"with another input, for agent {agent_id!r}")
