"""The synchronous half of a saver's interface, for sync nodes and for graphs that run in threads.

Every method waits for its async twin in the saver's own event loop, and so it must not be called there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)

from cas_events.jetstream.checkpoints.access import Access


class SyncMethods(Access):
    """The sync methods of `BaseCheckpointSaver`, by their async twins."""

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As `aget_tuple`."""
        this: Any = self
        # The view is this thread's, not that of the task in the loop.
        return this.remembered(self.wait("get_tuple", this.read(config, *this.reader(config))))  # type: ignore[no-any-return]

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """As `alist`."""
        this: Any = self

        async def collect() -> Any:
            return [found async for found in this.alist(config, filter=filter, before=before, limit=limit)]

        yield from self.wait("list", collect())

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As `aput`."""
        this: Any = self
        return self.wait("put", this.aput(config, checkpoint, metadata, new_versions))  # type: ignore[no-any-return]

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """As `aput_writes`."""
        this: Any = self
        self.wait("put_writes", this.aput_writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        """As `adelete_thread`."""
        this: Any = self
        self.wait("delete_thread", this.adelete_thread(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """As `adelete_for_runs`."""
        this: Any = self
        self.wait("delete_for_runs", this.adelete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """As `acopy_thread`."""
        this: Any = self
        self.wait("copy_thread", this.acopy_thread(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """As `aprune`."""
        this: Any = self
        self.wait("prune", this.aprune(thread_ids, strategy=strategy))

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """As `aget_delta_channel_history`."""
        this: Any = self
        work = this.aget_delta_channel_history(config=config, channels=channels)
        return self.wait("get_delta_channel_history", work)
