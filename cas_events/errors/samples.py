"""What the sample agents stumble over."""

from __future__ import annotations

from cas_events.errors.root import CasEventsError


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


class ModelFailedError(CasEventsError):
    """A chat model did not answer. What its provider said is left out: it may quote a key."""

    def __init__(self, model: str, problem: str, *, status: int | None = None) -> None:
        super().__init__(f"the model {model} failed: {problem}" + (f" (status {status})" if status else ""))
        self.model = model
        self.status = status


class ModelRefusedError(ModelFailedError):
    """A chat model that will not answer as things are: a wrong key, an unknown name."""
