"""The agents that a runner serves, and how each is to be run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, TypedDict

import msgspec

from cas_events.domain.bounds import require_number
from cas_events.domain.breaker import BreakerPolicy
from cas_events.domain.flow import limits_fault, rate_per_s
from cas_events.domain.json_schema import schema_fault, value_fault
from cas_events.domain.retry import RetryPolicy
from cas_events.domain.tokens import require_token
from cas_events.errors import InvalidInputError, InvalidSchemaError, NonRetryableError
from cas_events.runner.context import TaskContext
from cas_events.runner.task_logger import LEVELS, level_number

AgentFunction = Callable[[TaskContext, Any], Awaitable[Any]]
CrashPolicy = Literal["retry", "fail"]
Isolation = Literal["none", "process"]
KeepCheckpoints = Literal["all", "latest", "none"]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]

DEFAULT_MAX_ATTEMPTS = 3


class _NoDefault(Enum):
    NO_DEFAULT = "no default answer"


NO_DEFAULT = _NoDefault.NO_DEFAULT  # None is an answer


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one task; see `AgentSpec` for each.

    Attributes:
        timeout_s: bound on one attempt.
        idle_timeout_s: bound on an attempt's silence.
        queue_timeout_s: bound on the wait for the first start.
        max_attempts: bound on tries.
        retry: how errors are backed off.
    """

    timeout_s: float | None
    idle_timeout_s: float | None
    queue_timeout_s: float | None
    max_attempts: int
    retry: RetryPolicy


class AgentOptions(TypedDict, total=False):
    """How an agent is to be run; every option is one of `AgentSpec`, which explains it."""

    timeout_s: float | None
    idle_timeout_s: float | None
    queue_timeout_s: float | None
    interrupt_timeout_s: float | None
    interrupt_default: Any
    max_attempts: int
    on_crash: CrashPolicy
    retry: RetryPolicy
    non_retryable: Sequence[type[BaseException]]
    breaker: BreakerPolicy | None
    isolation: Isolation
    version: str
    schema: dict[str, Any] | Literal[False] | None
    description: str
    recursion_limit: int | None
    tokens: bool
    log_level: LogLevel
    keep_checkpoints: KeepCheckpoints
    concurrency_per_key: int | None
    key: str | None
    rate: str | None
    max_queued: int | None
    priorities: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSpec:
    """One agent as a runner knows it.

    Attributes:
        agent_id: its name, a subject token.
        run: what to await with the task's context and its input.
        timeout_s: bound on one attempt, in seconds; None for no bound. A task's own wins.
        idle_timeout_s: bound on an attempt's silence: no event for so long ends it. A task's own wins.
        queue_timeout_s: bound on the wait for the first start; later, the task fails unrun. A task's own wins.
        interrupt_timeout_s: how long an interrupt waits for its answer; then the task fails, or gets the default answer.
        interrupt_default: the answer, any JSON value, given to an interrupt whose time is over.
        max_attempts: bound on tries. A task's own wins.
        on_crash: whether a task whose runner died is tried again (``retry``) or failed (``fail``).
        retry: how errors are backed off; what an error itself asks for (`retry_after_s`) wins.
        non_retryable: error types that trying again does not mend.
        breaker: when the agent's circuit breaker opens, for the whole fleet; None for no breaker.
        isolation: whether each attempt has a child process of its own (``process``), which can be ended whatever its
            code does; see `isolation`.
        version: shown with the registration.
        schema: JSON Schema of the input: published with the registration, and checked before the agent's code runs.
            None for the graph's own, or that of the function's annotation, if there is one; False for none.
        description: what it is for, shown with the registration.
        recursion_limit: of a graph, how many supersteps a run may take; None for the graph's own, or else 100.
        tokens: of a graph, whether what its chat models say is published as it comes; a task's own
            ``metadata.stream_tokens`` wins. It makes the models stream.
        log_level: what its code logs below it is dropped: ``debug``, ``info``, ``warning``, ``error`` or ``critical``.
        keep_checkpoints: of a graph, what stays of a thread's checkpoints when a task on it has completed: all, the
            latest, or none (of a thread that tasks share the latest stays, as their memory).
        concurrency_per_key: how many tasks with the same key run at once, fleet-wide; None for no limit.
        key: the field of the input that is the key of a task that names none.
        rate: how many attempts start in a time, fleet-wide, such as ``10/s`` or ``100/m``; None for no limit.
        max_queued: clients send no task while so many wait for their first start; None for no limit.
        priorities: whether its runners look ahead in its queue for tasks of a higher class; see `lookahead`.
        rate_per_s: its rate in starts a second, made from ``rate``.
        terms: its own bounds, made from the options; those of every task that has none of its own.

    Raises:
        InvalidNameError: the name is no token.
        InvalidLimitError, InvalidSchemaError, ValueError: an option is out of range.
    """

    agent_id: str
    run: AgentFunction
    timeout_s: float | None = None
    idle_timeout_s: float | None = None
    queue_timeout_s: float | None = None
    interrupt_timeout_s: float | None = None
    interrupt_default: Any = NO_DEFAULT
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    on_crash: CrashPolicy = "retry"
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    non_retryable: Sequence[type[BaseException]] = ()
    breaker: BreakerPolicy | None = None
    isolation: Isolation = "none"
    version: str = ""
    schema: dict[str, Any] | Literal[False] | None = None
    description: str = ""
    recursion_limit: int | None = None
    tokens: bool = False
    log_level: LogLevel = "info"
    keep_checkpoints: KeepCheckpoints = "all"
    concurrency_per_key: int | None = None
    key: str | None = None
    rate: str | None = None
    max_queued: int | None = None
    priorities: bool = False
    rate_per_s: float | None = field(init=False)
    terms: Terms = field(init=False)

    def __post_init__(self) -> None:
        terms = Terms(
            timeout_s=self.timeout_s,
            idle_timeout_s=self.idle_timeout_s,
            queue_timeout_s=self.queue_timeout_s,
            max_attempts=self.max_attempts,
            retry=self.retry,
        )
        object.__setattr__(self, "terms", terms)
        require_token("agent", self.agent_id)
        for name in ("timeout_s", "idle_timeout_s", "queue_timeout_s", "interrupt_timeout_s"):
            value = getattr(self, name)
            if value is not None:
                require_number(name, value, of=f"agent {self.agent_id!r}")
        for name in ("max_attempts", "recursion_limit"):
            value = getattr(self, name)
            if value is not None or name == "max_attempts":
                of = f"agent {self.agent_id!r}"
                require_number(name, value, least=1, may_be_least=True, is_whole=True, of=of)
        self._check_schema()
        self._check_words()
        self._check_flow()

    def _check_flow(self) -> None:
        names = ("concurrency_per_key", "key", "rate", "max_queued")
        fault = limits_fault({name: getattr(self, name) for name in names})
        if fault is not None:
            raise ValueError(f"agent {self.agent_id!r}: {fault}")
        object.__setattr__(self, "rate_per_s", None if self.rate is None else rate_per_s(self.rate))

    @property
    def has_lanes(self) -> bool:
        """Whether its tasks may have to wait for a slot or a start time."""
        return self.concurrency_per_key is not None or self.rate_per_s is not None

    def _check_schema(self) -> None:
        if isinstance(self.schema, dict):
            fault = schema_fault(self.schema)
            if fault is not None:
                raise InvalidSchemaError(self.agent_id, f"is no JSON Schema: {fault}")
        elif self.schema is not None and self.schema is not False:
            raise InvalidSchemaError(
                self.agent_id, f"is a {type(self.schema).__name__}; give a JSON Schema as a dict"
            )

    def _check_words(self) -> None:
        if self.on_crash not in {"retry", "fail"}:
            raise ValueError(
                f"on_crash of agent {self.agent_id!r} is {self.on_crash!r}; use 'retry' or 'fail'"
            )
        if self.keep_checkpoints not in {"all", "latest", "none"}:
            raise ValueError(
                f"keep_checkpoints of agent {self.agent_id!r} is {self.keep_checkpoints!r}; use 'all', 'latest' or 'none'"
            )
        if self.log_level not in LEVELS:
            raise ValueError(
                f"log_level of agent {self.agent_id!r} is {self.log_level!r}; use one of {', '.join(LEVELS)}"
            )
        if self.isolation not in {"none", "process"}:
            raise ValueError(
                f"isolation of agent {self.agent_id!r} is {self.isolation!r}; use 'none' or 'process'"
            )

    @property
    def log_level_number(self) -> int:
        """Its log level as the standard library counts."""
        return level_number(self.log_level)

    @property
    def has_threads(self) -> bool:
        """Whether its tasks may share a thread, as those of graphs do."""
        return getattr(self.run, "has_threads", False)

    def begin(self, context: TaskContext, input_: Any) -> Awaitable[Any]:
        """Run the agent's code, if it takes this input.

        Raises:
            InvalidInputError: it does not; the error names the path.
        """
        if self.schema:
            fault = value_fault(self.schema, input_)
            if fault is not None:
                raise InvalidInputError(self.agent_id, str(fault))
        return self.run(context, input_)

    def is_retryable(self, error: BaseException) -> bool:
        """Whether an error of this agent is worth another try."""
        return not isinstance(error, (NonRetryableError, *self.non_retryable))
