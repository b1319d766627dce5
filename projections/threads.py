"""Blocking calls in another thread, which are never left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def finish_in(executor: Executor | None, call: Callable[[], T]) -> T:
    """Run in a thread of an executor; a cancellation waits for the call's end, as a thread cannot be cancelled."""
    future = asyncio.get_running_loop().run_in_executor(executor, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise
