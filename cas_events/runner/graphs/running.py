"""The loop over a graph's stream: one run of a graph for one attempt of a task.

Streaming is LangGraph's v2, which does not alter what nodes see (v3 changes what chat models give them), and goes into
subgraphs, whose custom events would be lost otherwise.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from cas_events.runner.context import TaskContext
from cas_events.runner.graphs.events import STREAM_MODES, StreamEvents
from cas_events.runner.graphs.opening import AnyPregel, open_graph, settled
from cas_events.runner.registry import AgentFunction


def graph_agent(graph: Any) -> AgentFunction:
    """An agent function that runs a graph.

    Raises:
        TypeError: it is no graph.
    """
    form = settled(graph)

    async def run(context: TaskContext, input_: Any) -> Any:
        async with open_graph(form) as opened:
            return await _run(opened, context, input_)

    return run


async def _run(graph: AnyPregel, context: TaskContext, input_: Any) -> Any:
    values: Any = None
    emitted = StreamEvents(context)
    config: Any = {"configurable": {"thread_id": context.metadata.get("thread_id") or context.task_id}}
    modes: Any = [*STREAM_MODES, "values"]
    stream: Any = graph.astream(input_, config, stream_mode=modes, subgraphs=True, version="v2")
    async with aclosing(stream):  # Whatever ends this early ends the nodes that still run.
        async for part in stream:
            kind, data, namespace = part["type"], part["data"], part["ns"]
            if kind != "values":
                await emitted.emit(kind, data, namespace)
            elif not namespace:
                values = data
    return _output(graph, values)


def _output(graph: AnyPregel, values: Any) -> Any:
    """The last values, cut to the graph's output channels as `ainvoke` does."""
    channels = graph.output_channels
    if not isinstance(values, dict):
        return values
    if isinstance(channels, str):
        return values.get(channels, values)
    return {name: values[name] for name in channels if name in values}
