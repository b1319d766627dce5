"""Trying a network call again while the server is away.

For calls that may be repeated without harm: reads, and writes that are settled by evidence.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cas_events.errors import ConnectionLostError, NotConnectedError, ServerError

T = TypeVar("T")

FIRST_DELAY_S = 0.05
DELAY_MAX_S = 2.0


async def patiently(
    call: Callable[[], Awaitable[T]],
    *,
    errors: tuple[type[ServerError], ...] = (ConnectionLostError, NotConnectedError),
    tries_max: int | None = None,
) -> T:
    """Await ``call()``, anew after each of these errors, with growing pauses.

    Args:
        call: makes the awaitable of one try.
        errors: what is worth another try.
        tries_max: after so many the error is the caller's; None for no bound.
    """
    delay_s = FIRST_DELAY_S
    for tries in itertools.count(1):
        try:
            return await call()
        except errors:
            if tries == tries_max:
                raise
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, DELAY_MAX_S)
    raise AssertionError("unreachable: the count has no end")


async def patiently_unsent(call: Callable[[], Awaitable[T]], *, tries_max: int | None = None) -> T:
    """Await ``call()``, anew only while nothing can be sent: an ambiguous answer is the caller's to settle."""
    return await patiently(call, errors=(NotConnectedError,), tries_max=tries_max)
