"""From the threads that answer HTTP to the event loop: questions with a deadline, and how late the loop runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import TypeVar

from cas_events.errors import NotReadyError
from cas_events.observe.meter import Meter

T = TypeVar("T")

TICK_S = 0.1


class LoopWatch:
    """Looks how late the event loop runs, all the time.

    Args:
        meter: told each time.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._ticked_s = time.monotonic()

    @property
    def stalled_s(self) -> float:
        """Seconds that the loop is late at this moment; from any thread."""
        return max(0.0, time.monotonic() - self._ticked_s - TICK_S)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._ticked_s = time.monotonic()
            await asyncio.sleep(TICK_S)
            self._meter.lagged(self.stalled_s)


class LoopBridge:
    """Asks the event loop from other threads.

    Args:
        loop: which.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_closed = False

    def close(self) -> None:
        """Ask no more."""
        self._is_closed = True

    def ask(self, make: Callable[[], Coroutine[None, None, T]], timeout_s: float) -> T:
        """Run a coroutine on the loop and wait for it, in a thread that is not the loop's.

        Raises:
            NotReadyError: the process ends, or the loop has not answered within ``timeout_s``.
        """
        if self._is_closed:
            raise NotReadyError("the process is ending")
        future = asyncio.run_coroutine_threadsafe(_made_there(make), self._loop)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise NotReadyError(f"no answer from the event loop within {timeout_s:g} s") from None
        except asyncio.CancelledError:
            raise NotReadyError("the process is ending") from None


async def _made_there(make: Callable[[], Coroutine[None, None, T]]) -> T:
    return await make()
