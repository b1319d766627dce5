"""Requests in flight on one connection: one inbox, a future and a deadline for each, one timer for all.

Invariants: every future that is handed out ends, by an answer, by its deadline, or by `fail_all` at a disconnect; a
future that nobody awaits any more leaves no trace in the log. It sends nothing; `connection` does.
"""

from __future__ import annotations

import asyncio
from typing import Any

from cas_events.errors import ConnectionLostError, NoRespondersError
from cas_events.jetstream.messages import Message

# A timer may fire this much early; what is due within it counts as due.
_TIMER_SLACK_S = 0.001

_NO_RESPONDERS = 503


class Requests:
    """Requests that wait for an answer on ``inbox`` + token."""

    def __init__(self, inbox: str) -> None:
        self.inbox = inbox
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, tuple[asyncio.Future[Any], float, str]] = {}
        self._tokens = 0
        self._sweep_at_s = 0.0
        self._sweeper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def next_token(self) -> str:
        """A token that no other request of this connection has."""
        self._tokens += 1
        return str(self._tokens)

    def add(self, token: str, future: asyncio.Future[Any], subject: str, timeout_s: float) -> None:
        """Let ``future`` wait, for ``timeout_s`` at most; ``subject`` is for the message of its error."""
        deadline_s = self._loop.time() + timeout_s
        self._waiting[token] = (future, deadline_s, subject)
        if self._sweeper is None or deadline_s < self._sweep_at_s:
            self._sweep_next(deadline_s)

    def discard(self, token: str) -> None:
        """Forget one that is settled otherwise."""
        self._waiting.pop(token, None)

    def answered(self, message: Message) -> None:
        """Handler of the inbox."""
        entry = self._waiting.pop(message.subject.rpartition(".")[2], None)
        if entry is None or entry[0].done():
            return
        if message.header and not message.data and message.status == _NO_RESPONDERS:
            fail(entry[0], NoRespondersError(entry[2]))
        else:
            entry[0].set_result(message)

    def fail_all(self) -> None:
        """The connection is down: nobody knows what became of them."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        waiting, self._waiting = self._waiting, {}
        for future, _, subject in waiting.values():
            fail(
                future, ConnectionLostError(f"the connection went down with a request on {subject} in flight")
            )

    def _sweep_next(self, at_s: float) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._sweep_at_s = at_s
        self._sweeper = self._loop.call_at(at_s, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        due_s = self._loop.time() + _TIMER_SLACK_S
        for token, (future, deadline_s, subject) in list(self._waiting.items()):
            if deadline_s <= due_s or future.done():
                del self._waiting[token]
                fail(future, ConnectionLostError(f"no answer on {subject} in time"))
        if self._waiting:
            self._sweep_next(min(deadline_s for _, deadline_s, _ in self._waiting.values()))


def fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Fail a future unless it is done."""
    if not future.done():
        future.set_exception(error)
        future.exception()  # Whoever dropped the future is not interested: no "never retrieved" in the log.
