"""The client: start tasks, follow them, cancel them, replay the log and ask the tables.

    async with Client() as cas:
        result = await cas.execute_task("analyst", {"query": "test"})

Everything that a client does is a published command, a subscription or a read; it holds no state that matters.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from cas_events import submit
from cas_events.agent_states import AgentStates
from cas_events.answers import ResumeAnswer
from cas_events.domain.events import Event
from cas_events.errors import UnknownTaskError
from cas_events.fleet_client import FleetMethods
from cas_events.follow import EventStream
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.topology import ensure_streams
from cas_events.observe.tracing import enable_tracing
from cas_events.reading import Choice, FollowFrom, ReplayOptions, follow, replay
from cas_events.results import TaskResult, result_from
from cas_events.schedule_client import ScheduleMethods
from cas_events.session import CancelAnswer, Session, Task
from cas_events.settings import Settings
from cas_events.sql_client import ArrowResult, Params, SqlOptions, query, query_arrow
from cas_events.state_client import StateMethods
from cas_events.submit import TaskOptions
from cas_events.uuid7 import uuid7
from cas_events.wire.subjects import Names

T = TypeVar("T")

_SQL_TIMEOUT_S = 15.0


class Client(StateMethods, FleetMethods, ScheduleMethods):
    """A connection to a deployment, from any process.

    Args:
        url: the NATS server; without one the settings say. Connects when entered, not when made.
        settings: deployment, home and the like; from the environment without them.
    """

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        self._url = url
        self._settings = settings
        self._connected: Session | None = None
        self._source = ""

    async def __aenter__(self) -> Self:
        settings = self._settings or Settings.from_env(nats_url=self._url)
        if settings.tracing:
            enable_tracing()
        client_id = uuid7()
        connection = await Connection.open(self._url or settings.url(), name=f"cas-client-{client_id}")
        try:
            await ensure_streams(JetStream(connection), settings.deployment, replicas=settings.replicas)
        except BaseException:
            await connection.close()
            raise
        self._connected = Session(connection, Names(settings.deployment))
        self._source = f"cas/client/{client_id}"
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._connected is not None:
            session, self._connected = self._connected, None
            await session.close()

    @property
    def _session(self) -> Session:
        if self._connected is None:
            raise RuntimeError("the client is not connected; use it as `async with Client() as cas:`")
        return self._connected

    @property
    def _states(self) -> AgentStates:
        session = self._session
        return AgentStates(session.js, session.names, session.blobs, source=self._source)

    # --- starting tasks --------------------------------------------------------------------------------------------------

    async def execute_task(
        self, agent_id: str, input: Mapping[str, Any] | None = None, **options: Unpack[TaskOptions]
    ) -> TaskResult:
        """Run a task and wait for its end.

        Args:
            agent_id: the agent.
            input: what it gets, a JSON object.
            options: see `TaskOptions`.

        Returns:
            The result, whatever the outcome: this never raises for a task's failure.

        Raises:
            InvalidCommandError, InvalidNameError, NotJsonError, PayloadTooLargeError: nothing was sent.
            AgentUnavailableError: no live runner serves the agent.
            QueueFullError: as many tasks of the agent wait as it admits (``max_queued``).
            DuplicateTaskError: the task id is taken.
        """
        command = submit.prepare(agent_id, input, options)
        with self._session.waiter(agent_id, command.task_id) as waiter:
            await self._session.send(command)
            return await result_from(await waiter.wait(), self._session.blobs)

    def stream_task(
        self, agent_id: str, input: Mapping[str, Any] | None = None, **options: Unpack[TaskOptions]
    ) -> EventStream:
        """Run a task and follow it: events as they are stored, the last one terminal.

        Dropping the iterator does not cancel the task. Arguments and errors as for `execute_task`; the task is
        sent when the iteration begins.
        """
        command = submit.prepare(agent_id, input, options)

        async def begin(_: EventStream) -> None:
            await self._session.send(command)

        return self._session.stream(agent_id, command.task_id, begin)

    async def submit_task(
        self, agent_id: str, input: Mapping[str, Any] | None = None, **options: Unpack[TaskOptions]
    ) -> Task:
        """Store a task's execute command and return its handle; the task runs whether anybody waits or not.

        Arguments and errors as for `execute_task`.
        """
        return await self._session.send(submit.prepare(agent_id, input, options))

    async def is_served(self, agent_id: str) -> bool:
        """Whether a live runner serves an agent at this moment."""
        return await self._session.is_served(agent_id)

    async def retry_task(self, task_id: str, *, wait_for_runner_s: float | None = None) -> Task:
        """Start a task that has ended once more, as a new task with the old one as its parent.

        Args:
            task_id: the old task.
            wait_for_runner_s: how long to wait for a runner that serves the agent, in seconds.

        Raises:
            UnknownTaskError: it is not in the log.
            TaskNotEndedError: it still runs or waits.
            InvalidCommandError: its command was rejected and would be again.
            AgentUnavailableError: no live runner serves the agent.
        """
        old = await self._session.find(task_id)
        return await self._session.send(await old.again(wait_for_runner_s or 0.0))

    # --- tasks that exist --------------------------------------------------------------------------------------------------

    async def task(self, task_id: str) -> Task:
        """The handle of a task that is in the log.

        Raises:
            UnknownTaskError: it is not.
        """
        return await self._session.find(task_id)

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
        try:
            task = await self.task(task_id)
        except UnknownTaskError:
            return "unknown_task"
        return await task.cancel(reason, requested_by=requested_by, wait=wait)

    async def resume_task(self, task_id: str, interrupt_id: str, value: Any) -> ResumeAnswer:
        """Answer a question that a task waits on; whichever runner serves the agent, now or later, takes it from there.

        Args:
            task_id: the task.
            interrupt_id: the interrupt's name, as its `interrupted` event lists it.
            value: the answer, any JSON-able value.

        Returns:
            ``accepted``: it is stored, and durable. ``already_answered``: the first answer counts. ``not_waiting``:
            the task does not ask this, or not yet. ``already_finished`` or ``unknown_task``.

        Raises:
            NotJsonError, PayloadTooLargeError, InvalidNameError: nothing was sent.
        """
        try:
            task = await self.task(task_id)
        except UnknownTaskError:
            return "unknown_task"
        return await task.resume(interrupt_id, value)

    # --- the log and the tables ----------------------------------------------------------------------------------------------

    async def last_seq(self) -> int:
        """Sequence of the newest event in the log; 0 when it is empty."""
        return (await self._session.js.stream_info(self._session.names.events)).state.last_seq

    def replay(
        self,
        *,
        task_id: str | None = None,
        agent: str | None = None,
        type: str | None = None,
        from_seq: int = 1,
        follow: bool = False,
        **options: Unpack[ReplayOptions],
    ) -> AsyncIterator[Event]:
        """Read the log, oldest first, in the order in which it was stored.

        Args:
            task_id: only this task's events.
            agent: only this agent's events.
            type: only events of this type, such as ``cas.log``; ``cas.task.*`` for all that begin so.
            from_seq: sequence to start at.
            follow: go on with new events instead of ending at what was the last one at the call.
            options: see `ReplayOptions`.
        """
        choice = Choice(task_id=task_id, agent=agent, type=type)
        return replay(self._session, choice, from_seq=from_seq, follow=follow, options=options)

    def follow(
        self,
        *,
        task_id: str | None = None,
        agent: str | None = None,
        workflow: str | None = None,
        type: str | None = None,
        after: int | None = None,
        from_: FollowFrom | None = None,
    ) -> AsyncIterator[Event]:
        """Follow the log, live and stored without gap or duplicate, whatever happens to server, runner or connection.

        Of one task: its events and outputs in the order of (attempt, index), ending with the terminal one. Of a
        workflow (a task and all its descendants): until all of them have ended. Otherwise without end; these come in
        the order of the log, with ``type="cas.output"`` for outputs. What retention took is an item of type
        ``cas.gap``, see `Event`. Any number of followers of one client cost the server no consumer.

        Args:
            task_id: only this task.
            agent: only this agent.
            workflow: only this task and its descendants.
            type: only events of this type, such as ``cas.log``; ``cas.task.*`` for all that begin so.
            after: the sequence of the last event that was seen, to go on behind it.
            from_: ``now``, ``start`` or the sequence of the first event; the default is ``start`` for a task or a
                workflow and ``now`` otherwise.

        Raises:
            UnknownTaskError: the task or the workflow is not in the log.
            ValueError: more than one of task, agent and workflow, or both a cursor and a start.
        """
        choice = Choice(task_id=task_id, agent=agent, workflow=workflow, type=type)
        return follow(self._session, choice, after=after, from_=from_)

    async def sql(
        self, statement: str, params: Params = (), **options: Unpack[SqlOptions]
    ) -> list[dict[str, Any]]:
        """Ask the projector: one read-only statement, answered as a list of rows.

        Args:
            statement: the SQL.
            params: values for ``?`` and ``$1`` (a sequence), or for ``$name`` (a mapping).
            **options: ``wait_for``, a `CAS_EVENTS` sequence that has to be in the tables (read your writes); ``as_of``, a
                sequence or a time: the tables as they were then; ``limit``, rows at most; ``timeout_s``, 15 without it.

        Raises:
            QueryError: refused or failed.
            ProjectionError: no projector answers.
        """
        return (await self._ask(query, statement, params, options)).dicts()

    async def sql_arrow(
        self, statement: str, params: Params = (), **options: Unpack[SqlOptions]
    ) -> ArrowResult:
        """As `sql`, with the rows as one Arrow IPC stream: for data frames, without a value touched in Python."""
        return await self._ask(query_arrow, statement, params, options)

    async def _ask(
        self, how: Callable[..., Awaitable[T]], statement: str, params: Params, options: SqlOptions
    ) -> T:
        bounded: SqlOptions = {"timeout_s": _SQL_TIMEOUT_S, **options}
        session = self._session
        return await how(session.connection, session.names.deployment, statement, params, **bounded)
