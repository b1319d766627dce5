"""Runs one tool as a subprocess that cannot outlive its caller's interest.

Owns the life of a child: its own process group (so that the workers of a tool die with it), a deadline, a bound on
what it may print, and an end at once when the caller is cancelled. Never a shell, no standard input, and standard
error is dropped: it may quote the files that an audit must not repeat. Interprets neither arguments nor output.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from cas_events.errors import ToolFailedError

OUTPUT_BYTES_MAX = 32 * 1024 * 1024  # JSON findings of one batch; ordinary batches print under 1 MiB
REAP_S = 5.0  # A killed group is gone within milliseconds; more means that the kernel holds a process.

# Nobody's project, and not writable for everybody as the temporary folder is.
WORKING_FOLDER = sys.prefix

_CHUNK_BYTES = 256 * 1024

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a tool left behind when it ended by itself."""

    returncode: int
    stdout: bytes


async def run_module(
    module: str, args: Sequence[str], *, timeout_s: float, output_bytes_max: int = OUTPUT_BYTES_MAX
) -> Finished:
    """Run ``python -m module args…`` to its end.

    The interpreter is ours, with ``-P`` and a working directory of its own: neither the audited tree nor the
    runner's folder may put a ``json.py`` in the way of the tool. ``-X utf8`` makes reading independent of the locale.

    Raises:
        ToolFailedError: it took longer than ``timeout_s``, or printed more than ``output_bytes_max`` bytes.
        asyncio.CancelledError: the caller was cancelled; the whole process group is dead by then.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-X", "utf8", "-m", module, *args),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=WORKING_FOLDER,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout_s):
            stdout = await _read_bounded(process.stdout, module, output_bytes_max)
            returncode = await process.wait()
    except TimeoutError:
        raise ToolFailedError(module, "timeout", f"after {timeout_s:g} s") from None
    finally:
        await _end_group(process, process.stdout)
    return Finished(returncode=returncode, stdout=stdout)


async def _read_bounded(stream: asyncio.StreamReader, module: str, limit: int) -> bytes:
    """Everything the stream has, or an error once it is more than ``limit`` bytes."""
    chunks: list[bytes] = []
    size = 0
    while chunk := await stream.read(_CHUNK_BYTES):
        size += len(chunk)
        if size > limit:
            raise ToolFailedError(module, "output_too_large", f"over {limit} bytes")
        chunks.append(chunk)
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
