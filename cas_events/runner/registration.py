"""Saying what a runner serves: functions and graphs by name, each with its options."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, Unpack

from cas_events.agent_standing import DeregisterAnswer
from cas_events.domain.agents import NewTasks
from cas_events.errors import CasEventsError, UnknownAgentError
from cas_events.runner.context import TaskContext
from cas_events.runner.functions import annotated_schema, is_agent_function
from cas_events.runner.isolation import runnable
from cas_events.runner.log_bridge import lower_to
from cas_events.runner.registry import AgentOptions, AgentSpec
from cas_events.runner.serving import Serving
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
        self._serving: Serving | None = None  # while it runs

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
            CasEventsError: the runner runs already; use `register_agent`.
        """

        def register(function: F) -> F:
            if not is_agent_function(function):
                raise TypeError(f"agent {agent_id!r}: write it as a function of two arguments, (ctx, input)")
            self.register(agent_id, function, **options)
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
            ValueError, InvalidNameError, CasEventsError: as for `agent`.
        """
        if self._serving is not None:
            raise CasEventsError(
                f"this runner serves already: use `await runner.register_agent({agent_id!r}, ...)`"
            )
        if agent_id in self._agents:
            raise ValueError(f"agent {agent_id!r} is registered twice")
        spec = self._agents[agent_id] = self._spec(agent_id, agent, options)
        lower_to(spec.log_level_number)

    def _spec(self, agent_id: str, agent: Any, options: AgentOptions) -> AgentSpec:
        if agent_id == CRON:
            raise ValueError(f"agent {agent_id!r}: the name is that of schedules; choose another one")
        if not is_agent_function(agent):
            agent = self._graph(agent, options)
        run = runnable(agent, options, grace_s=self._grace_s)
        if options.get("schema") is None:
            options["schema"] = annotated_schema(agent)
        return AgentSpec(agent_id=agent_id, run=run, **options)

    def _graph(self, agent: Any, options: AgentOptions) -> Callable[[TaskContext, Any], Any]:
        from cas_events.runner.graphs import GRAPH_FAULTS, graph_agent  # noqa: PLC0415 - Only graphs pay for LangGraph.

        run = graph_agent(
            agent, recursion_limit=options.get("recursion_limit"), tokens=options.get("tokens", False)
        )
        options["non_retryable"] = (*options.get("non_retryable", ()), *GRAPH_FAULTS)
        return run

    async def register_agent(self, agent_id: str, agent: Any, **options: Unpack[AgentOptions]) -> None:
        """Serve an agent more while the runner runs; before that, as `register`.

        On return it is offered. An agent that was deregistered is registered again with this, for the whole deployment,
        and an earlier code of it in this process is replaced.

        Args:
            agent_id: the agent's name, a subject token.
            agent: as for `register`.
            options: as for `agent`.

        Raises:
            ValueError, TypeError, InvalidNameError: as for `register`; a name is taken while it is served here.
            CasEventsError: the server refused, or does not answer; this process is as it was.
        """
        if self._serving is None:
            self.register(agent_id, agent, **options)
            return
        before = self._agents.get(agent_id)
        if before is not None and self._serving.serves(agent_id):
            raise ValueError(f"agent {agent_id!r} is registered twice; deregister it first")
        spec = await described(self._spec(agent_id, agent, options))
        self._agents[agent_id] = spec
        lower_to(spec.log_level_number)
        try:
            await self._serving.add(spec)
        except BaseException:
            if before is None:
                self._serving.abandon(agent_id)
                del self._agents[agent_id]
            else:
                self._agents[agent_id] = before
            raise

    async def deregister_agent(
        self,
        agent_id: str,
        *,
        new_tasks: NewTasks = "wait",
        reason: str = "",
        here_only: bool = False,
        wait: bool = False,
    ) -> DeregisterAnswer:
        """Take an agent out of service: for the whole deployment, as `Client.deregister_agent`, or here only.

        On return this process does not offer it. Tasks of it that run here go on to their end.

        Args:
            agent_id: the agent.
            new_tasks: what becomes of tasks that have not begun: they ``wait``, or ``refuse`` them.
            reason: stored with the event.
            here_only: leave the agent to the other runners: nothing is stored, and when its last task here has ended its
                code is gone from this process. ``new_tasks`` and ``reason`` say nothing then.
            wait: whether to wait until no task of it runs in this process. Not from within such a task.

        Raises:
            UnknownAgentError: the log does not know it; with ``here_only``, this process does not have it.
            InvalidLimitError: ``new_tasks`` is neither word.
            CasEventsError: the runner does not run.
        """
        serving = self._serving
        if serving is None:
            raise CasEventsError("this runner does not run; what it does not register it does not serve")
        answer: DeregisterAnswer = "deregistered"
        if not here_only:
            answer = await serving.deregister(agent_id, new_tasks, reason)
        elif agent_id in self._agents:
            await serving.leave(agent_id)
        else:
            raise UnknownAgentError(agent_id)
        if wait:
            await serving.drained(agent_id)
        return answer

    async def describe(self) -> None:
        """Find out what graphs take that were registered without a schema; a factory is called for that."""
        for agent_id, spec in self._agents.items():
            self._agents[agent_id] = await described(spec)

    def _word(self, agent_id: str) -> dict[str, Any]:
        """What clients are told beside who answers them; from any thread."""
        spec = self._agents.get(agent_id)
        return {} if spec is None or spec.max_queued is None else {"max_queued": spec.max_queued}

    @property
    def agent_ids(self) -> tuple[str, ...]:
        """The agents that this runner serves."""
        return tuple(self._agents)


async def described(spec: AgentSpec) -> AgentSpec:
    """An agent with what its graph takes, if it is one without a schema of its own."""
    find = getattr(spec.run, "describe", None)
    if find is None or spec.schema is not None:
        return spec
    try:
        async with asyncio.timeout(DESCRIBE_S):
            return replace(spec, schema=await find())
    except Exception:  # The user's factory, which is called again for each task and fails that then.
        _log.warning("agent %s: its graph cannot be opened for its schema", spec.agent_id, exc_info=True)
        return spec
