"""Whether a process lives, and waiting until it does not."""

from __future__ import annotations

import os
import time
from pathlib import Path

_POLL_S = 0.005


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not yet waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def gone_within(pid: int, timeout_s: float) -> bool:
    """Wait until the process is gone; whether that came in time."""
    deadline_s = time.monotonic() + timeout_s
    while is_alive(pid) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
    return not is_alive(pid)
