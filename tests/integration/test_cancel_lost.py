"""A cancel that agent code never saw, or saw and let pass, comes once more before the grace is over.

Before Python 3.12 `asyncio.wait_for` may return a result in place of the cancellation that came with it, and code that
went on to wait would be left behind, running for ever. What cleans up has most of the grace before it is asked again.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph

from cas_events import Client, TaskContext
from tests.harness.own_runner import running
from tests.harness.wait import until


class State(TypedDict, total=False):
    word: str


class Deaf:
    """Loses the first cancellation, and then waits for ever."""

    def __init__(self) -> None:
        self.runs = asyncio.Event()
        self.seen = 0
        self.has_ended = False

    async def wait(self) -> None:
        self.runs.set()
        try:
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    self.seen += 1
                    if self.seen > 1:
                        raise
        finally:
            self.has_ended = True


@pytest.mark.parametrize("form", ["function", "graph"])
async def test_code_that_lost_a_cancel_is_asked_again(cas: Client, make_runner, form: str) -> None:
    deaf = Deaf()

    async def function(_ctx: TaskContext, _input: dict[str, Any]) -> None:
        await deaf.wait()

    async def node(_state: State) -> State:
        await deaf.wait()
        return {}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    runner = make_runner()
    runner.register("deaf", function if form == "function" else builder)
    async with running(cas, runner):
        task = await cas.submit_task("deaf", {})
        await asyncio.wait_for(deaf.runs.wait(), 60)
        await task.cancel("lost", wait=True)
        await until(lambda: deaf.has_ended, what="the code has ended")
        result = await task.result()

    assert (result.status, result.reason) == ("cancelled", "lost")
    assert deaf.seen == 2
    assert runner.left_behind == []


async def test_cleaning_up_has_time(cas: Client, make_runner) -> None:
    """What an agent does about its first cancellation is not cut off by the second one."""
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def tidy(_ctx: TaskContext, _input: dict[str, Any]) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.2)
            cleaned.set()

    runner = make_runner(grace_s=60)
    runner.register("tidy", tidy)
    async with running(cas, runner):
        task = await cas.submit_task("tidy", {})
        await asyncio.wait_for(begun.wait(), 60)
        await task.cancel(wait=True)
        assert cleaned.is_set()
        assert (await task.result()).status == "cancelled"
