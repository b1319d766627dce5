"""What readers have brought and the writer has not taken yet: bounded, of several streams, in each one's order."""

from __future__ import annotations

import asyncio
from itertools import chain

from cas_events.jetstream.messages import StoredMessage

BATCH_MAX = 50_000  # Messages in one transaction; more gains nothing and costs memory.
WORTHWHILE = 20_000  # While much more is known to come, a transaction waits for this many,
MUCH_MORE = (
    1_000  # a whole small log in one transaction, rather than in several of which each has its fixed cost,
)
PATIENCE_S = 0.25  # but not longer than this, should the server stop delivering.
BUFFER_MESSAGES = 75_000
BUFFER_BYTES = 48 * 1024 * 1024


class Handover:
    """Between readers that `put` and one writer that `take`s; in one event loop."""

    def __init__(self) -> None:
        self._messages: dict[str, list[StoredMessage]] = {}
        self._pending: dict[str, int] = {}
        self._count = 0
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def put(self, stream: str, messages: list[StoredMessage], pending: int) -> None:
        """Hand over what follows the last of the same stream; waits for room first.

        Args:
            stream: its name.
            messages: in order; may be empty.
            pending: how many more the server has ready.
        """
        while not self._room.is_set():
            await self._room.wait()
        self._pending[stream] = pending
        if messages:
            self._messages.setdefault(stream, []).extend(messages)
            self._count += len(messages)
            self._bytes += sum([len(message.data) for message in messages])
            if self._is_full():
                self._room.clear()
        self._arrived.set()

    async def take(self) -> dict[str, list[StoredMessage]]:
        """What is there, at most `BATCH_MAX`; waits for something, and for more when much more is coming."""
        while not self._count:
            await self._arrived.wait()
            self._arrived.clear()
        if self._is_worth_waiting():
            try:
                async with asyncio.timeout(PATIENCE_S):
                    while self._is_worth_waiting():
                        self._arrived.clear()
                        await self._arrived.wait()
            except TimeoutError:
                pass  # The server has stopped delivering; what is there need not wait for it.
        return self._take()

    def _take(self) -> dict[str, list[StoredMessage]]:
        taken: dict[str, list[StoredMessage]] = {}
        left = BATCH_MAX
        for stream, messages in self._messages.items():
            taken[stream], self._messages[stream] = messages[:left], messages[left:]
            left -= len(taken[stream])
        self._count -= BATCH_MAX - left
        self._bytes -= sum(len(message.data) for message in chain.from_iterable(taken.values()))
        if not self._is_full():
            self._room.set()
        return taken

    def _is_full(self) -> bool:
        return self._count >= BUFFER_MESSAGES or self._bytes >= BUFFER_BYTES

    def _is_worth_waiting(self) -> bool:
        return self._count < WORTHWHILE and sum(self._pending.values()) >= MUCH_MORE and not self._is_full()
