"""The state of agents: patches that are none, and writers who were overtaken."""

from __future__ import annotations

from cas_events.errors.root import CasEventsError


class InvalidStateError(CasEventsError, ValueError):
    """A change of a state that cannot be made; nothing was stored.

    Attributes:
        field: the argument that is wrong, such as ``patch``.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field = field


class StateConflictError(CasEventsError):
    """The state is not at the revision that its writer expected; nothing was stored.

    Attributes:
        agent_id: whose state.
        key: of the state, empty for the agent's own.
        expected_revision: what the writer expected.
        revision: what it is.
    """

    def __init__(self, agent_id: str, key: str, *, expected_revision: int, revision: int) -> None:
        of_key = f", key {key!r}," if key else ""
        super().__init__(
            f"the state of agent {agent_id!r}{of_key} is at revision {revision}, not at the expected {expected_revision}; "
            f"read it again, and decide anew"
        )
        self.agent_id = agent_id
        self.key = key
        self.expected_revision = expected_revision
        self.revision = revision


class UnknownAgentError(CasEventsError, LookupError):
    """The log knows no agent of this name: no runner has ever announced it."""

    def __init__(self, agent_id: str) -> None:
        super().__init__(
            f"agent {agent_id!r} is not in the log: no runner has ever served it; look at the name, "
            f"or start its runner first"
        )
        self.agent_id = agent_id
