"""`ctx.state` as agent code sees it, and what stands in for it where no task runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from cas_events.agent_states import AgentState
from cas_events.domain.merge_patch import merge_patch


class StateOfAgent(Protocol):
    """The state of the agent that a task runs for; arguments and errors as for the client's methods."""

    async def get(self, key: str | None = None) -> AgentState:
        """The newest state: ``{}`` at revision 0 before the first change."""

    async def update(
        self,
        patch: Mapping[str, Any],
        key: str | None = None,
        *,
        expected_revision: int | None = None,
        whole: bool = False,
    ) -> AgentState:
        """Merge a patch into it (RFC 7396), or put it in its place; the new state."""

    async def reset(self, key: str | None = None, *, expected_revision: int | None = None) -> AgentState:
        """Empty it."""


class StandInState:
    """Outside a runner: an empty state that takes every change and keeps none."""

    async def get(self, key: str | None = None) -> AgentState:
        """The empty state."""
        return self._made({}, key)

    async def update(
        self,
        patch: Mapping[str, Any],
        key: str | None = None,
        *,
        expected_revision: int | None = None,
        whole: bool = False,
    ) -> AgentState:
        """What the patch would make of nothing."""
        del expected_revision
        return self._made(dict(patch) if whole else merge_patch({}, dict(patch)), key)

    async def reset(self, key: str | None = None, *, expected_revision: int | None = None) -> AgentState:
        """The empty state."""
        del expected_revision
        return self._made({}, key)

    def _made(self, state: dict[str, Any], key: str | None) -> AgentState:
        return AgentState(agent_id="detached", key=key or "", state=state)
