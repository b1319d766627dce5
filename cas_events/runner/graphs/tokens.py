"""What chat models say, as it comes: `cas.output` events of kind ``token``.

Tokens are collected and sent at most once in `TOKENS_EVERY_S` a task: each message holds what one model's answer has
grown by since its last one. Answers that grow at the same time take turns; what is left at the end goes out at once. The
first token does not wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage

from cas_events.runner.context import TaskContext
from cas_events.runner.graphs.origin import origin_of, path_of

TOKENS_EVERY_S = 0.03
ASKED_FOR = "stream_tokens"  # in a task's metadata


def wants_tokens(metadata: Mapping[str, Any], *, default: bool) -> bool:
    """Whether a task is to publish tokens: as its metadata says, else as its agent's option."""
    asked = metadata.get(ASKED_FOR)
    return asked if isinstance(asked, bool) else default


class Tokens:
    """Collects the tokens of one run and emits them. On the event loop only.

    Args:
        context: of the attempt.
    """

    def __init__(self, context: TaskContext) -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()
        # By the message's id, in the order in which they wait for their turn.
        self._waiting: dict[str, dict[str, Any]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._sent_s = -TOKENS_EVERY_S

    def add(self, message: BaseMessage, metadata: Mapping[str, Any]) -> None:
        """Take a part of the mode ``messages``: text that a model has said, or something else, which is left out."""
        text = str(message.text)
        if not text or not _is_said_by_model(message, metadata):
            return
        key = message.id or ""
        known = self._waiting.get(key)
        if known is None:
            self._waiting[key] = {**_place(metadata), "message_id": key, "text": [text]}
        else:
            known["text"].append(text)
        if self._timer is None:
            self._send_when_due()

    def flush(self) -> None:
        """Send everything."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            self._send()

    def _send_when_due(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        wait_s = self._sent_s + TOKENS_EVERY_S - time.monotonic()
        if wait_s <= 0:
            self._send()
            wait_s = TOKENS_EVERY_S
        if self._waiting:
            self._timer = self._loop.call_later(wait_s, self._send_when_due)

    def _send(self) -> None:
        value = self._waiting.pop(next(iter(self._waiting)))
        self._context.emit_output({**value, "text": "".join(value["text"])}, kind="token")
        self._sent_s = time.monotonic()


def _is_said_by_model(message: BaseMessage, metadata: Mapping[str, Any]) -> bool:
    """Not what a node merely puts into its state; a model that cannot stream says all at once."""
    return isinstance(message, AIMessageChunk) or (
        isinstance(message, AIMessage) and metadata.get("ls_model_type") == "chat"
    )


def _place(metadata: Mapping[str, Any]) -> dict[str, Any]:
    origin = origin_of(metadata)
    place: dict[str, Any] = {"node": origin.node or ""}
    if origin.agent is not None:
        place["agent"] = origin.agent
    path = path_of(metadata)
    return place | {"path": path} if path else place
