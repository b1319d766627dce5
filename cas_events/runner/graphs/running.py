"""The loop over a graph's stream: one run of a graph for one attempt of a task.

Streaming is LangGraph's v2, which does not alter what nodes see (v3 changes what chat models give them), and goes into
subgraphs, whose custom events would be lost otherwise.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from langchain_core.runnables.config import merge_configs
from langgraph.constants import START
from langgraph.errors import GraphDrained, is_invalid_resume
from langgraph.runtime import RunControl

from cas_events.errors import ThreadNotNewError
from cas_events.runner.attempts import Attempt
from cas_events.runner.context import TaskContext
from cas_events.runner.graphs.events import StreamEvents
from cas_events.runner.graphs.inputs import input_schema
from cas_events.runner.graphs.opening import AnyPregel, open_graph, settled
from cas_events.runner.graphs.threads import Thread, open_saver, open_store
from cas_events.runner.questions import DrainedError
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
        try:
            return await run_once(context, input_, is_likely_new=True)
        except ThreadNotNewError:  # No node has run: what is stored first, is before the first one.
            return await run_once(context, input_, is_likely_new=False)

    async def run_once(context: TaskContext, input_: Any, *, is_likely_new: bool) -> Any:
        thread = Thread(context)
        saver = None
        if context.held is not None:
            saver = await open_saver(context.held, thread.thread_id, is_likely_new=is_likely_new)
        store = None if context.held is None else open_store(context.held.place)
        async with open_graph(form, checkpointer=saver, store=store, config=thread.config) as opened:
            thread.config["recursion_limit"] = recursion_limit or (opened.config or {}).get(
                "recursion_limit", RECURSION_LIMIT
            )
            with StreamEvents(context, tokens=tokens) as emitted:
                run = _Run(opened, thread, emitted)
                if context.held is None or opened.checkpointer is False:
                    return await run.once(input_)
                return await run.on_thread(context.held, saver, input_)

    async def describe() -> dict[str, Any] | None:
        async with open_graph(form, access="assistants.read") as opened:
            return input_schema(opened)

    run.has_threads = True  # type: ignore[attr-defined] # `AgentSpec.has_threads`
    run.describe = describe  # type: ignore[attr-defined] # `Registrations.describe`
    return run


class _Run:
    """One run of an opened graph."""

    def __init__(self, graph: AnyPregel, thread: Thread, emitted: StreamEvents) -> None:
        self._graph = graph
        self._thread = thread
        self._emitted = emitted
        self._values: Any = None
        self._asks = False

    async def once(self, input_: Any) -> Any:
        """Run a graph that wants no checkpoints, from its start to its end."""
        await self._stream(input_)
        return _output(self._graph, self._values)

    async def on_thread(self, attempt: Attempt, saver: Any, input_: Any) -> Any:
        """Run it from where its thread stands to its end or to its next question.

        Raises:
            TaskInterruptedError: it asks.
            DrainedError: it stopped between supersteps, because the process shuts down.
        """
        if START in self._graph.nodes:
            saver.held.defers_input = True
        else:  # Without a superstep of its own for the input, code runs before anything is known to be stored.
            await saver.held.require_fence()
        beginning = await self._thread.beginning(attempt, self._graph, saver, input_)
        control = RunControl()
        attempt.on_drain(lambda: control.request_drain("the runner shuts down"))
        problem: Exception | None = None
        try:
            await self._stream(beginning, control=control, durability="sync")
        except GraphDrained as drained:
            raise DrainedError(str(drained)) from drained
        except Exception as error:
            if not is_invalid_resume(error):
                raise
            problem = error
        if problem is None and not self._asks:
            await self._thread.require_end(self._graph)
            attempt.on_completed = self._thread.retire(saver, attempt.spec.keep_checkpoints)
            return _output(self._graph, self._values)
        pending = await self._thread.pending(self._graph)
        if not pending:
            raise problem or RuntimeError("the graph was interrupted, and its thread has no interrupt")
        raise self._thread.interruption(pending, problem)

    async def _stream(self, input_: Any, **options: Any) -> None:
        emitted = self._emitted
        modes: Any = [*emitted.modes, "values"]
        # What the graph was given by `with_config` stays: callbacks and metadata of both are merged.
        own: Any = self._thread.config
        config = merge_configs(self._graph.config, own, {"callbacks": emitted.callbacks})
        stream: Any = self._graph.astream(
            input_, config, stream_mode=modes, subgraphs=True, version="v2", **options
        )
        async with aclosing(stream):  # Whatever ends this early ends the nodes that still run.
            async for part in stream:
                kind, data, namespace = part["type"], part["data"], part["ns"]
                if kind != "values":
                    await emitted.emit(kind, data, namespace)
                elif not namespace:
                    self._values, self._asks = data, self._asks or bool(part.get("interrupts"))


def _output(graph: AnyPregel, values: Any) -> Any:
    """The last values, cut to the graph's output channels as `ainvoke` does."""
    channels = graph.output_channels
    if not isinstance(values, dict):
        return values
    if isinstance(channels, str):
        return values.get(channels, values)
    return {name: values[name] for name in channels if name in values}
