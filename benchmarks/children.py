"""The processes of a benchmark: a server, a worker and a client are separate, as in real use.

No child outlives the benchmark, even when that is killed (`server_guard`). Every wait has a bound. A worker of the
floor says ``ready``, a client prints its result as one JSON line; the runtime's worker is the `cas worker` command.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from benchmarks.plan import Plan
from cas_events import server_guard

START_TIMEOUT_S = 30.0
RESULT_TIMEOUT_S = 300.0
END_TIMEOUT_S = 10.0
_LINE_BYTES_MAX = 16 * 1024 * 1024

Process = asyncio.subprocess.Process


class ChildFailedError(RuntimeError):
    """A process of the benchmark ended without saying what it was asked for."""


# --- the parent's side -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def child(*arguments: str, environment: Mapping[str, str] | None = None) -> AsyncIterator[Process]:
    """Run ``python -m arguments...`` for the length of the block."""
    guard = (sys.executable, "-I", "-S", server_guard.__file__, str(os.getpid()))
    process = await asyncio.create_subprocess_exec(
        *guard,
        *(sys.executable, "-m", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES_MAX,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield process
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(END_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


@asynccontextmanager
async def floor_worker(plan: Plan) -> AsyncIterator[Process]:
    """The floor's worker, ready."""
    async with child("benchmarks.floor", "worker", plan.to_argument()) as process:
        if await _line(process, START_TIMEOUT_S) != b"ready":
            raise ChildFailedError("the floor's worker did not become ready")
        yield process


@asynccontextmanager
async def cas_worker(
    plan: Plan, target: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """A runner process by the `cas` command; clients wait until it serves."""
    settings = {"CAS_NATS_URL": plan.url, "CAS_DEPLOYMENT": plan.deployment, **(environment or {})}
    arguments = ("cas_events.cli", "worker", target, "--log-level", "warning")
    async with child(*arguments, environment=settings) as process:
        yield process


async def result_of(module: str, role: str, plan: Plan) -> dict[str, Any]:
    """Run a role of a module to its end; its result."""
    async with child(module, role, plan.to_argument()) as process:
        line = await _line(process, RESULT_TIMEOUT_S)
        if not line:
            raise ChildFailedError(f"{module} {role} ended without a result")
        async with asyncio.timeout(END_TIMEOUT_S):
            await (
                process.wait()
            )  # To signal a process that is just ending confuses asyncio about how it ended.
        result: dict[str, Any] = msgspec.json.decode(line)
        return result


async def _line(process: Process, timeout_s: float) -> bytes:
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


def main(roles: Mapping[str, Callable[[Plan], Coroutine[Any, Any, None]]]) -> None:
    """Run the role of the command line with the plan of the command line."""
    role, plan = sys.argv[1:]
    asyncio.run(roles[role](Plan.from_argument(plan)))
