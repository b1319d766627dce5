"""Waiting on a state, with a bound: what tests use instead of sleeping for it.

The bound is what the state takes at most on a machine that has nothing else to do; `promised` makes it generous where
it is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.harness.patience import promised

T = TypeVar("T")

_POLL_S = 0.005


async def until(condition: Callable[[], T], *, timeout_s: float = 10.0, what: str = "") -> T:
    """Poll until ``condition`` is truthy; its value."""
    deadline_s = asyncio.get_running_loop().time() + promised(timeout_s)
    while not (value := condition()):
        if asyncio.get_running_loop().time() > deadline_s:
            raise AssertionError(f"not within {promised(timeout_s):g} s: {what or condition}")
        await asyncio.sleep(_POLL_S)
    return value


async def never(condition: Callable[[], T], *, for_s: float, what: str = "") -> None:
    """Look for a while whether ``condition`` becomes truthy, which it must not."""
    deadline_s = asyncio.get_running_loop().time() + for_s
    while asyncio.get_running_loop().time() < deadline_s:
        assert not condition(), f"it came to be: {what or condition}"
        await asyncio.sleep(_POLL_S)


async def until_async(condition: Callable[[], Awaitable[T]], *, timeout_s: float = 10.0, what: str = "") -> T:
    """As `until`, for a condition that has to ask somebody."""
    deadline_s = asyncio.get_running_loop().time() + promised(timeout_s)
    while not (value := await condition()):
        if asyncio.get_running_loop().time() > deadline_s:
            raise AssertionError(f"not within {promised(timeout_s):g} s: {what or condition}")
        await asyncio.sleep(_POLL_S)
    return value
