"""What waits to be stored in a thread, and how much of it goes at once: messages in groups, one for each caller."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator

from cas_events.errors import ConnectionLostError
from cas_events.jetstream.batches import Outgoing

_BATCH_MESSAGES = 900
_BATCH_BYTES = 8 * 1024 * 1024


class Group:
    """What one caller stores.

    Attributes:
        messages: in their order.
        future: set when they are stored.
    """

    __slots__ = ("future", "messages")

    def __init__(self, messages: list[Outgoing], future: asyncio.Future[None]) -> None:
        self.messages = messages
        self.future = future


def next_groups(queue: deque[Group]) -> list[Group]:
    """Take those that go together from a queue; one at least."""
    groups = [queue.popleft()]
    count = len(groups[0].messages)
    size = size_of(groups[0].messages)
    while queue:
        count += len(queue[0].messages)
        size += size_of(queue[0].messages)
        if count > _BATCH_MESSAGES or size > _BATCH_BYTES:
            break
        groups.append(queue.popleft())
    return groups


def parts_of(messages: list[Outgoing]) -> Iterator[list[Outgoing]]:
    """What goes into one batch each; one part at least."""
    part: list[Outgoing] = []
    size = 0
    for message in messages:
        if part and (len(part) >= _BATCH_MESSAGES or size + len(message.payload) > _BATCH_BYTES):
            yield part
            part, size = [], 0
        part.append(message)
        size += len(message.payload)
    yield part


def size_of(messages: Iterable[Outgoing]) -> int:
    """The bytes of messages."""
    return sum(len(message.payload) for message in messages)


def settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    """Tell whoever waits, if somebody still does."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(
            error if isinstance(error, Exception) else ConnectionLostError("the saver has ended")
        )


def look_at(future: asyncio.Future[None]) -> None:
    """Whoever waited may have been cancelled; the failure is then nobody's."""
    if not future.cancelled():
        future.exception()
