"""Parts of a graph's stream as events: node starts and ends as `cas.step.*`, what nodes write as `cas.output`."""

from __future__ import annotations

from typing import Any, Self

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables.config import var_child_runnable_config

from cas_events.domain import events
from cas_events.runner.context import TaskContext
from cas_events.runner.failures import error_members


class StreamEvents:
    """Emits the events of one run; leaving its block emits what it still holds back.

    Args:
        context: of the attempt; its progress names the node from here on.
        tokens: whether to emit chat models' tokens.

    Attributes:
        modes: the stream modes that it wants to see.
        callbacks: handlers that the run's config shall carry.
    """

    def __init__(self, context: TaskContext, *, tokens: bool = False) -> None:
        self._context = context
        context.current_node = current_node
        context.current_place = current_place
        self.modes = ("tasks", "custom", "messages") if tokens else ("tasks", "custom")
        self.callbacks: list[BaseCallbackHandler] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Emit what is held back."""

    async def emit(self, kind: str, data: Any, namespace: tuple[str, ...]) -> None:
        """Emit what a stream part says, if it says anything to followers.

        Args:
            kind: the stream mode.
            data: the part's data.
            namespace: where in the graph; empty for its root.
        """
        if kind == "tasks":
            self._emit_step(data, namespace)
        elif kind == "custom":
            await self._context.emit_output(data, kind="custom")

    def _emit_step(self, task: dict[str, Any], namespace: tuple[str, ...]) -> None:
        """A node has started or ended."""
        members = {"node": task["name"], "path": list(namespace), "step_id": task["id"]}
        if "triggers" in task:
            self._context.emit_step(events.STEP_STARTED, members)
        elif task.get("interrupts"):
            return  # It asks; after the answer it starts once more, and may then end.
        elif task.get("error") is None:
            self._context.emit_step(events.STEP_COMPLETED, members)
        else:
            error = task["error"]
            if isinstance(error, BaseException):
                members["error"] = error_members(error, with_traceback=False)
                error.cas_node = task["name"]  # type: ignore[attr-defined] # shown in the task's own failure
            else:
                members["error"] = {"type": "Error", "message": str(error)}
            self._context.emit_step(events.STEP_FAILED, members)


def current_place() -> str:
    """The superstep and the path of nodes whose code runs here: the same when the graph goes on from a checkpoint."""
    config = var_child_runnable_config.get()
    metadata = (config or {}).get("metadata", {})
    # `outer:<id>|inner:<id>`; the ids are of one run, the names of all.
    path = "|".join(
        part.partition(":")[0] for part in str(metadata.get("langgraph_checkpoint_ns", "")).split("|")
    )
    return f"{metadata.get('langgraph_step', '')}/{path}"


def current_node() -> str | None:
    """The name of the node whose code runs here; works in threads, which inherit the context."""
    config = var_child_runnable_config.get()
    node = (config or {}).get("metadata", {}).get("langgraph_node")
    return node if isinstance(node, str) else None
