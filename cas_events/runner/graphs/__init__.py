"""Any LangGraph graph as an agent function, unmodified.

`opening` turns each form in which a graph comes into a private copy that can be run, `running` is the loop over its
stream, `events` turns the stream's parts into events. Only `runner/graphs` and what it serves import LangGraph, and
only once a graph is registered: runners of plain functions do not pay for it.
"""

from langgraph.errors import GraphRecursionError, InvalidUpdateError

from cas_events.runner.graphs.running import graph_agent

# Errors of a graph's own making, which it makes again at every try.
GRAPH_FAULTS: tuple[type[BaseException], ...] = (GraphRecursionError, InvalidUpdateError)

__all__ = ["GRAPH_FAULTS", "graph_agent"]
