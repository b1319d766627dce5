"""What agent code raises, and what is said of code that ran in a process of its own."""

from __future__ import annotations

from cas_events.errors.root import CasEventsError


class NonRetryableError(CasEventsError):
    """Raised by agent code: this failure will not go away by trying again."""


class InvalidInputError(NonRetryableError):
    """A task's input is not what its agent takes; nothing of the agent has run.

    Attributes:
        agent_id: the agent.
        fault: where and why, such as ``input.max_files is a string; it must be integer``.
    """

    def __init__(self, agent_id: str, fault: str) -> None:
        super().__init__(f"agent {agent_id!r} does not take this input: {fault}")
        self.agent_id = agent_id
        self.fault = fault


class AgentProcessError(CasEventsError):
    """What the code of an isolated agent raised in its process, under the name of its type there.

    Attributes:
        retry_after_s: the delay that the error asks for.
        cas_node: the graph's node that it came from.
    """

    retry_after_s: float | None = None
    cas_node: str | None = None


class AgentProcessDiedError(CasEventsError):
    """The process of an isolated agent ended without a last word; trying again may help."""


class InvalidLimitError(CasEventsError, ValueError):
    """A setting of an agent that is out of range; nothing was changed.

    Attributes:
        field: the setting, such as ``concurrency``.
        value: what was asked for.
    """

    def __init__(self, field: str, value: object, allowed: str, *, of: str = "") -> None:
        super().__init__(f"{field}{' of ' if of else ''}{of} is {value!r}; it must be {allowed}")
        self.field = field
        self.value = value


class InvalidSchemaError(CasEventsError, ValueError):
    """An agent's input schema that is no JSON Schema; the agent was not registered.

    Attributes:
        agent_id: the agent.
        field: ``schema``.
    """

    field = "schema"

    def __init__(self, agent_id: str, problem: str) -> None:
        super().__init__(f"schema of agent {agent_id!r} {problem}")
        self.agent_id = agent_id
