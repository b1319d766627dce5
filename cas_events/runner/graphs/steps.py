"""Nodes as `cas.step.*` events: each start, each try of a node that LangGraph retries, each end.

A start and a try's failure come from LangChain's callbacks, at the moment they happen: so a node's start stands before
what its code says, a node whose result was taken from a checkpoint or a cache does not start at all, and retries show,
none of which the stream tells. An end comes from the stream, which knows what became of the node's result. The callbacks
cost about 20 µs a node.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langgraph.constants import TAG_HIDDEN
from langgraph.errors import GraphBubbleUp

from cas_events.domain import events
from cas_events.runner.context import TaskContext
from cas_events.runner.failures import error_members
from cas_events.runner.graphs.origin import NODE, path_of, step_id_of


class Steps(BaseCallbackHandler):
    """Emits the steps of one run, as a callback handler of it.

    Args:
        context: of the attempt.
    """

    run_inline = True  # In order, and not in a pool of threads.
    ignore_llm = ignore_chat_model = ignore_agent = ignore_retriever = ignore_custom_event = True

    def __init__(self, context: TaskContext) -> None:
        self._context = context
        self._running: dict[UUID, dict[str, Any]] = {}
        self._active: set[str] = set()
        self._tries: dict[str, int] = {}
        self._failed: set[str] = set()
        self._seen: dict[int, BaseException] = {}

    # --- from the callbacks, in whatever thread the node is called -------------------------------------------------------

    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: Any,
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """A node starts, or something within it, which is of no interest."""
        del serialized, inputs
        if not metadata or more.get("name") != metadata.get(NODE) or TAG_HIDDEN in (tags or ()):
            return
        step_id = step_id_of(metadata)
        if step_id in self._active:
            return  # A graph within the node, of the node's name.
        self._active.add(step_id)
        tries = self._tries[step_id] = self._tries.get(step_id, 0) + 1
        members = _members(metadata[NODE], path_of(metadata), step_id, tries)
        self._running[run_id] = members
        self._failed.discard(step_id)
        self._context.emit_step(events.STEP_STARTED, members)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:
        """A node has returned; the stream says so when its result is taken."""
        del outputs
        self._left(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """A try of a node has failed. An interrupt is no failure, and of a cancel the stream tells whether it is one."""
        members = self._left(run_id)
        if members is not None and isinstance(error, Exception) and not isinstance(error, GraphBubbleUp):
            self._fail(members, error)

    def _left(self, run_id: UUID) -> dict[str, Any] | None:
        members = self._running.pop(run_id, None)
        if members is not None:
            self._active.discard(members["step_id"])
        return members

    # --- from the stream -------------------------------------------------------------------------------------------------

    def end(self, task: Mapping[str, Any], namespace: tuple[str, ...]) -> None:
        """Take a part of the mode ``tasks``; a start was told by a callback already."""
        if "triggers" in task or task.get("interrupts"):
            return
        step_id = task["id"]
        error = task.get("error")
        if error is not None and step_id in self._failed:
            return
        members = _members(task["name"], list(namespace), step_id, self._tries.pop(step_id, 1))
        if error is None:
            self._context.emit_step(events.STEP_COMPLETED, members)
        else:
            self._fail(members, error)

    def _fail(self, members: dict[str, Any], error: Any) -> None:
        self._failed.add(members["step_id"])
        if not isinstance(error, BaseException):
            error = RuntimeError(str(error))
        if id(error) not in self._seen:
            self._seen[id(error)] = error
            with suppress(AttributeError):  # It has slots.
                error.cas_node = members["node"]  # The innermost one; shown in the task's own failure.
        self._context.emit_step(
            events.STEP_FAILED,
            {**members, "error": error_members(error, self._context.redaction, with_traceback=False)},
        )


def _members(node: str, path: list[str], step_id: str, tries: int) -> dict[str, Any]:
    members = {"node": node, "path": path, "step_id": step_id}
    return members | {"node_attempt": tries} if tries > 1 else members
