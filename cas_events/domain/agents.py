"""What an agent's own events make of it, as ``cas_agents`` has it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import structs

from cas_events.domain import breaker
from cas_events.domain.events import AGENT_REGISTERED, Event

DEREGISTERED = "cas.agent.deregistered"
PAUSED = "cas.agent.paused"
UNPAUSED = "cas.agent.unpaused"

# The times until which an operator's pause and its end pause the agent's consumers.
PAUSED_FOR_GOOD = "2200-01-01T00:00:00Z"
UNPAUSED_SINCE = "2000-01-01T00:00:00Z"

# What a deregistration does with tasks that have not begun: they wait for a registration, or are rejected.
NewTasks = Literal["wait", "refuse"]
NEW_TASKS: tuple[NewTasks, ...] = ("wait", "refuse")
# What a runner that has an agent's code does for it; see `AgentFacts.stance`.
Stance = Literal["serve", "wait", "refuse"]
# The reason of a `rejected` execute whose agent was deregistered so.
AGENT_DEREGISTERED = "agent_deregistered"

_STATUSES = {AGENT_REGISTERED: "registered", DEREGISTERED: "deregistered"}
_BREAKERS = {breaker.OPENED: "open", breaker.HALF_OPENED: "half_open", breaker.CLOSED: "closed"}


class AgentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An agent, as the log knows it.

    Attributes:
        agent_id: its name.
        status: ``registered`` or ``deregistered``; None before either.
        version: as last registered.
        registered_at: when that was.
        breaker: ``closed``, ``open`` or ``half_open``.
        is_paused: whether an operator stopped its intake.
        new_tasks: what its last deregistration does with tasks that have not begun.
        registration: what was last registered, as it stands in the event.
    """

    agent_id: str
    status: str | None = None
    version: str = ""
    registered_at: datetime | None = None
    breaker: str = "closed"
    is_paused: bool = False
    new_tasks: NewTasks = "wait"
    registration: dict[str, Any] | None = None

    @property
    def is_deregistered(self) -> bool:
        """Whether no runner is to offer it."""
        return self.status == "deregistered"

    @property
    def stance(self) -> Stance:
        """What a runner that has its code does: serve it, leave its commands alone, or reject those that have not begun."""
        return self.new_tasks if self.is_deregistered else "serve"


def fold_agent(agent_id: str, events: Iterable[Event]) -> AgentFacts:
    """The agent after these events of its own, oldest first; types that say nothing of it pass."""
    facts = AgentFacts(agent_id=agent_id)
    for event in events:
        facts = evolve_agent(facts, event)
    return facts


def evolve_agent(facts: AgentFacts, event: Event) -> AgentFacts:
    """The agent after one more event of its own."""
    return structs.replace(facts, **_changes(event))


def _changes(event: Event) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if event.type in _STATUSES:
        changes["status"] = _STATUSES[event.type]
    if event.type == AGENT_REGISTERED:
        changes |= {
            "version": str(event.data.get("version") or ""),
            "registered_at": event.time,
            "registration": event.data,
        }
    if event.type == DEREGISTERED:  # A word that is not ours means the one that loses nothing.
        changes["new_tasks"] = "refuse" if event.data.get("new_tasks") == "refuse" else "wait"
    if event.type in _BREAKERS:
        changes["breaker"] = _BREAKERS[event.type]
    if event.type in (PAUSED, UNPAUSED):
        changes["is_paused"] = event.type == PAUSED
    return changes
