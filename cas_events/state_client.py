"""The client's methods for the state of agents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from cas_events.agent_states import AgentState, AgentStates


class StateMethods:
    """What `Client` does with the state of agents."""

    @property
    def _states(self) -> AgentStates:
        raise NotImplementedError

    async def get_agent_state(
        self, agent_id: str, key: str | None = None, *, as_of: int | None = None
    ) -> AgentState:
        """The state of an agent, or of one of its keys: ``{}`` at revision 0 before the first change.

        Args:
            agent_id: the agent.
            key: one of its states beside its own, such as a customer's.
            as_of: as it was after this `CAS_EVENTS` sequence; ``cas_agent_state_as_of`` takes times.

        Raises:
            UnknownAgentError: the log knows neither the agent nor a state of it.
            InvalidNameError, InvalidStateError: an argument is none.
        """
        return await self._states.get(agent_id, key, as_of=as_of)

    async def update_agent_state(
        self,
        agent_id: str,
        patch: Mapping[str, Any],
        key: str | None = None,
        *,
        expected_revision: int | None = None,
        whole: bool = False,
    ) -> AgentState:
        """Merge a patch into an agent's state (RFC 7396: null takes a member away); durable once this returns.

        No update is lost: without an expected revision it is made anew from the newest state until no other came between.

        Args:
            agent_id: the agent.
            patch: a JSON object; over 256 KiB the state travels by claim check.
            key: as for `get_agent_state`.
            expected_revision: change only this revision; 0: only if there is none.
            whole: the patch is the new state, instead of being merged.

        Returns:
            The new state.

        Raises:
            StateConflictError: it is at another revision; both are attributes.
            InvalidStateError, NotJsonError, PayloadTooLargeError: it cannot be stored; the error names the member.
            UnknownAgentError, InvalidNameError: as for `get_agent_state`.
        """
        states = self._states
        return await states.update(agent_id, patch, key, expected_revision=expected_revision, whole=whole)

    async def reset_agent_state(
        self, agent_id: str, key: str | None = None, *, expected_revision: int | None = None
    ) -> AgentState:
        """Empty an agent's state; its history and the count of its revisions go on. Errors as for an update."""
        return await self._states.reset(agent_id, key, expected_revision=expected_revision)

    def agent_state_history(self, agent_id: str, key: str | None = None) -> AsyncIterator[AgentState]:
        """Every change of a state until now, oldest first, each with the whole state. Errors as for `get_agent_state`."""
        return self._states.history(agent_id, key)
