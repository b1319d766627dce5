"""A connected client's parts, and the handle of one task on top of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec

from cas_events import submit
from cas_events.agent_standing import standing_of
from cas_events.answers import Interrupt, Questions, ResumeAnswer
from cas_events.domain.events import CANCELLED, TERMINAL_TYPES
from cas_events.domain.tokens import require_token
from cas_events.errors import (
    AgentUnavailableError,
    ConnectionLostError,
    NoRespondersError,
    QueueFullError,
    StreamFullError,
    TaskNotEndedError,
    UnknownTaskError,
    WireError,
)
from cas_events.follow import EventStream
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.blobs import BlobStore
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.patience import patiently
from cas_events.jetstream.reads import DecidingReads, PendingRead
from cas_events.live import LiveHub
from cas_events.log_feed import LogFeeds
from cas_events.observe import clients
from cas_events.queue_depth import queue_depth
from cas_events.results import TaskResult, result_from
from cas_events.waiter import ResultWaiter
from cas_events.wire.envelope import decode_event
from cas_events.wire.subjects import Names

CancelAnswer = Literal["requested", "already_requested", "already_finished", "unknown_task"]

RUNNER_SEEN_S = 5.0  # how long a runner's answer counts
RUNNER_ASK_S = 3.0  # of a runner that is there and does not answer; where none is, the server says so at once
RUNNER_ASK_AGAIN_S = 0.1


class Session:
    """What a client has while it is connected.

    Args:
        connection: to the server.
        names: of the deployment.
    """

    def __init__(self, connection: Connection, names: Names) -> None:
        self.connection = connection
        self.names = names
        self.js = JetStream(connection)
        self.event_reads = DecidingReads(connection, names.events)
        self.blobs = BlobStore(self.js, names.blob_bucket)
        self.hub = LiveHub(connection, names)
        self.feeds = LogFeeds(connection, self.js, names)
        self._runner_seen_s: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[bool]] = {}
        self._queue_limits: dict[str, int] = {}

    async def close(self) -> None:
        """End every subscription and the connection."""
        self.feeds.close()
        await self.hub.close()
        await self.connection.close()

    # --- agents ----------------------------------------------------------------------------------------------------------

    async def is_served(self, agent_id: str) -> bool:
        """Whether a live runner serves an agent at this moment."""
        subject = self.names.agent_service(require_token("agent", agent_id))
        try:
            answer = await self.connection.request(subject, timeout_s=RUNNER_ASK_S)
        except (NoRespondersError, ConnectionLostError):
            return False
        self._note_queue_limit(agent_id, answer.data)
        return True

    def _note_queue_limit(self, agent_id: str, answer: bytes) -> None:
        try:
            limit = msgspec.json.decode(answer, type=_RunnerWord).max_queued
        except (msgspec.MsgspecError, UnicodeDecodeError):
            limit = None
        if limit is None:
            self._queue_limits.pop(agent_id, None)
        else:
            self._queue_limits[agent_id] = limit

    async def require_room(self, agent_id: str) -> None:
        """Check that the queue of an agent is not full, if a runner has named a limit.

        Raises:
            QueueFullError: it is.
        """
        limit = self._queue_limits.get(agent_id)
        if limit is None:
            return
        depth = await queue_depth(self.js, self.names, agent_id)
        if depth >= limit:
            raise QueueFullError(agent_id, depth=depth, limit=limit)

    async def require_runner(self, agent_id: str, wait_s: float) -> None:
        """Check that a live runner serves an agent; an answer counts for a few seconds.

        Raises:
            AgentUnavailableError: none does within ``wait_s``; at once if the agent is deregistered and refuses tasks.
        """
        began_s, is_first = time.monotonic(), True
        seen_s = self._runner_seen_s.get(agent_id)
        if seen_s is not None and began_s - seen_s < RUNNER_SEEN_S:
            return
        while not await patiently(lambda: self._ask_together(agent_id), give_up_s=submit.PATIENCE_S):
            is_over = time.monotonic() - began_s >= wait_s
            if is_over or is_first:
                facts = (await standing_of(self.js, self.names, agent_id)).facts
                if is_over or facts.stance == "refuse":
                    waited_s = wait_s if is_over else 0.0
                    raise AgentUnavailableError(agent_id, status=facts.status, waited_s=waited_s)
            is_first = False
            await asyncio.sleep(RUNNER_ASK_AGAIN_S)
        self._runner_seen_s[agent_id] = time.monotonic()

    def forget_runner(self, agent_id: str) -> None:
        """Ask anew whether somebody serves an agent."""
        self._runner_seen_s.pop(agent_id, None)

    async def _ask_together(self, agent_id: str) -> bool:
        """One question for all that want to know at the same time: a thousand of them keep a runner busy."""
        asking = self._asking.get(agent_id)
        if asking is None:
            asking = asyncio.get_running_loop().create_task(self.is_served(agent_id))
            self._asking[agent_id] = asking
            asking.add_done_callback(lambda _: self._asking.pop(agent_id))
        return await asyncio.shield(asking)

    # --- tasks -----------------------------------------------------------------------------------------------------------

    async def send(self, command: submit.PreparedExecute) -> Task:
        """Store an execute command and return the task's handle.

        Raises:
            DuplicateTaskError: the id is taken.
            AgentUnavailableError: no live runner serves the agent.
            QueueFullError: too many of its tasks wait.
        """
        if command.is_own_id:
            await submit.require_unused(self.js, self.names, command.agent_id, command.task_id)
        await self.require_runner(command.agent_id, command.wait_for_runner_s)
        await self.require_room(command.agent_id)
        command = await submit.rooted(self.js, self.names, command)
        seq = await submit.send(self.js, self.names, self.blobs, command)
        clients.meter().submitted(command.agent_id)
        return Task(self, command.agent_id, command.task_id, seq)

    async def find(self, task_id: str) -> Task:
        """The handle of a task that is in the log.

        Raises:
            UnknownTaskError: it is not.
        """
        subject_filter = self.names.execute("*", require_token("task id", task_id))
        command = await patiently(
            lambda: self.js.next_message(self.names.commands, subject_filter), give_up_s=submit.PATIENCE_S
        )
        if command is None:
            raise UnknownTaskError(task_id)
        return Task(self, command.subject.split(".")[3], task_id, command.seq)

    def waiter(self, agent_id: str, task_id: str) -> ResultWaiter:
        """Waits for a task's terminal event."""
        return ResultWaiter(self.hub, self.js, self.names, agent_id, task_id)

    def stream(
        self, agent_id: str, task_id: str, begin: Callable[[EventStream], Awaitable[None]]
    ) -> EventStream:
        """All events of a task; ``begin`` is awaited once it listens."""
        return EventStream(self.hub, self.js, self.names, agent_id, task_id, begin=begin)


class _RunnerWord(msgspec.Struct):
    """What a runner answers that serves an agent."""

    max_queued: int | None = None


class Task:
    """The handle of one task.

    Attributes:
        agent_id: its agent.
        task_id: its id.
        seq: sequence of its execute command.
    """

    def __init__(self, session: Session, agent_id: str, task_id: str, seq: int) -> None:
        self._session = session
        self.agent_id = agent_id
        self.task_id = task_id
        self.seq = seq

    async def result(self) -> TaskResult:
        """Wait for the task's end, or read it if it is over."""
        with self._session.waiter(self.agent_id, self.task_id) as waiter:
            await patiently(waiter.look)
            return await result_from(await waiter.wait(), self._session.blobs)

    def events(self, *, after: int = 0) -> EventStream:
        """All events of the task, live or late, ending with the terminal one.

        Args:
            after: the `CAS_EVENTS` sequence of the last event already seen; 0 for all of them.
        """

        async def begin(stream: EventStream) -> None:
            await patiently(lambda: stream.resume_after(after))
            await patiently(stream.look)

        return self._session.stream(self.agent_id, self.task_id, begin)

    async def cancel(self, reason: str = "", *, requested_by: str = "", wait: bool = False) -> CancelAnswer:
        """End the task, wherever it is; durable once this returns.

        Args:
            reason: stored with the cancel and shown in the tables.
            requested_by: who asks.
            wait: whether to wait for the terminal event.

        Returns:
            ``requested``, ``already_requested`` or ``already_finished``.

        Raises:
            StreamFullError: the stream of commands is full, and the task goes on.
        """
        session = self._session
        # It listens from before the look on, so that the end cannot fall between the two; and it looks while the
        # cancel is on its way, which for a task that is over is one more command and nothing else.
        with session.waiter(self.agent_id, self.task_id) as waiter:
            look = await patiently(self._glance, give_up_s=submit.PATIENCE_S)
            try:
                is_ours = await submit.send_cancel(
                    session.js, session.names, self.task_id, reason, requested_by
                )
            except StreamFullError:  # The stream is full; a task that is over needs no cancel.
                if await self._end_seen_by(look) is None:
                    raise
                return "already_finished"
            end = await self._end_seen_by(look)
            # A `cancelled` that is there beside the first cancel of the task is that cancel's own doing.
            if end is not None and not (is_ours and end == CANCELLED):
                return "already_finished"
            if wait:
                await waiter.wait()
        return "requested" if is_ours else "already_requested"

    async def _glance(self) -> PendingRead:
        return self._session.event_reads.glance(self._lifecycle)

    async def _end_seen_by(self, look: PendingRead) -> str | None:
        """The type of the terminal event, if the task has one."""
        try:
            return _end_type(await look)
        except ConnectionLostError:
            return await self._end_type()

    async def interrupts(self) -> list[Interrupt]:
        """What the task waits on now; empty unless it is interrupted."""
        return await self._questions.open()

    async def resume(self, interrupt_id: str, value: Any) -> ResumeAnswer:
        """Answer an interrupt; durable once this returns ``accepted``. See `Client.resume_task`."""
        return await self._questions.answer(interrupt_id, value)

    @property
    def _questions(self) -> Questions:
        session = self._session
        return Questions(session.js, session.names, session.blobs, self.agent_id, self.task_id)

    async def again(self, wait_for_runner_s: float) -> submit.PreparedExecute:
        """The command of a new task like this one, which has ended; see `Client.retry_task`."""
        if await self._end_type() is None:
            raise TaskNotEndedError(self.task_id)
        names = self._session.names
        command = await self._session.js.last_message(
            names.commands, names.execute(self.agent_id, self.task_id)
        )
        if command is None:
            raise UnknownTaskError(self.task_id)
        return submit.repeat(self.agent_id, self.task_id, command.data, wait_for_runner_s=wait_for_runner_s)

    @property
    def _lifecycle(self) -> str:
        return self._session.names.lifecycle(self.agent_id, self.task_id)

    async def _end_type(self) -> str | None:
        """The type of the terminal event, if the task has one, by a leader read."""
        js, stream = self._session.js, self._session.names.events
        last = await patiently(lambda: js.last_message(stream, self._lifecycle), give_up_s=submit.PATIENCE_S)
        return _end_type(last)


def _end_type(last: StoredMessage | None) -> str | None:
    """The type of a task's last lifecycle event, if that is a terminal one."""
    if last is None:
        return None
    try:
        type_ = decode_event(last.data, seq=last.seq, stream=last.stream).type
    except WireError:
        return None
    return type_ if type_ in TERMINAL_TYPES else None
