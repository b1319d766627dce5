"""The loop over a graph's stream: one run of a graph for one attempt of a task.

Streaming is LangGraph's v2, which does not alter what nodes see (v3 changes what chat models give them), and goes into
subgraphs, whose custom events would be lost otherwise.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from cas_events.runner.context import TaskContext
from cas_events.runner.graphs.events import StreamEvents
from cas_events.runner.graphs.opening import AnyPregel, open_graph, settled
from cas_events.runner.registry import AgentFunction

# LangGraph's own default is 10,007: a graph that goes in circles would write checkpoints for hours.
RECURSION_LIMIT = 100


def graph_agent(graph: Any, *, recursion_limit: int | None = None, tokens: bool = False) -> AgentFunction:
    """An agent function that runs a graph.

    Args:
        graph: in any form that `opening` knows.
        recursion_limit: supersteps of one run; None for the graph's own (`with_config`), else `RECURSION_LIMIT`.
        tokens: whether chat models' tokens are published for tasks that do not say themselves.

    Raises:
        TypeError: it is no graph.
    """
    form = settled(graph)

    async def run(context: TaskContext, input_: Any) -> Any:
        config: dict[str, Any] = {
            "configurable": {"thread_id": context.metadata.get("thread_id") or context.task_id}
        }
        async with open_graph(form, config=config) as opened:
            config["recursion_limit"] = recursion_limit or (opened.config or {}).get(
                "recursion_limit", RECURSION_LIMIT
            )
            return await _run(opened, context, input_, config, tokens=tokens)

    return run


async def _run(
    graph: AnyPregel, context: TaskContext, input_: Any, config: dict[str, Any], *, tokens: bool
) -> Any:
    values: Any = None
    with StreamEvents(context, tokens=tokens) as emitted:
        modes: Any = [*emitted.modes, "values"]
        settings: Any = {**config, "callbacks": emitted.callbacks}
        stream: Any = graph.astream(input_, settings, stream_mode=modes, subgraphs=True, version="v2")
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
