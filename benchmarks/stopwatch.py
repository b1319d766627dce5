"""Measuring code that both sides share: latencies one after another, throughput of a burst, CPU time of processes.

Wall-clock times that cross a process border are `time.time()`; a benchmark runs on one machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.plan import Sizes

RunTask = Callable[[str], Awaitable[object]]

BURST_TIMEOUT_S = 120.0
TASK_TIMEOUT_S = 20.0
WARM_UP = 20


async def latencies_ms(run: RunTask, prefix: str, count: int) -> list[float]:
    """Run tasks one after another; milliseconds from the call to the result of each, after a warm-up."""
    measured = []
    for number in range(-WARM_UP, count):
        began_s = time.perf_counter()
        async with asyncio.timeout(TASK_TIMEOUT_S):
            await run(f"{prefix}{number + WARM_UP}")
        measured.append((time.perf_counter() - began_s) * 1000)
    return measured[WARM_UP:]


async def bursts_per_s(run: RunTask, sizes: Sizes) -> list[float]:
    """Run bursts of tasks, those of one burst all at once; how many came to their end per second, by burst."""
    measured = []
    for burst in range(sizes.bursts):
        began_s = time.perf_counter()
        async with asyncio.timeout(BURST_TIMEOUT_S):
            await asyncio.gather(*(run(f"b{burst}-{number}") for number in range(sizes.burst)))
        measured.append(sizes.burst / (time.perf_counter() - began_s))
    return measured


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used in all its threads; 0 where the system does not say (only Linux does)."""
    total_ns = 0
    for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total_ns += int(schedstat.read_text().split()[0])
        except OSError:
            continue  # A thread that has just ended.
    return total_ns / 1e9


class CpuMeter:
    """CPU time of several processes between two moments."""

    def __init__(self, **pids: int) -> None:
        self._pids = pids
        self._began_s = self._read()

    def us_per(self, count: int) -> dict[str, float]:
        """CPU microseconds per item since this was made, by process."""
        now_s = self._read()
        return {name: (now_s[name] - self._began_s[name]) / count * 1e6 for name in self._pids}

    def _read(self) -> dict[str, float]:
        return {name: cpu_s(pid) for name, pid in self._pids.items()}
