"""Where questions are put, while the tables behind it come and go: the live ones, an old version's, none for a moment.

A question that comes during a swap waits for the next tables, boundedly; one that runs may end first. Who changes the
tables is `keeper`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cas_events.errors import ProjectionError, QueryError
from projections.past import AsOf
from projections.queries import Answer, Limits, Params, Queries

log = logging.getLogger(__name__)

_LAST_WORDS_S = 2.0  # What runs when the tables are to change has so long before it is interrupted.

WaitFor = Callable[[int, float], Awaitable[None]]


class Desk:
    """Answers from whatever tables are open.

    Args:
        limits: of each query.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._queries: Queries | None = None
        self._wait_for: WaitFor | None = None
        self._opened = asyncio.Event()
        self._next = asyncio.Event()
        self._refusal = ""

    def open(self, queries: Queries, wait_for: WaitFor) -> None:
        """Answer from these from now on."""
        self._queries, self._wait_for, self._refusal = queries, wait_for, ""
        self._opened.set()
        self._next.set()
        self._next = asyncio.Event()

    def refuse(self, why: str) -> None:
        """Have no tables to answer from for a while, and say so at once."""
        self._refusal = why
        self._opened.set()

    async def close(self, *, at_once: bool = False) -> None:
        """Let go of the tables, after the last answer from them; questions wait from now on. Idempotent.

        Args:
            at_once: end what runs, and wait for nothing.
        """
        self._opened.clear()
        queries, self._queries, self._wait_for = self._queries, None, None
        if queries is not None:
            if not at_once:
                await queries.drain(_LAST_WORDS_S)
            queries.close()

    async def wait_for(self, seq: int, timeout_s: float) -> None:
        """Return when the tables hold the events up to a sequence.

        Raises:
            QueryError: they do not within the time (`timeout`), or not before they are made anew (`rebuilding`).
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._has_come(seq, timeout_s):
                    pass
        except TimeoutError:
            raise QueryError(
                f"sequence {seq} is not projected after {timeout_s:g} s", reason="timeout"
            ) from None

    async def _has_come(self, seq: int, timeout_s: float) -> bool:
        """Wait at the tables of now; False: others have taken their place meanwhile."""
        await self._current()
        assert self._wait_for is not None
        later = self._next
        try:
            await self._wait_for(seq, timeout_s)
        except QueryError:
            raise
        except ProjectionError as error:  # The projector has stopped, and perhaps another one will follow.
            log.debug("waiting for %d goes on at the next tables: %s", seq, error)
            await later.wait()
            return False
        return True

    async def run(
        self,
        sql: str,
        params: Params = (),
        *,
        limit: int | None = None,
        as_of: AsOf = None,
        arrow: bool = False,
    ) -> Answer:
        """Answer one query, as `Queries.run` does.

        Raises:
            QueryError: it was refused or failed; ``reason`` says which.
        """
        return await (await self._current()).run(sql, params, limit=limit, as_of=as_of, arrow=arrow)

    async def _current(self) -> Queries:
        try:
            await asyncio.wait_for(self._opened.wait(), self.limits.time_s)
        except TimeoutError:
            raise QueryError("the tables are being exchanged; ask again", reason="busy") from None
        if self._queries is None:
            raise QueryError(self._refusal, reason="rebuilding")
        return self._queries
