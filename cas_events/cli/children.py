"""Child processes that are started again when they die, and that never outlive us.

Invariants: a child dies with this process, even by kill -9 (`server_guard`); it is in a session of its own, so that
a Ctrl-C reaches it only through us; starting again is paced by a bounded backoff; ending it is bounded, a child that
does not heed SIGTERM is killed with its process group. Children are started from the main thread, because the kernel
watches the thread that started them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from cas_events import server_guard

_BACKOFF_FIRST_S = 0.5
_BACKOFF_MAX_S = 10.0
_STEADY_S = 60.0  # A child that lived so long starts at the first backoff again.
_POLL_S = 0.05

log = logging.getLogger(__name__)


class Backoff:
    """How long to wait before starting something again: longer each time that it did not live long."""

    def __init__(self) -> None:
        self._next_s = _BACKOFF_FIRST_S

    def after(self, lived_s: float) -> float:
        """The wait, in seconds, after a life of ``lived_s``."""
        if lived_s >= _STEADY_S:
            self._next_s = _BACKOFF_FIRST_S
        wait_s, self._next_s = self._next_s, min(_BACKOFF_MAX_S, self._next_s * 2)
        return wait_s


class Child:
    """One child process: the `cas` command with ``arguments``.

    Attributes:
        name: for people.
        restarts: how often it was started again.

    Args:
        name: see above.
        arguments: of the `cas` command.
        environment: of the process.
        log_file: where its output goes; to ours without one.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        log_file: Path | None = None,
    ) -> None:
        self.name = name
        self.restarts = 0
        self._arguments = list(arguments)
        self._environment = dict(environment)
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None
        self._backoff = Backoff()
        self._started_s = 0.0
        self._due_s = 0.0

    @property
    def pid(self) -> int:
        """Its process id; 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start it."""
        guard = [sys.executable, "-I", "-S", server_guard.__file__, str(os.getpid())]
        command = [sys.executable, "-P", "-m", "cas_events.cli", *self._arguments]
        with ExitStack() as stack:
            output = stack.enter_context(self._log_file.open("ab")) if self._log_file is not None else None
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                [*guard, *command],
                stdin=subprocess.PIPE,
                stdout=output or sys.stderr,
                stderr=output or sys.stderr,
                env=self._environment,
                start_new_session=True,
            )
        self._started_s = time.monotonic()

    def tend(self) -> None:
        """Notice its death, and start it again when its time has come."""
        now_s = time.monotonic()
        if self._process is None:
            if now_s >= self._due_s:
                self.restarts += 1
                self.start()
                log.warning("%s is back as process %d", self.name, self.pid)
            return
        code = self._process.poll()
        if code is None:
            return
        wait_s = self._backoff.after(now_s - self._started_s)
        log.error(
            "%s (process %d) ended with %s; starting it again in %g s",
            self.name,
            self.pid,
            _how(code),
            wait_s,
        )
        self._forget()
        self._due_s = now_s + wait_s

    async def stop(self, timeout_s: float, hurry: asyncio.Event) -> None:
        """End it: SIGTERM, and SIGKILL after ``timeout_s`` or once ``hurry`` is set. Idempotent."""
        process = self._process
        if process is None:
            return
        process.terminate()
        deadline_s = time.monotonic() + timeout_s
        while process.poll() is None:
            if hurry.is_set() or time.monotonic() > deadline_s:
                log.warning("%s (process %d) does not end; killing it", self.name, process.pid)
                self.kill()
                return
            await asyncio.sleep(_POLL_S)
        self._forget()

    def kill(self) -> None:
        """End it and its process group at once. Idempotent."""
        if self._process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._forget()

    def _forget(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
