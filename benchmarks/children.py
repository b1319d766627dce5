"""The processes of a benchmark: a server, a worker and a client are separate, as in real use.

A child says ``ready`` or prints its result as one JSON line; it ends when its standard input does, so that none
outlives the benchmark. Every wait has a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from benchmarks.plan import Plan

START_TIMEOUT_S = 30.0
RESULT_TIMEOUT_S = 300.0
END_TIMEOUT_S = 5.0
_LINE_BYTES_MAX = 16 * 1024 * 1024


class ChildFailedError(RuntimeError):
    """A process of the benchmark ended without saying what it was asked for."""


# --- the parent's side -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def child(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run ``python -m module`` for the length of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES_MAX,
    )
    try:
        yield process
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(END_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def wait_until_ready(process: asyncio.subprocess.Process) -> None:
    """Wait for the line ``ready``."""
    if await _line(process, START_TIMEOUT_S) != b"ready":
        raise ChildFailedError("a worker did not become ready")


async def result_of(module: str, *arguments: str) -> dict[str, Any]:
    """Run ``python -m module`` to its end; its result."""
    async with child(module, *arguments) as process:
        line = await _line(process, RESULT_TIMEOUT_S)
        if not line:
            raise ChildFailedError(f"{module} {arguments[0]} ended without a result")
        result: dict[str, Any] = msgspec.json.decode(line)
        return result


async def _line(process: asyncio.subprocess.Process, timeout_s: float) -> bytes:
    assert process.stdout is not None
    async with asyncio.timeout(timeout_s):
        return (await process.stdout.readline()).strip()


# --- the child's side ------------------------------------------------------------------------------------------------


def say_ready() -> None:
    """A worker works."""
    print("ready", flush=True)


def say_result(result: dict[str, Any]) -> None:
    """A client is done."""
    print(msgspec.json.encode(result).decode(), flush=True)


def main(roles: dict[str, Callable[[Plan], Coroutine[Any, Any, None]]]) -> None:
    """Run the role of the command line with the plan of the command line, while standard input is open."""
    role, plan = sys.argv[1:]
    asyncio.run(_while_stdin_is_open(roles[role](Plan.from_argument(plan))))


async def _while_stdin_is_open(work: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.get_running_loop()
    # A process that waits in nats-py may swallow a cancellation; the parent is gone, so nothing is left to tidy up.
    loop.add_reader(sys.stdin.fileno(), lambda: os._exit(0))
    await work
