"""Whether a process lives, and waiting until it does not, or stands still."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.harness.patience import promised

_POLL_S = 0.005


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not yet waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return _state(Path(f"/proc/{pid}/stat")) != "Z"


def gone_within(pid: int, timeout_s: float) -> bool:
    """Wait until the process is gone; whether that came in time."""
    deadline_s = time.monotonic() + promised(timeout_s)
    while is_alive(pid) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
    return not is_alive(pid)


def stopped_within(pid: int, timeout_s: float) -> bool:
    """Wait until every thread of a process that got SIGSTOP stands still; whether that came in time."""
    deadline_s = time.monotonic() + promised(timeout_s)
    while time.monotonic() < deadline_s:
        if all(_state(stat) in "T?" for stat in Path(f"/proc/{pid}/task").glob("*/stat")):
            return True
        time.sleep(_POLL_S)
    return False


def _state(stat: Path) -> str:
    """The letter of a process or thread; ``?`` if it, or the whole of /proc, is not there."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "?"
