"""What the tests of long-term memory have in common."""

from __future__ import annotations

from typing import Any

from cas_events.jetstream.api import JetStream
from cas_events.wire.subjects import Names

NS = ("users", "u1")


async def stored(js: JetStream, deployment: str) -> int:
    """How many messages there are."""
    return (await js.stream_info(Names(deployment).checkpoints)).state.messages


def keys(items: Any) -> list[str]:
    return [item.key for item in items]
