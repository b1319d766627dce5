"""The state of agents: one subject per agent and key, whose last message is the whole state (PROTOCOL sections 1 and 3).

A change is an event with the whole new state, appended only if the one that it was made from is still the last: that
loses no update, whoever writes. Revisions count from 1 without a hole, through resets too. An append whose answer was
lost is settled by evidence, as with lifecycle events: the first event behind the expected one is ours, another's, or
not there, and then the same bytes go out again.

Used by clients and by the contexts of tasks. Reading needs none of this: the last message of the subject is enough.
"""

from __future__ import annotations

from cas_events.agent_states.changing import AgentStates
from cas_events.agent_states.reading import AgentState

__all__ = ["AgentState", "AgentStates"]
