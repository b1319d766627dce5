"""Parts of a graph's stream as events: `steps`, `tokens`, and what nodes write with `get_stream_writer()`."""

from __future__ import annotations

from typing import Any, Self

import msgspec
from langchain_core.callbacks import BaseCallbackHandler

from cas_events.errors import NotJsonError, PayloadTooLargeError
from cas_events.runner.context import TaskContext
from cas_events.runner.graphs.origin import current_origin, current_place
from cas_events.runner.graphs.steps import Steps
from cas_events.runner.graphs.tokens import Tokens, wants_tokens
from cas_events.wire.jsonvalue import encode_lossy


class StreamEvents:
    """Emits the events of one run; leaving its block emits what it still holds back.

    Args:
        context: of the attempt; what is said through it names the node and the agent from here on.
        tokens: whether to emit chat models' tokens, if the task does not say.

    Attributes:
        modes: the stream modes that it wants to see. Tokens are one only when wanted: it makes models stream.
        callbacks: handlers that the run's config shall carry.
    """

    def __init__(self, context: TaskContext, *, tokens: bool = False) -> None:
        self._context = context
        context.current_origin = current_origin
        context.current_place = current_place
        self._steps = Steps(context)
        self._tokens = Tokens(context) if wants_tokens(context.metadata, default=tokens) else None
        self.callbacks: list[BaseCallbackHandler] = [self._steps]
        self.modes: tuple[str, ...] = ("tasks", "custom") + (("messages",) if self._tokens else ())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Emit what is held back: whatever ends the run, its tokens stand before the event that says so."""
        if self._tokens is not None:
            self._tokens.flush()

    async def emit(self, kind: str, data: Any, namespace: tuple[str, ...]) -> None:
        """Emit what a stream part says, if it says anything to followers.

        Args:
            kind: the stream mode.
            data: the part's data.
            namespace: where in the graph; empty for its root.
        """
        if kind == "tasks":
            self._steps.end(data, namespace)
        elif kind == "messages" and self._tokens is not None:
            self._tokens.add(*data)
        elif kind == "custom":
            await self._emit_custom(data)

    async def _emit_custom(self, data: Any) -> None:
        """What a node wrote. It went on long ago, so what cannot be published is no error of the run."""
        try:
            await self._context.emit_output(data, kind="custom")
        except NotJsonError:
            await self._context.emit_output(msgspec.Raw(encode_lossy(data)), kind="custom")
        except PayloadTooLargeError as problem:
            self._context.log.warning("custom output dropped", reason=str(problem))
