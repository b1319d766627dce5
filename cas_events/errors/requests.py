"""What the caller handed in: names, commands, values and ids that cannot be acted on."""

from __future__ import annotations

from cas_events.errors.root import CasEventsError


class InvalidCommandError(CasEventsError, ValueError):
    """A command that would be rejected; raised before anything is sent.

    Attributes:
        field: the JSON path of the offending value, such as ``input.items[3]``; empty for the body as a whole.
        reason: a machine-readable word, the same that ``cas.task.rejected`` would carry.
    """

    def __init__(self, message: str, *, field: str = "", reason: str = "invalid") -> None:
        super().__init__(message)
        self.field = field
        self.reason = reason


class InvalidNameError(CasEventsError, ValueError):
    """A name or id that is no subject token (PROTOCOL section 1)."""

    def __init__(self, kind: str, value: str) -> None:
        shown = value if len(value) <= 80 else value[:77] + "..."
        super().__init__(
            f"{kind} {shown!r} is not valid: use 1 to 64 characters out of A-Z, a-z, 0-9, '_' and '-'"
        )
        self.kind = kind
        self.value = value


class InvalidSubjectError(CasEventsError, ValueError):
    """A subject that would break the NATS protocol: empty, with blanks or control characters, or too long."""

    def __init__(self, subject: str) -> None:
        super().__init__(
            f"subject {subject[:80]!r} is not valid: use printable characters without blanks, at most 1024"
        )
        self.subject = subject


class InvalidHeaderError(CasEventsError, ValueError):
    """A header whose name or value would break out of its line."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"header {name[:80]!r} is not valid: no line breaks, and no blanks or colons in its name"
        )
        self.name = name


class PayloadTooLargeError(CasEventsError, ValueError):
    """A payload over a limit that the message names."""

    def __init__(self, what: str, *, payload_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"{what} is {payload_bytes} bytes, over the limit of {limit_bytes} bytes")
        self.payload_bytes = payload_bytes
        self.limit_bytes = limit_bytes


class DuplicateTaskError(CasEventsError):
    """The task id is taken: the server stores one execute per id, for good."""

    def __init__(self, task_id: str, *, agent_id: str) -> None:
        super().__init__(
            f"task id {task_id!r} is already used by a task of agent {agent_id!r}; "
            f"choose another id, or follow the existing task"
        )
        self.task_id = task_id
        self.agent_id = agent_id


class AgentUnavailableError(CasEventsError):
    """No live runner serves the agent.

    Attributes:
        agent_id: the agent.
        status: of the agent in the log: ``registered``, ``deregistered``, or None if no runner ever announced it.
    """

    def __init__(self, agent_id: str, *, status: str | None = None, waited_s: float = 0.0) -> None:
        waited = f" after {waited_s:g} s" if waited_s else ""
        why = "; start one with `cas worker`, or pass wait_for_runner_s to wait for one"
        if status is None:
            why = (
                ", and none has ever announced it: look at the name, start its runner with `cas worker`, "
                "or pass wait_for_runner_s to wait for one"
            )
        elif status == "deregistered":
            why = f", because it is deregistered; `cas agents register {agent_id}` puts it into service again"
        super().__init__(f"no live runner serves agent {agent_id!r}{waited}{why}")
        self.agent_id = agent_id
        self.status = status


class QueueFullError(CasEventsError):
    """So many tasks of the agent wait for their start that it takes no more; nothing was sent.

    Attributes:
        agent_id: the agent.
        depth: how many wait.
        limit: its ``max_queued``.
    """

    def __init__(self, agent_id: str, *, depth: int, limit: int) -> None:
        super().__init__(
            f"{depth} tasks of agent {agent_id!r} wait for their start, and its limit (max_queued) is {limit}; "
            f"try again later, or add runners"
        )
        self.agent_id = agent_id
        self.depth = depth
        self.limit = limit


class UnknownTaskError(CasEventsError, LookupError):
    """No execute command with this task id is in the log."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task {task_id!r} is not in the log; `cas tasks` lists the known ones")
        self.task_id = task_id


class TaskNotEndedError(CasEventsError):
    """Only a task that has ended can be started once more."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task {task_id!r} has not ended; wait for its end, or end it with `cas cancel`")
        self.task_id = task_id


class NotJsonError(CasEventsError, TypeError):
    """A value that has no JSON form.

    Attributes:
        path: where in the value, such as ``output.items[3].when``.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path} is not JSON-able: {problem}")
        self.path = path
        self.problem = problem
