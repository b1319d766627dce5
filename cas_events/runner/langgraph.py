"""Any LangGraph graph as an agent function.

The graph object is not changed. Its nodes find the task's handle with `current_task()`, whose progress is forwarded
to the workflow's followers with the node's name; node starts and ends become `cas.step.*` events, what nodes write
with `get_stream_writer()` becomes `cas.output`. Streaming is LangGraph's v2, which does not alter what nodes see.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from langchain_core.runnables.config import var_child_runnable_config
from langgraph.pregel import Pregel

from cas_events.domain import events
from cas_events.runner.context import TaskContext
from cas_events.runner.failures import error_members
from cas_events.runner.registry import AgentFunction


def graph_agent(graph: Any) -> AgentFunction:
    """An agent function that runs a compiled graph, or a graph builder that is compiled here.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(graph, Pregel):
        compile_ = getattr(graph, "compile", None)
        if not callable(compile_):
            raise TypeError(f"a {type(graph).__name__} is neither an async function nor a LangGraph graph")
        graph = compile_()
    compiled: Pregel[Any, Any, Any, Any] = graph

    async def run(context: TaskContext, input_: Any) -> Any:
        return await _run(compiled, context, input_)

    return run


async def _run(graph: Pregel[Any, Any, Any, Any], context: TaskContext, input_: Any) -> Any:
    context.current_node = _current_node
    values: Any = None
    config: Any = {"configurable": {"thread_id": context.metadata.get("thread_id") or context.task_id}}
    stream: Any = graph.astream(
        input_, config, stream_mode=["tasks", "custom", "values"], subgraphs=True, version="v2"
    )
    async with aclosing(stream):  # Whatever ends this early ends the nodes that still run.
        async for part in stream:
            kind, data, namespace = part["type"], part["data"], part["ns"]
            if kind == "tasks":
                _emit_step(context, data, namespace)
            elif kind == "custom":
                await context.emit_output(data, kind="custom")
            elif not namespace:
                values = data
    return _output(graph, values)


def _emit_step(context: TaskContext, task: dict[str, Any], namespace: tuple[str, ...]) -> None:
    """A node has started or ended."""
    members = {"node": task["name"], "path": list(namespace), "step_id": task["id"]}
    if "triggers" in task:
        context.emit_step(events.STEP_STARTED, members)
    elif task.get("error") is None:
        context.emit_step(events.STEP_COMPLETED, members)
    else:
        error = task["error"]
        if isinstance(error, BaseException):
            members["error"] = error_members(error, with_traceback=False)
            error.cas_node = task["name"]  # type: ignore[attr-defined] # shown in the task's own failure
        else:
            members["error"] = {"type": "Error", "message": str(error)}
        context.emit_step(events.STEP_FAILED, members)


def _current_node() -> str | None:
    """The name of the node whose code runs here; works in threads, which inherit the context."""
    config = var_child_runnable_config.get()
    node = (config or {}).get("metadata", {}).get("langgraph_node")
    return node if isinstance(node, str) else None


def _output(graph: Pregel[Any, Any, Any, Any], values: Any) -> Any:
    """The last values, cut to the graph's output channels as `ainvoke` does."""
    channels = graph.output_channels
    if not isinstance(values, dict):
        return values
    if isinstance(channels, str):
        return values.get(channels, values)
    return {name: values[name] for name in channels if name in values}
