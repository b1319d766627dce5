"""Trying a network call again while the server is away.

For calls that may be repeated without harm: reads, and writes that are settled by evidence.
"""

from __future__ import annotations

import asyncio
import math
import time
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
    give_up_s: float = math.inf,
) -> T:
    """Await ``call()``, anew after each of these errors, with growing pauses.

    Args:
        call: makes the awaitable of one try.
        errors: what is worth another try.
        give_up_s: after so long the error is the caller's.
    """
    delay_s = FIRST_DELAY_S
    deadline_s = time.monotonic() + give_up_s
    while True:
        try:
            return await call()
        except errors:
            if time.monotonic() + delay_s > deadline_s:
                raise
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, DELAY_MAX_S)


async def patiently_unsent(call: Callable[[], Awaitable[T]], *, give_up_s: float = math.inf) -> T:
    """Await ``call()``, anew only while nothing can be sent: an ambiguous answer is the caller's to settle."""
    return await patiently(call, errors=(NotConnectedError,), give_up_s=give_up_s)
