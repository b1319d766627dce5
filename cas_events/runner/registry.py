"""The agents that a runner serves, and how each is to be run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from cas_events.domain.retry import RetryPolicy
from cas_events.domain.tokens import require_token
from cas_events.errors import NonRetryableError
from cas_events.runner.context import TaskContext

AgentFunction = Callable[[TaskContext, Any], Awaitable[Any]]
CrashPolicy = Literal["retry", "fail"]

DEFAULT_MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """One agent as a runner knows it.

    Attributes:
        agent_id: its name, a subject token.
        run: what to await with the task's context and its input.
        timeout_s: bound on one attempt, in seconds; None for no bound. A task's own wins.
        max_attempts: bound on tries. A task's own wins.
        on_crash: whether a task whose runner died is tried again or failed.
        retry: how errors are backed off.
        non_retryable: error types that trying again does not mend.
        version: shown with the registration.
        schema: JSON Schema of the input, if the agent has one.
    """

    agent_id: str
    run: AgentFunction
    timeout_s: float | None = None
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    on_crash: CrashPolicy = "retry"
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    non_retryable: tuple[type[BaseException], ...] = ()
    version: str = ""
    schema: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        require_token("agent", self.agent_id)
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ValueError(f"timeout_s of agent {self.agent_id!r} is {self.timeout_s}; it must be above 0")
        if self.max_attempts < 1:
            raise ValueError(
                f"max_attempts of agent {self.agent_id!r} is {self.max_attempts}; it must be 1 or more"
            )
        if self.on_crash not in {"retry", "fail"}:
            raise ValueError(
                f"on_crash of agent {self.agent_id!r} is {self.on_crash!r}; use 'retry' or 'fail'"
            )

    def is_retryable(self, error: BaseException) -> bool:
        """Whether an error of this agent is worth another try."""
        return not isinstance(error, (NonRetryableError, *self.non_retryable))
