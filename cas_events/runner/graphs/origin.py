"""Where in a graph code runs: the node, the agent, and the way there.

LangGraph keeps a node's place in the metadata of the config that its code runs with, which contextvars carry into threads
and nested graphs: `langgraph_checkpoint_ns` is the way from the root, a segment ``name:task id`` for each node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.runnables.config import var_child_runnable_config

from cas_events.domain.tokens import is_token
from cas_events.runner.context import NOWHERE, Origin

NODE = "langgraph_node"
_NAMESPACE = "langgraph_checkpoint_ns"
_PATH = "langgraph_path"
_AGENT = "lc_agent_name"  # what `create_agent(name=…)` of LangChain leaves
_SEPARATOR = "|"
_PUSH = "__pregel_push"


def current_origin() -> Origin:
    """Where the code runs that calls this; works in threads, which inherit the context."""
    config = var_child_runnable_config.get()
    return origin_of(config.get("metadata") or {}) if config else NOWHERE


def current_place() -> str:
    """The superstep and the path of nodes whose code runs here: the same when the graph goes on from a checkpoint."""
    config = var_child_runnable_config.get()
    metadata = (config or {}).get("metadata", {})
    # `outer:<id>|inner:<id>`; the ids are of one run, the names of all.
    names = [segment.partition(":")[0] for segment in str(metadata.get(_NAMESPACE, "")).split(_SEPARATOR)]
    return f"{metadata.get('langgraph_step', '')}/{_SEPARATOR.join(names)}"


def origin_of(metadata: Mapping[str, Any]) -> Origin:
    """The node and the agent that a config's metadata names.

    The agent is the one that LangChain names, else the node of the outermost graph: a workflow's nodes are named after
    the agents that they run, and what such an agent is made of is its own affair.
    """
    node = metadata.get(NODE)
    if not isinstance(node, str):
        return NOWHERE
    agent = metadata.get(_AGENT)
    if not isinstance(agent, str):
        outermost = (*path_of(metadata), node)[0]
        agent = outermost.partition(":")[0]
    return Origin(node, agent if is_token(agent) else None)


def path_of(metadata: Mapping[str, Any]) -> list[str]:
    """The way from the root to the graph that the node belongs to; empty for a node of the root.

    The call of a `@task` belongs to its caller's graph, though its segment is nested in the caller's.
    """
    segments = str(metadata.get(_NAMESPACE, "")).split(_SEPARATOR)
    drop, path = 1, metadata.get(_PATH, ())
    while len(path) == 4 and path[0] == _PUSH and path[-1] is True:
        drop, path = drop + 1, path[1]
    return segments[:-drop]


def step_id_of(metadata: Mapping[str, Any]) -> str:
    """The id of the node's task, a hash that is the same when the run is taken up again."""
    return str(metadata.get(_NAMESPACE, "")).rpartition(_SEPARATOR)[2].rpartition(":")[2]
