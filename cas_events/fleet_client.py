"""The client's methods for agents and runners, as operators need them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from cas_events.agent_control import AgentControl, PauseAnswer, ResumeAgentAnswer
from cas_events.agent_standing import DeregisterAnswer, RegisterAnswer, deregister, register_again
from cas_events.domain.agents import NewTasks
from cas_events.fleet import AgentStatus, agent_statuses, beats
from cas_events.session import Session
from cas_events.wire.beats import BEAT_S, GONE_AFTER_S, Beat

_log = logging.getLogger(__name__)

HEARD_S = 5.0
_ASK_AGAIN_S = 0.05


class FleetMethods:
    """What `Client` does with agents and runners."""

    _source: str

    @property
    def _session(self) -> Session:
        raise NotImplementedError

    @property
    def _control(self) -> AgentControl:
        return AgentControl(self._session.js, self._session.names, source=self._source)

    async def agents(self) -> list[AgentStatus]:
        """Every agent that the log knows: who serves it now, what runs and waits, pause and breaker."""
        return await agent_statuses(self._session.js, self._session.names)

    async def runners(self) -> list[Beat]:
        """The runner processes that live, as they say themselves."""
        return await beats(self._session.js, self._session.names)

    async def pause_agent(self, agent_id: str, *, reason: str = "") -> PauseAnswer:
        """Stop an agent's intake, on every runner there is or will be, until `resume_agent`.

        Tasks that run go on, new ones wait in line. A task whose runner dies meanwhile waits, too.

        Args:
            agent_id: the agent.
            reason: stored with the event.

        Returns:
            ``paused`` or ``already_paused``.

        Raises:
            UnknownAgentError: no runner has ever served it.
            InvalidNameError: the name is no token.
        """
        return await self._control.pause(agent_id, reason)

    async def resume_agent(self, agent_id: str, *, reason: str = "") -> ResumeAgentAnswer:
        """Start an agent's intake again; a breaker that is open still keeps it closed until its probe.

        Returns:
            ``resumed``, or ``not_paused`` if no operator paused it. Arguments and errors as for `pause_agent`.
        """
        return await self._control.resume(agent_id, reason)

    async def register_agent(self, agent_id: str) -> RegisterAnswer:
        """Put an agent that was deregistered into service again, as it was last registered.

        An agent's code is its runners': this is for one that they have. Every live runner that has it serves it again, and
        so does every one that starts; with none alive, its tasks wait for the first. To serve an agent that no runner has
        code for, start one, or see `Runner.register_agent`.

        Args:
            agent_id: the agent.

        Returns:
            ``registered``, once every live runner that can be asked serves it, for `HEARD_S` seconds at most; or
            ``already_registered``.

        Raises:
            UnknownAgentError: no runner has ever announced it.
            InvalidNameError: the name is no token.
        """
        session = self._session
        answer = await register_again(session.js, session.names, agent_id, source=self._source)
        await self._while(lambda: self._is_withdrawn(agent_id), HEARD_S)
        return answer

    async def deregister_agent(
        self, agent_id: str, *, new_tasks: NewTasks = "wait", reason: str = "", wait: bool = False
    ) -> DeregisterAnswer:
        """Take an agent out of service on every runner there is or will be, until `register_agent`.

        It is drained: tasks that run go on to the end of their attempt. `execute_task` and the like raise
        `AgentUnavailableError`. Its state, its consumer with everything that waits there, pause and breaker stay as they are.

        Args:
            agent_id: the agent.
            new_tasks: what becomes of tasks that have not begun, those in line and those sent raw later: ``wait`` for
                `register_agent`, as tasks do whose runner dies meanwhile or that are to be tried again; or ``refuse``:
                they are rejected (reason ``agent_deregistered``), and what has begun is brought to its end.
            reason: stored with the event.
            wait: whether to wait until no live runner runs a task of it.

        Returns:
            ``deregistered``, once every live runner that can be asked has stopped to offer it, for `HEARD_S` seconds at
            most; or ``already_deregistered``, with the same ``new_tasks``.

        Raises:
            UnknownAgentError, InvalidNameError: as for `register_agent`.
            InvalidLimitError: ``new_tasks`` is neither word; nothing was changed.
        """
        session = self._session
        answer = await deregister(
            session.js, session.names, agent_id, source=self._source, new_tasks=new_tasks, reason=reason
        )
        session.forget_runner(agent_id)
        await self._while(lambda: session.is_served(agent_id), HEARD_S)
        if wait:
            await self._drained(agent_id)
        return answer

    async def _drained(self, agent_id: str) -> None:
        """Until no runner has or offers it; one that did and falls silent is gone after three beats."""
        busy_s: dict[str, float] = {}
        while True:
            for beat in await beats(self._session.js, self._session.names, quiet_s=BEAT_S):
                busy_s.pop(beat.runner, None)
                if agent_id in beat.agents or beat.withdrawn.get(agent_id):
                    busy_s[beat.runner] = time.monotonic()
            gone_s = time.monotonic() - GONE_AFTER_S
            if all(heard_s < gone_s for heard_s in busy_s.values()):
                return

    async def _is_withdrawn(self, agent_id: str) -> bool:
        """Whether a runner that answers has its code and does not serve it."""
        return any(agent_id in beat.withdrawn for beat in await self.runners())

    async def _while(self, is_so: Callable[[], Awaitable[bool]], give_up_s: float) -> None:
        deadline_s = time.monotonic() + give_up_s
        while await is_so():
            if time.monotonic() > deadline_s:
                _log.warning(
                    "a runner has not followed within %g s: its event loop may be blocked", give_up_s
                )
                return
            await asyncio.sleep(_ASK_AGAIN_S)

    async def set_agent(
        self, agent_id: str, *, concurrency: int | None = None, lease_s: float | None = None
    ) -> dict[str, Any]:
        """Change an agent's settings on the server, for the whole fleet.

        Args:
            agent_id: the agent.
            concurrency: how many of its tasks run at once, fleet-wide; at once.
            lease_s: after how long a silent runner's task goes elsewhere, in seconds. A runner that lives keeps to the
                lease that it found when it started: restart those before a shorter one is of use.

        Returns:
            ``concurrency`` and ``lease_s`` as they are now.

        Raises:
            InvalidLimitError: a number is out of range; nothing was changed.
            UnknownAgentError, InvalidNameError: as for `pause_agent`.
        """
        return await self._control.set(agent_id, concurrency=concurrency, lease_s=lease_s)
