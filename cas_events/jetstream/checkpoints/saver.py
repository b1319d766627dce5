"""`JetStreamSaver`: LangGraph checkpoints on JetStream.

The interface is LangGraph's `BaseCheckpointSaver`, its rules are those of langgraph-checkpoint 4. One instance serves
any number of threads and graphs, from its own event loop, from other loops and from threads. LangGraph copies a saver
(`with_allowlist`), so the copies share everything but the serializer and, in a runner, the fence.
"""

from __future__ import annotations

import copy
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from cas_events.jetstream.api import JetStream
from cas_events.jetstream.checkpoints.access import Shared
from cas_events.jetstream.checkpoints.acquiring import acquired
from cas_events.jetstream.checkpoints.bridge import SyncMethods
from cas_events.jetstream.checkpoints.listing import listed
from cas_events.jetstream.checkpoints.maintained import MaintainedThreads
from cas_events.jetstream.checkpoints.reading import assemble
from cas_events.jetstream.checkpoints.stream import PATIENCE_S, CheckpointStream
from cas_events.jetstream.checkpoints.strictness import strict_serializer
from cas_events.jetstream.checkpoints.views import View, owner_here
from cas_events.jetstream.checkpoints.writing import ns_of_config, put, put_writes, thread_of_config
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.topology import ensure_streams
from cas_events.settings import Settings
from cas_events.wire.checkpoints import Fence
from cas_events.wire.subjects import Names


class JetStreamSaver(SyncMethods, MaintainedThreads, BaseCheckpointSaver[str]):
    """Keeps the checkpoints of LangGraph threads in the deployment's stream of checkpoints.

    `async with JetStreamSaver(url) as saver: graph.compile(checkpointer=saver)`

    A thread has one writer at a time. Each run is a writer of its own: its first write takes the thread from where the
    run has read it, and a run that has lost it to another one, in this process or elsewhere, gets
    `CheckpointFencedError` from its next write. Strings, numbers and booleans in ``config["configurable"]`` are stored
    in the metadata, unless their name begins with ``__``: no secrets there.

    Args:
        url: of the server, or several with commas between; None for that of the settings.
        settings: of the deployment; None for those of the environment.
        serde: another serializer; the default is LangGraph's own, which constructs only the types of the graph's own
            schema, LangChain's messages, plain values, and those in ``allow``.
        allow: more types that may be constructed from what was stored.
        patience_s: how long a server that is away is waited for.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        settings: Settings | None = None,
        serde: SerializerProtocol | None = None,
        allow: Iterable[type | tuple[str, str]] = (),
        patience_s: float = PATIENCE_S,
    ) -> None:
        super().__init__(serde=serde or strict_serializer(allow))
        self._url = url
        self._settings = settings
        self._patience_s = patience_s
        self.shared = Shared()
        self.held: View | None = None

    @classmethod
    def on(
        cls,
        js: JetStream,
        names: Names,
        *,
        serde: SerializerProtocol | None = None,
        allow: Iterable[type | tuple[str, str]] = (),
        patience_s: float = PATIENCE_S,
    ) -> Self:
        """A saver on a connection that somebody else opens and closes; called in its event loop."""
        self = cls(serde=serde, allow=allow, patience_s=patience_s)
        self.shared.stream = CheckpointStream(js, names, patience_s=patience_s)
        return self

    async def __aenter__(self) -> Self:
        settings = self._settings or Settings.from_env(nats_url=self._url)
        connection = await Connection.open(self._url or settings.url(), name="cas checkpoints")
        try:
            js = JetStream(connection)
            await ensure_streams(
                js, settings.deployment, settings.replicas, only=Names(settings.deployment).checkpoints
            )
        except BaseException:
            await connection.close()
            raise
        self.shared.connection = connection
        self.shared.stream = CheckpointStream(js, Names(settings.deployment), patience_s=self._patience_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Wait, for a few seconds, for what is being stored, and close the connection if it is the saver's own."""
        if self.shared.stream is not None:
            await self.shared.stream.close()
        connection, self.shared.connection = self.shared.connection, None
        if connection is not None:
            await connection.close()

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> BaseCheckpointSaver[str]:
        """A copy that constructs more types; LangGraph asks for it at every run, with the same set of its graph."""
        key = id(self.serde), id(extra_allowlist)
        known = self.shared.serializers.get(key)
        if known is None:
            allowing = super().with_allowlist(extra_allowlist)
            self.shared.remember_serializer(key, (self.serde, extra_allowlist, allowing.serde))
            return allowing
        if known[-1] is self.serde:
            return self
        clone = copy.copy(self)
        clone.serde = known[-1]
        return clone

    # --- the fence

    async def acquire(
        self,
        thread_id: str,
        fence: Fence,
        *,
        displace: Callable[[Fence], Awaitable[bool]] | None = None,
        is_likely_new: bool = False,
    ) -> JetStreamSaver:
        """Take a thread for a task's attempt (PROTOCOL section 9).

        Args:
            thread_id: the thread.
            fence: the task, and the sequence of the ``started`` that this attempt is.
            displace: asked whether another task's fence may be displaced, because that task has ended; None: never.
            is_likely_new: as if nobody had ever had the thread: nothing is asked, and the fence goes with what is stored
                first, which raises `ThreadNotNewError` if somebody has had it.

        Returns:
            A copy of this saver for this attempt's graph; everything that it stores in the thread is stored under this
            fence.

        Raises:
            CheckpointFencedError: a newer attempt of the task has the thread.
            ThreadBusyError: another task has it.
        """
        view = await acquired(self.stream, thread_id, fence, displace, is_likely_new=is_likely_new)
        return self._holding(view)

    def _holding(self, view: View) -> JetStreamSaver:
        held = copy.copy(self)
        held.held = view
        return held

    # --- reading

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, or the newest one of its thread and namespace, by order of commit."""
        return self.remembered(await self.there(self.read(config, *self.reader(config))))

    def reader(self, config: RunnableConfig) -> tuple[View | None, Any]:
        """The view that the context has, and who reads."""
        return self.shared.views.in_context(thread_of_config(config)), owner_here()

    def remembered(self, read: tuple[CheckpointTuple | None, View]) -> CheckpointTuple | None:
        """What was read; the context keeps the view of it, for the writes of the run."""
        found, view = read
        if view is not self.held:
            self.shared.views.remember(view)
        return found

    async def read(
        self, config: RunnableConfig, known: View | None, owner: Any
    ) -> tuple[CheckpointTuple | None, View]:
        """A checkpoint and the view for what will be written on top of it; in the saver's own loop."""
        stream, thread_id, ns = self.stream, thread_of_config(config), ns_of_config(config)
        thread, checkpoint_id = stream.thread(thread_id), get_checkpoint_id(config)
        held = self.held if self.held is not None and self.held.thread_id == thread_id else None
        if held is not None:
            await held.settle()
            if held.writer.is_first:
                return None, held
        records = thread.record(ns, checkpoint_id) if checkpoint_id else thread.records(ns)
        begins_run = not (checkpoint_id or ns or held)
        fence, message, seen = await stream.newest(thread, records, look_for_changes=begins_run)
        view = self.view_of_reader(thread_id, ns, fence.seq if fence is not None else 0, known, owner)
        if begins_run:
            view.writer.seen = seen
        if message is None:
            return None, view
        assembled = await assemble(stream, thread_id, thread, self.serde, message)
        if assembled is None:
            return None, view
        assembled.teach(view)
        return assembled.found, view

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, the newest first, by order of commit; without a config, those of every thread."""
        if self.held is not None:
            await self.there(self.held.settle())
        async for found in listed(self.stream, self.serde, self.there, config, filter, before, limit):
            yield found

    # --- writing

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint; it is there once its record is, with all that belongs to it.

        Raises:
            CheckpointFencedError: another writer has taken the thread since this run read it.
        """

        async def work() -> RunnableConfig:
            view = await self.writing(thread_of_config(config))
            return await put(view, self.serde, config, checkpoint, metadata, new_versions)

        return await self.there(work())

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task wrote on top of a checkpoint.

        Raises:
            CheckpointFencedError: another writer has taken the thread since this run read it.
        """

        async def work() -> None:
            view = await self.writing(thread_of_config(config))
            await put_writes(self.stream, view, self.serde, config, writes, task_id, task_path)

        await self.there(work())

    def get_next_version(self, current: str | int | None, channel: None) -> str:  # noqa: ARG002 - LangGraph's signature
        """A channel's next version: counted, and different in every run."""
        number = (
            0 if current is None else current if isinstance(current, int) else int(str(current).split(".")[0])
        )
        return f"{number + 1:010}.{random.getrandbits(32):08x}"
