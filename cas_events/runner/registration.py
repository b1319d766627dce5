"""Saying what a runner serves: functions and graphs by name, each with its options."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, Unpack

from cas_events.runner.context import TaskContext
from cas_events.runner.functions import annotated_schema, is_agent_function
from cas_events.runner.isolation import runnable
from cas_events.runner.log_bridge import lower_to
from cas_events.runner.registry import AgentOptions, AgentSpec
from cas_events.wire.subjects import CRON

_log = logging.getLogger(__name__)

DESCRIBE_S = 30.0

F = TypeVar("F", bound=Callable[[TaskContext, Any], Any])


class Registrations:
    """The agents of a runner, and how they are added.

    Args:
        grace_s: how long agent code may take to end when asked to.
    """

    def __init__(self, *, grace_s: float) -> None:
        self._grace_s = grace_s
        self._agents: dict[str, AgentSpec] = {}

    def agent(self, agent_id: str, **options: Unpack[AgentOptions]) -> Callable[[F], F]:
        """Serve a function ``(ctx: TaskContext, input: dict) -> JSON-able value`` as an agent.

        An async one, if it can be: a sync one runs in a thread, which nothing can stop but itself (`functions`).

        Args:
            agent_id: the agent's name, a subject token.
            options: see `AgentSpec`.

        Raises:
            InvalidNameError: the name is no token.
            ValueError: an option is out of range, or the name is taken or reserved.
            TypeError: the function does not take a context and an input.
        """

        def register(function: F) -> F:
            if agent_id == CRON:
                raise ValueError(f"agent {agent_id!r}: the name is that of schedules; choose another one")
            if agent_id in self._agents:
                raise ValueError(f"agent {agent_id!r} is registered twice")
            if not is_agent_function(function):
                raise TypeError(f"agent {agent_id!r}: write it as a function of two arguments, (ctx, input)")
            run = runnable(function, options, grace_s=self._grace_s)
            if options.get("schema") is None:
                options["schema"] = annotated_schema(function)
            spec = self._agents[agent_id] = AgentSpec(agent_id=agent_id, run=run, **options)
            lower_to(spec.log_level_number)
            return function

        return register

    def register(self, agent_id: str, agent: Any, **options: Unpack[AgentOptions]) -> None:
        """Serve a LangGraph graph in any form, or a function, as an agent.

        Args:
            agent_id: the agent's name, a subject token.
            agent: an agent function ``(ctx, input)``; or a graph: compiled, a builder, or a factory of one. The object
                itself is not changed.
            options: as for `agent`.

        Raises:
            TypeError: it is none of these.
        """
        if is_agent_function(agent):
            self.agent(agent_id, **options)(agent)
            return
        from cas_events.runner.graphs import GRAPH_FAULTS, graph_agent  # noqa: PLC0415 - Only graphs pay for LangGraph.

        run = graph_agent(
            agent, recursion_limit=options.get("recursion_limit"), tokens=options.get("tokens", False)
        )
        options["non_retryable"] = (*options.get("non_retryable", ()), *GRAPH_FAULTS)
        self.agent(agent_id, **options)(run)

    async def describe(self) -> None:
        """Find out what graphs take that were registered without a schema; a factory is called for that."""
        for agent_id, spec in self._agents.items():
            find = getattr(spec.run, "describe", None)
            if find is None or spec.schema is not None:
                continue
            try:
                async with asyncio.timeout(DESCRIBE_S):
                    self._agents[agent_id] = replace(spec, schema=await find())
            except Exception:  # The user's factory, which is called again for each task and fails that then.
                _log.warning("agent %s: its graph cannot be opened for its schema", agent_id, exc_info=True)

    def _queue_limits(self) -> dict[str, int]:
        """The agents that have one."""
        limits = {agent_id: spec.max_queued for agent_id, spec in self._agents.items()}
        return {agent_id: limit for agent_id, limit in limits.items() if limit is not None}

    @property
    def agent_ids(self) -> tuple[str, ...]:
        """The agents that this runner serves."""
        return tuple(self._agents)
