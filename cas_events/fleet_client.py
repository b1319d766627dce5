"""The client's methods for agents and runners, as operators need them."""

from __future__ import annotations

from typing import Any

from cas_events.agent_control import AgentControl, PauseAnswer, ResumeAgentAnswer
from cas_events.fleet import AgentStatus, agent_statuses, beats
from cas_events.session import Session
from cas_events.wire.beats import Beat


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
