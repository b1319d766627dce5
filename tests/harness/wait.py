"""Waiting on a state, with a bound: what tests use instead of sleeping for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.005


async def until(condition: Callable[[], T], *, timeout_s: float = 10.0, what: str = "") -> T:
    """Poll until ``condition`` is truthy; its value."""
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    while not (value := condition()):
        if asyncio.get_running_loop().time() > deadline_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what or condition}")
        await asyncio.sleep(_POLL_S)
    return value


async def until_async(condition: Callable[[], Awaitable[T]], *, timeout_s: float = 10.0, what: str = "") -> T:
    """As `until`, for a condition that has to ask somebody."""
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    while not (value := await condition()):
        if asyncio.get_running_loop().time() > deadline_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what or condition}")
        await asyncio.sleep(_POLL_S)
    return value
