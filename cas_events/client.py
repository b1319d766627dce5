"""The client: start tasks, follow them, cancel them, replay the log and ask the tables.

    async with Client() as cas:
        result = await cas.execute_task("analyst", {"query": "test"})

Everything that a client does is a published command, a subscription or a read; it holds no state that matters.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from cas_events import submit
from cas_events.domain.events import TERMINAL_TYPES, Event
from cas_events.domain.tokens import require_token
from cas_events.errors import AgentUnavailableError, ConnectionLostError, NoRespondersError, UnknownTaskError
from cas_events.follow import EventStream, ResultWaiter, key_of
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.blobs import BlobStore
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.topology import ensure_streams
from cas_events.live import LiveHub
from cas_events.replay import replay_events
from cas_events.results import TaskResult, result_from
from cas_events.settings import Settings
from cas_events.sql_client import query
from cas_events.uuid7 import uuid7
from cas_events.wire.envelope import decode_event
from cas_events.wire.subjects import Names

CancelAnswer = Literal["requested", "already_requested", "already_finished", "unknown_task"]

RUNNER_SEEN_S = 5.0  # how long a runner's answer counts
RUNNER_ASK_S = 1.0
RUNNER_ASK_AGAIN_S = 0.1


class Client:
    """A connection to a deployment, from any process.

    Args:
        url: the NATS server; without one the settings say. Connects when entered, not when made.
        settings: deployment, home and the like; from the environment without them.
    """

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        self._url = url
        self._settings = settings
        self._open: _Open | None = None

    async def __aenter__(self) -> Self:
        settings = self._settings or Settings.from_env(nats_url=self._url)
        client_id = uuid7()
        connection = await Connection.open(self._url or settings.url(), name=f"cas-client-{client_id}")
        names = Names(settings.deployment)
        js = JetStream(connection)
        try:
            await ensure_streams(js, settings.deployment, replicas=settings.replicas)
        except BaseException:
            await connection.close()
            raise
        self._open = _Open(
            connection=connection,
            js=js,
            names=names,
            blobs=BlobStore(js, names.blob_bucket),
            hub=LiveHub(connection, names),
            seen_runners={},
        )
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._open is not None:
            parts, self._open = self._open, None
            await parts.hub.close()
            await parts.connection.close()

    @property
    def _parts(self) -> _Open:
        if self._open is None:
            raise RuntimeError("the client is not connected; use it as `async with Client() as cas:`")
        return self._open

    # --- starting tasks --------------------------------------------------------------------------------------------------

    async def execute_task(
        self,
        agent_id: str,
        input: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> TaskResult:
        """Run a task and wait for its end.

        Args:
            agent_id: the agent.
            input: what it gets, a JSON object.
            options: as for `submit_task`.

        Returns:
            The result, whatever the outcome: this never raises for a task's failure.

        Raises:
            InvalidCommandError, InvalidNameError, NotJsonError, PayloadTooLargeError: nothing was sent.
            AgentUnavailableError: no live runner serves the agent.
            DuplicateTaskError: the task id is taken.
        """
        options.setdefault("task_id", uuid7())
        with self._waiter(agent_id, options["task_id"]) as waiter:
            await self.submit_task(agent_id, input, **options)
            return await result_from(await waiter.wait(), self._parts.blobs)

    def stream_task(
        self,
        agent_id: str,
        input: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> EventStream:
        """Run a task and follow it: events as they are stored, the last one terminal.

        Dropping the iterator does not cancel the task. Arguments and errors as for `execute_task`; the task is
        submitted when the iteration begins.
        """
        parts = self._parts
        task_id = require_token("task id", options.setdefault("task_id", uuid7()))
        require_token("agent", agent_id)

        async def begin(_: EventStream) -> None:
            await self.submit_task(agent_id, input, **options)

        return EventStream(parts.hub, parts.js, parts.names, agent_id, task_id, begin=begin)

    async def submit_task(
        self,
        agent_id: str,
        input: Mapping[str, Any] | None = None,
        *,
        task_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        max_attempts: int | None = None,
        parent_id: str | None = None,
        not_before: str | None = None,
        wait_for_runner_s: float | None = None,
    ) -> Task:
        """Store a task's execute command and return its handle; the task runs whether anybody waits or not.

        Args:
            agent_id: the agent.
            input: what it gets, a JSON object.
            task_id: an id of the caller's own, which makes the call idempotent; a UUIDv7 without it.
            metadata: shown in the tables.
            timeout_s: bound on one attempt, in seconds.
            max_attempts: bound on tries.
            parent_id: the task that asks for this one.
            not_before: RFC 3339 time before which it does not start.
            wait_for_runner_s: how long to wait for a runner that serves the agent, in seconds.

        Raises: see `execute_task`.
        """
        parts = self._parts
        command = submit.prepare(
            agent_id=agent_id,
            task_id=task_id,
            members={
                "input": dict(input or {}),
                "metadata": dict(metadata) if metadata else None,
                "timeout_s": timeout_s,
                "max_attempts": max_attempts,
                "parent_id": parent_id,
                "not_before": not_before,
            },
        )
        if task_id is not None:
            await submit.require_unused(parts.js, parts.names, agent_id, task_id)
        await self._require_runner(agent_id, wait_for_runner_s)
        seq = await submit.send(parts.js, parts.names, parts.blobs, command)
        return Task(self, agent_id, command.task_id, seq)

    async def _require_runner(self, agent_id: str, wait_s: float | None) -> None:
        """Check that a live runner serves the agent; an answer counts for a few seconds."""
        seen = self._parts.seen_runners
        began_s = time.monotonic()
        while seen.get(agent_id, 0.0) < time.monotonic() - RUNNER_SEEN_S or agent_id not in seen:
            if await self.is_served(agent_id):
                seen[agent_id] = time.monotonic()
                return
            if time.monotonic() - began_s >= (wait_s or 0.0):
                raise AgentUnavailableError(agent_id, waited_s=wait_s or 0.0)
            await asyncio.sleep(RUNNER_ASK_AGAIN_S)

    async def is_served(self, agent_id: str) -> bool:
        """Whether a live runner serves an agent at this moment."""
        parts = self._parts
        try:
            await parts.connection.request(parts.names.agent_service(agent_id), timeout_s=RUNNER_ASK_S)
        except (NoRespondersError, ConnectionLostError):
            return False
        return True

    # --- tasks that exist --------------------------------------------------------------------------------------------------

    async def task(self, task_id: str) -> Task:
        """The handle of a task that is in the log.

        Raises:
            UnknownTaskError: it is not.
        """
        parts = self._parts
        require_token("task id", task_id)
        command = await parts.js.next_message(parts.names.commands, parts.names.execute("*", task_id))
        if command is None:
            raise UnknownTaskError(task_id)
        return Task(self, command.subject.split(".")[3], task_id, command.seq)

    async def cancel_task(
        self, task_id: str, *, reason: str = "", requested_by: str = "", wait: bool = False
    ) -> CancelAnswer:
        """End a task, wherever it is; durable once this returns.

        Args:
            task_id: the task.
            reason: stored with the cancel and shown in the tables.
            requested_by: who asks.
            wait: whether to wait for the terminal event.

        Returns:
            ``requested``, ``already_requested``, ``already_finished`` or ``unknown_task``.
        """
        parts = self._parts
        try:
            task = await self.task(task_id)
        except UnknownTaskError:
            return "unknown_task"
        if await self._is_finished(task):
            return "already_finished"
        with self._waiter(task.agent_id, task_id) as waiter:
            stored = await submit.send_cancel(parts.js, parts.names, task_id, reason, requested_by)
            if wait:
                await waiter.look()
                await waiter.wait()
        return "requested" if stored else "already_requested"

    async def _is_finished(self, task: Task) -> bool:
        parts = self._parts
        last = await parts.js.last_message(
            parts.names.events, parts.names.lifecycle(task.agent_id, task.task_id)
        )
        if last is None:
            return False
        return decode_event(last.data, seq=last.seq, stream=last.stream).type in TERMINAL_TYPES

    def _waiter(self, agent_id: str, task_id: str) -> ResultWaiter:
        parts = self._parts
        require_token("agent", agent_id)
        require_token("task id", task_id)
        return ResultWaiter(parts.hub, parts.js, parts.names, agent_id, task_id)

    # --- the log and the tables ----------------------------------------------------------------------------------------------

    def replay(
        self, *, task_id: str | None = None, agent: str | None = None, from_seq: int = 1, follow: bool = False
    ) -> AsyncIterator[Event]:
        """Read the log, oldest first.

        Args:
            task_id: only this task's events.
            agent: only this agent's events.
            from_seq: sequence to start at.
            follow: go on with new events instead of ending at what was the last one at the call.
        """
        parts = self._parts
        return replay_events(
            parts.connection,
            parts.js,
            parts.names,
            task_id=task_id,
            agent_id=agent,
            from_seq=from_seq,
            follow=follow,
        )

    async def sql(
        self, statement: str, params: list[Any] | None = None, *, wait_for: int = 0, timeout_s: float = 15.0
    ) -> list[dict[str, Any]]:
        """Ask the projector: one read-only statement, answered as a list of rows.

        Args:
            statement: the SQL.
            params: values for its ``?`` placeholders.
            wait_for: answer only once this `CAS_EVENTS` sequence is in the tables (read your writes).
            timeout_s: how long to wait for the answer.

        Raises:
            QueryError: refused or failed.
            ProjectionError: no projector answers.
        """
        parts = self._parts
        answer = await query(
            parts.connection, parts.names, statement, params, wait_for=wait_for, timeout_s=timeout_s
        )
        return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]


class Task:
    """The handle of one task.

    Attributes:
        agent_id: its agent.
        task_id: its id.
        seq: sequence of its execute command.
    """

    def __init__(self, client: Client, agent_id: str, task_id: str, seq: int) -> None:
        self._client = client
        self.agent_id = agent_id
        self.task_id = task_id
        self.seq = seq

    async def result(self) -> TaskResult:
        """Wait for the task's end, or read it if it is over."""
        parts = self._client._parts  # noqa: SLF001 - the client's own handle
        with self._client._waiter(self.agent_id, self.task_id) as waiter:  # noqa: SLF001
            await waiter.look()
            return await result_from(await waiter.wait(), parts.blobs)

    def events(self, *, after: int = 0) -> EventStream:
        """All events of the task, live or late, ending with the terminal one.

        Args:
            after: the `CAS_EVENTS` sequence of the last event already seen; 0 for all of them.
        """
        parts = self._client._parts  # noqa: SLF001 - the client's own handle

        async def begin(stream: EventStream) -> None:
            stream.resume_after(await key_of(parts.js, parts.names, after))
            await stream.look()

        return EventStream(parts.hub, parts.js, parts.names, self.agent_id, self.task_id, begin=begin)

    async def cancel(self, reason: str = "", *, requested_by: str = "", wait: bool = False) -> CancelAnswer:
        """End the task; see `Client.cancel_task`."""
        return await self._client.cancel_task(
            self.task_id, reason=reason, requested_by=requested_by, wait=wait
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    """What a connected client has."""

    connection: Connection
    js: JetStream
    names: Names
    blobs: BlobStore
    hub: LiveHub
    seen_runners: dict[str, float]
