"""What the parts of one runner process share, wired up once by the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec import structs

from cas_events.domain.commands import Execute
from cas_events.domain.limits import TelemetryLimits
from cas_events.domain.redaction import Redaction
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.blobs import BlobStore
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.patience import patiently
from cas_events.jetstream.publisher import PipelinedPublisher
from cas_events.jetstream.queue import ACK, Delivery, nak
from cas_events.jetstream.reads import DecidingReads
from cas_events.lineage import root_of
from cas_events.observe.meter import Meter
from cas_events.runner.breakers import Breakers
from cas_events.runner.holds import Desk, TaskKey
from cas_events.runner.keeper import Keeper
from cas_events.runner.ledger import Ledger
from cas_events.runner.registry import AgentSpec
from cas_events.runner.roster import Roster
from cas_events.session import Session
from cas_events.wire.subjects import Names

if TYPE_CHECKING:
    from cas_events.runner.execution import Execution


@dataclass(slots=True, kw_only=True, eq=False)
class Workplace:
    """The shared parts of a runner process.

    Attributes:
        names: of the deployment.
        runner_id: token of this process, made anew at each start.
        connection: the event loop's connection.
        js: its JetStream.
        reads: coherent reads of commands.
        ledger: reads and appends lifecycle events.
        publisher: pipelined telemetry.
        blobs: claim checks.
        desk: what is shared with the keeper thread.
        keeper: the keeper thread.
        breakers: the agents' circuit breakers.
        agents: what this process has code for.
        roster: which of them it serves.
        lease_s: redelivery time of an agent's consumer that this process would create.
        grace_s: how long agent code may take to end when asked to.
        limits: what a task may emit, and how large its input and outputs may be.
        redaction: what is taken out of words before they are stored.
        session: starts children and waits for them.
        spawn: starts a supervised coroutine.
        meter: told what happens, for whoever looks at metrics.
        running: executions of this process by agent and task id, from their claim to their end; two agents may have
            been given the same id.
        is_stopping: the process shuts down.
        saver: LangGraph's checkpointer on this connection, once a graph has run; see `graphs.threads`.
        store: LangGraph's long-term memory on this connection, likewise.
    """

    names: Names
    runner_id: str
    connection: Connection
    js: JetStream
    reads: DecidingReads
    ledger: Ledger
    publisher: PipelinedPublisher
    blobs: BlobStore
    desk: Desk
    keeper: Keeper
    breakers: Breakers
    agents: dict[str, AgentSpec]
    roster: Roster
    lease_s: float
    grace_s: float
    limits: TelemetryLimits
    redaction: Redaction
    session: Session
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    meter: Meter
    running: dict[TaskKey, Execution] = field(default_factory=dict)
    is_stopping: bool = False
    saver: Any = None
    store: Any = None

    @property
    def source(self) -> str:
        """The `source` of events that this process writes."""
        return f"cas/runner/{self.runner_id}"

    def running_with_id(self, task_id: str) -> list[Execution]:
        """What runs here under a task id, for whichever agent."""
        found = (self.running.get((agent_id, task_id)) for agent_id in self.agents)
        return [execution for execution in found if execution is not None]

    async def last_command(self, subject: str) -> StoredMessage | None:
        """The stored command of a subject, as the leader has it."""
        return await patiently(lambda: self.reads.last(subject))

    async def first_command(self, subject_filter: str) -> StoredMessage | None:
        """The oldest stored command that matches a filter, as the leader has it."""
        return await patiently(lambda: self.reads.first(subject_filter))

    async def rooted(self, execute: Execute) -> Execute:
        """A command with its root filled in, if its sender named a parent and left that to us."""
        if execute.parent_id is None or execute.correlation_id is not None:
            return execute
        root = await root_of(self.first_command, self.names, execute.parent_id)
        return structs.replace(execute, correlation_id=root)

    async def close_memories(self) -> None:
        """Wait, for a few seconds, for what graphs still store."""
        for memory in (self.saver, self.store):
            if memory is not None:
                await memory.aclose()

    def ack(self, delivery: Delivery) -> None:
        """Acknowledge a delivery; lost with the connection, which only means that it comes again."""
        if self.connection.is_connected:
            self.connection.publish(delivery.reply, ACK)
            if delivery.stream == self.names.timers:
                # A wake that has done its work would stay for ever: nothing else ends what `CAS_TIMERS` keeps.
                self.js.forget(delivery.stream, delivery.seq)

    def nak(self, delivery: Delivery, delay_s: float) -> None:
        """Ask for a delivery again after ``delay_s`` seconds."""
        if self.connection.is_connected:
            self.connection.publish(delivery.reply, nak(delay_s))
