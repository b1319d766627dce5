"""The clock of one attempt: how long it may run, and how long it may say nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cas_events.runner.registry import Terms


class AttemptClock:
    """Calls back once, when a bound of the terms is reached.

    Args:
        terms: of the task.
        heard_s: when the attempt last emitted something, on the monotonic clock.
        on_timeout: called with what to tell, on the event loop.
    """

    def __init__(
        self, terms: Terms, *, heard_s: Callable[[], float], on_timeout: Callable[[str], None]
    ) -> None:
        self._terms = terms
        self._heard_s = heard_s
        self._on_timeout = on_timeout
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []

    def start(self) -> None:
        """Start counting."""
        if self._terms.timeout_s is not None:
            problem = f"the attempt ran longer than {self._terms.timeout_s:g} s"
            self.call_later(self._terms.timeout_s, self._on_timeout, problem)
        if self._terms.idle_timeout_s is not None:
            self.call_later(self._terms.idle_timeout_s, self._look_idle, self._terms.idle_timeout_s)

    def call_later(self, delay_s: float, action: Callable[..., None], *args: object) -> None:
        """Have something done later, unless `stop` comes first."""
        self._timers.append(self._loop.call_later(delay_s, action, *args))

    def stop(self) -> None:
        """Forget everything."""
        for timer in self._timers:
            timer.cancel()

    def _look_idle(self, limit_s: float) -> None:
        rest_s = self._heard_s() + limit_s - time.monotonic()
        if rest_s > 0:
            self.call_later(rest_s, self._look_idle, limit_s)
        else:
            self._on_timeout(f"the attempt emitted nothing for {limit_s:g} s")
