"""The part of a saver's interface that deletes, prunes and copies, and what delta channels are rebuilt from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import DeltaChannelHistory

from cas_events.jetstream.checkpoints.access import Access
from cas_events.jetstream.checkpoints.history import delta_history
from cas_events.jetstream.checkpoints.listing import thread_id_of
from cas_events.jetstream.checkpoints.upkeep import (
    copy_thread,
    delete_runs,
    delete_thread,
    keep_latest,
    threads_of_runs,
)


class MaintainedThreads(Access):
    """See the module."""

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete all checkpoints of a thread; its fence stays, and other writers have lost the thread."""

        async def work() -> None:
            await delete_thread(self.stream, await self.taking(thread_id))

        await self.there(work())

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete what is no longer wanted of threads, by ``keep_latest`` all but the newest checkpoint of each namespace.

        By ``delete`` all of them. Other writers have lost the threads then.

        Raises:
            ValueError: there is no such strategy.
        """
        if strategy not in {"keep_latest", "delete"}:
            raise ValueError(f"strategy {strategy!r} is neither 'keep_latest' nor 'delete'")

        async def work() -> None:
            for thread_id in thread_ids:
                view = await self.taking(thread_id)
                if strategy == "delete":
                    await delete_thread(self.stream, view)
                else:
                    await keep_latest(self.stream, view, self.serde)

        await self.there(work())

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs, by the ``run_id`` of their metadata; reads every record of the deployment."""

        async def work() -> None:
            for thread in await threads_of_runs(self.stream, self.serde, set(run_ids)):
                view = await self.taking(await thread_id_of(self.stream, thread))
                await delete_runs(self.stream, view, self.serde, set(run_ids))

        await self.there(work())

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints of a thread into another one, with their writes and in their order."""

        async def work() -> None:
            source = self.stream.thread(source_thread_id)
            await copy_thread(self.stream, source, await self.taking(target_thread_id))

        await self.there(work())

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What rebuilds delta channels: the writes since the newest stored value among the ancestors, and that value."""
        return await self.there(delta_history(self.stream, self.serde, config, channels))
