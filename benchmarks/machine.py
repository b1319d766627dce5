"""Where a run took place: figures mean nothing without it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from cas_events.server import find_binary


def describe() -> dict[str, str]:
    """The machine and the software."""
    return {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "nats-server": _server_version(),
        "nats-py": version("nats-py"),
        "langgraph": version("langgraph"),
        "duckdb": version("duckdb"),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def _server_version() -> str:
    said = subprocess.run(
        [find_binary(), "--version"], capture_output=True, text=True, timeout=10, check=True
    )
    return said.stdout.strip().removeprefix("nats-server: ")


def load() -> str:
    """How many processes wanted a core in the last minute; a benchmark by itself makes about three."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
