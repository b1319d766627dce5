"""The one tree of errors.

Every error carries its context as attributes, says in its message what failed, with which value, and what to do,
and imports nothing from the package. Server errors are told apart by their JetStream error code, never by text.
"""

from __future__ import annotations


class CasEventsError(Exception):
    """Root of everything this package raises on purpose."""


# --- what the caller handed in -------------------------------------------------------------------------------------


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
    """No live runner serves the agent."""

    def __init__(self, agent_id: str, *, waited_s: float = 0.0) -> None:
        waited = f" after {waited_s:g} s" if waited_s else ""
        super().__init__(
            f"no live runner serves agent {agent_id!r}{waited}; start one with `cas worker`, or pass "
            f"wait_for_runner_s to wait for one"
        )
        self.agent_id = agent_id


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


# --- what agent code raises ----------------------------------------------------------------------------------------


class NonRetryableError(CasEventsError):
    """Raised by agent code: this failure will not go away by trying again."""


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


# --- what came over the wire ---------------------------------------------------------------------------------------


class WireError(CasEventsError):
    """Bytes from the log that are not what PROTOCOL says they should be."""


class BlobError(WireError):
    """A claim check whose bytes are missing, or are not those that it names.

    Attributes:
        sha256: its name, in hex.
    """

    def __init__(self, sha256: str, problem: str) -> None:
        super().__init__(f"claim check {sha256}: {problem}")
        self.sha256 = sha256


# --- the server ----------------------------------------------------------------------------------------------------


class ServerError(CasEventsError):
    """Root of everything that has to do with the NATS server."""


class ServerUnreachableError(ServerError):
    """No NATS server answers at the URL."""

    def __init__(self, url: str, problem: str = "") -> None:
        detail = f" ({problem})" if problem else ""
        super().__init__(
            f"no NATS server answers at {url}{detail}; start one with `cas up`, or set CAS_NATS_URL"
        )
        self.url = url


class ServerNotConfiguredError(ServerError):
    """No URL is set and no embedded server runs."""

    def __init__(self, home: str) -> None:
        super().__init__(
            f"no NATS server is known: CAS_NATS_URL is not set and none runs under {home}; run `cas up`"
        )
        self.home = home


class ServerStartError(ServerError):
    """The embedded server did not come up."""


class StoreLockedError(ServerStartError):
    """Another process runs a server on the store folder."""

    def __init__(self, store_dir: str, pid: int) -> None:
        super().__init__(
            f"a server already runs on {store_dir} (process {pid}); stop it, or choose another folder by CAS_HOME"
        )
        self.store_dir = store_dir
        self.pid = pid


class NotConnectedError(ServerError):
    """The connection is down at this moment; nothing was sent."""


class StreamUnavailableError(NotConnectedError):
    """Nobody took an append or API request: the stream is missing or has no leader now. Surely not stored; retry."""

    def __init__(self, subject: str) -> None:
        super().__init__(
            f"no stream takes {subject} at this moment: it does not exist, or is electing a leader"
        )
        self.subject = subject


class ConnectionLostError(ServerError):
    """The connection went down, or no answer came in time: what was sent may or may not have been stored."""


class NoRespondersError(ServerError):
    """Nobody listens on the subject of a request."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"nobody answers on {subject}")
        self.subject = subject


class RefusedError(ServerError):
    """The server refused an append or an API request.

    Attributes:
        code: JetStream's HTTP-like status, 400 or 503 for example.
        err_code: JetStream's own error code, 10071 for example.
    """

    def __init__(self, description: str, *, code: int, err_code: int) -> None:
        super().__init__(f"{description} (code {code}, err_code {err_code})")
        self.code = code
        self.err_code = err_code
        self.description = description


class WrongLastSequenceError(RefusedError):
    """10071 or 10164: the subject's last sequence is not the expected one, or a write of it is in flight."""


class StreamFullError(RefusedError):
    """A limit is reached: 10077 (messages per subject, messages or bytes of the stream), or one of the account or server."""


class NotFoundError(RefusedError):
    """10059 no such stream, 10014 no such consumer, 10037 no such message."""


class TopologyMismatchError(ServerError):
    """A stream or consumer exists with settings that differ from PROTOCOL section 1."""

    def __init__(self, name: str, differences: list[str]) -> None:
        super().__init__(
            f"{name} exists with other settings: {'; '.join(differences)}; change it by hand or use another deployment"
        )
        self.name = name
        self.differences = differences


class StreamRewoundError(ServerError):
    """A stream ends before a place that was read already: it was restored from an older copy, or made anew."""

    def __init__(self, stream: str, *, last_seq: int, next_seq: int) -> None:
        super().__init__(
            f"stream {stream} ends at {last_seq}, but reading was to go on at {next_seq}: this is another or an older log; "
            f"rebuild what was made from it"
        )
        self.stream = stream
        self.last_seq = last_seq
        self.next_seq = next_seq


class ServerFeatureError(ServerError):
    """The server is too old or lacks JetStream."""


# --- the projection ------------------------------------------------------------------------------------------------


class ProjectionError(CasEventsError):
    """The projection cannot go on or cannot answer."""


class QueryError(ProjectionError):
    """A user's SQL was refused or failed.

    Attributes:
        reason: ``syntax``, ``not_read_only``, ``timeout``, ``too_many_rows``, ``memory``, ``forbidden`` or ``failed``.
    """

    def __init__(self, message: str, *, reason: str = "failed") -> None:
        super().__init__(message)
        self.reason = reason


# --- the sample agents ---------------------------------------------------------------------------------------------


class PathNotFoundError(CasEventsError, FileNotFoundError):
    """A path that an agent was asked to read does not exist, or cannot be reached.

    Attributes:
        path: the path as it was given.
    """

    def __init__(self, path: str, problem: str = "no such file or folder") -> None:
        super().__init__(f"cannot read {path!r}: {problem}")
        self.path = path


class ToolsMissingError(CasEventsError, ImportError):
    """Programs that an agent needs are not installed beside it."""

    def __init__(self, tools: list[str], *, extra: str) -> None:
        super().__init__(f"not installed: {', '.join(tools)}; run `pip install 'cas-events[{extra}]'`")
        self.tools = tools


class ToolFailedError(CasEventsError):
    """A program that an agent ran gave no usable answer.

    Its output is not part of the error: it may quote what the program was given to read.

    Attributes:
        tool: its name.
        reason: ``timeout``, ``output_too_large``, ``crashed`` or ``unreadable_output``.
    """

    def __init__(self, tool: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{tool} failed: {reason.replace('_', ' ')}" + (f" ({detail})" if detail else ""))
        self.tool = tool
        self.reason = reason
