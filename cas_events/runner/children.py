"""What agent code may say of a child task, and who carries it out; free of NATS, as the context is."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict

from cas_events.errors import ChildTaskError, NotInTaskError

if TYPE_CHECKING:
    from cas_events.results import TaskResult
    from cas_events.session import Task


class ChildOptions(TypedDict, total=False):
    """What may be said of a child when it is started; all of it optional.

    Attributes:
        key: names the call, so that another attempt of the parent finds this child whatever its input; see
            `runner.child_ids` for what counts as the same call without it.
        task_id: an id of the caller's own; it may be taken by a child of this task only.
        metadata: shown in the tables.
        timeout_s: bound on one attempt of the child, in seconds; its agent's own without it.
        idle_timeout_s: bound on an attempt's silence, in seconds.
        queue_timeout_s: bound on the wait for its first start, in seconds.
        max_attempts: bound on tries.
        retry: how errors are backed off (``base_s``, ``cap_s``, ``factor``).
        not_before: when it may start: an aware datetime, seconds from now, or an RFC 3339 time.
        wait_for_runner_s: how long to wait for a runner that serves the agent, in seconds; 10 without it, since
            runners are replaced while workflows run.
        priority: its class among the tasks that compete with it. Its key for `concurrency_per_key` is in its input.
    """

    key: str | None
    task_id: str | None
    metadata: Mapping[str, Any] | None
    timeout_s: float | None
    idle_timeout_s: float | None
    queue_timeout_s: float | None
    max_attempts: int | None
    retry: Mapping[str, float] | None
    not_before: datetime | float | str | None
    wait_for_runner_s: float | None
    priority: Literal["high", "normal", "low"] | None


class Children(Protocol):
    """Starts children of one attempt."""

    def call(
        self, agent_id: str, input_: Mapping[str, Any] | None, scope: str, options: ChildOptions
    ) -> Coroutine[Any, Any, Any]:
        """Start a child and wait for its output."""

    def spawn(
        self, agent_id: str, input_: Mapping[str, Any] | None, scope: str, options: ChildOptions
    ) -> Coroutine[Any, Any, Task]:
        """Start a child."""


def output_of(agent_id: str, result: TaskResult) -> Any:
    """The output of an agent's task that has ended.

    Raises:
        ChildTaskError: it did not complete.
    """
    if not result.is_success:
        raise ChildTaskError(agent_id, result)
    return result.output


class NoChildren:
    """Where no task runs: says so."""

    def call(self, *_: Any) -> Coroutine[Any, Any, Any]:
        """Refuse.

        Raises:
            NotInTaskError: always.
        """
        raise NotInTaskError("no task runs here")

    spawn = call
