"""Runs one tool as a subprocess that cannot outlive its caller's interest.

Owns the life of a child: its own process group (so that the workers of a tool die with it), a deadline, a bound on
what it may print, an end at once when the caller is cancelled, and with the runner, however that ends
(`server_guard`). Never a shell, no standard input, none of the runner's own environment (it may hold keys), and
standard error is dropped: it may quote the files that an audit must not repeat. Interprets neither arguments nor output.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cas_events import server_guard
from cas_events.errors import ToolFailedError
from cas_events.settings import bare_environment

OUTPUT_BYTES_MAX = 32 * 1024 * 1024  # JSON findings of one batch; ordinary batches print under 1 MiB
REAP_S = 5.0  # A killed group is gone within milliseconds; more means that the kernel holds a process.

# Nobody's project, and not writable for everybody as the temporary folder is.
WORKING_FOLDER = sys.prefix

_CHUNK_BYTES = 256 * 1024

# Where the kernel does not tie the tool to our life, the guard watches this pipe; see `server_guard`.
_GUARDED_INPUT = asyncio.subprocess.DEVNULL if platform.system() == "Linux" else asyncio.subprocess.PIPE

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a tool left behind when it ended by itself."""

    returncode: int
    stdout: bytes


async def run_module(
    module: str,
    args: Sequence[str],
    *,
    timeout_s: float,
    output_bytes_max: int = OUTPUT_BYTES_MAX,
    folder: str | Path = WORKING_FOLDER,
    on_line: Callable[[str], None] | None = None,
) -> Finished:
    """Run ``python -m module args…`` to its end.

    The interpreter is ours, with ``-P`` and a working directory of its own: neither the audited tree nor the
    runner's folder may put a ``json.py`` in the way of the tool. ``-X utf8`` makes reading independent of the locale.

    Args:
        module: the tool.
        args: its arguments.
        timeout_s: how long it may take.
        output_bytes_max: how much it may print.
        folder: its working directory.
        on_line: told each line of its output as it comes, without the line's end.

    Raises:
        ToolFailedError: it took longer than ``timeout_s``, or printed more than ``output_bytes_max`` bytes.
        asyncio.CancelledError: the caller was cancelled; the whole process group is dead by then.
    """
    guard = (sys.executable, "-I", "-S", server_guard.__file__, str(os.getpid()))
    process = await asyncio.create_subprocess_exec(
        *guard,
        *(sys.executable, "-P", "-X", "utf8", "-m", module, *args),
        stdin=_GUARDED_INPUT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=folder,
        env=bare_environment(),
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout_s):
            stdout = await _read_bounded(process.stdout, module, output_bytes_max, _Lines(on_line))
            returncode = await process.wait()
    except TimeoutError:
        raise ToolFailedError(module, "timeout", f"after {timeout_s:g} s") from None
    finally:
        await _end_group(process, process.stdout)
    return Finished(returncode=returncode, stdout=stdout)


class _Lines:
    """Cuts chunks of output into lines for somebody who wants them as they come."""

    def __init__(self, tell: Callable[[str], None] | None) -> None:
        self._tell = tell
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        if self._tell is None:
            return
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._tell(line.decode("utf-8", "replace").rstrip("\r"))

    def end(self) -> None:
        if self._rest:
            self.feed(b"\n")


async def _read_bounded(stream: asyncio.StreamReader, module: str, limit: int, lines: _Lines) -> bytes:
    """Everything the stream has, or an error once it is more than ``limit`` bytes."""
    chunks: list[bytes] = []
    size = 0
    while chunk := await stream.read(_CHUNK_BYTES):
        size += len(chunk)
        if size > limit:
            raise ToolFailedError(module, "output_too_large", f"over {limit} bytes")
        chunks.append(chunk)
        lines.feed(chunk)
    lines.end()
    return b"".join(chunks)


async def _end_group(process: asyncio.subprocess.Process, stdout: asyncio.StreamReader) -> None:
    """Kill the group of a tool that did not end by itself, and reap it.

    A closed pipe says that the tool's workers are gone too; then its number may already belong to somebody else.
    """
    if process.returncode is not None and stdout.at_eof():
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        async with asyncio.timeout(REAP_S):
            # asyncio's wait() waits for the pipe as well, and a full one that nobody reads never closes.
            while await stdout.read(_CHUNK_BYTES):
                pass
            await process.wait()
    except TimeoutError:
        _log.warning("process %d did not end within %g s of SIGKILL", process.pid, REAP_S)
