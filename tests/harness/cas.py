"""The `cas` command in tests: in this process where that is enough, as a real process where signals matter.

In this process everything is as real as in another, server, runner and projector included; only the start of an
interpreter is saved. Processes are ended by their pid.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from unittest import mock

from cas_events.cli import entry
from tests.harness.patience import promised

BIN = Path(sys.executable).parent
TIMEOUT_S = promised(20.0)
# For tests that count events: heads of the log come when time has passed, in the middle of a test that is slow.
UNSIGNED_PROJECTOR = ("projector", "--audit-every", "0")


@dataclass(frozen=True)
class Answer:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> str:
        """The one line of an error."""
        [line] = self.err.splitlines()
        assert line.startswith("error: "), self.err
        return line.removeprefix("error: ")


class Cas:
    """Runs `cas` with an environment of its own.

    Args:
        environment: CAS_… variables; all others of that kind are taken away.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)

    def __call__(self, *arguments: str, stdin: str = "") -> Answer:
        out, err = _stream(), _stream()
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        read = io.TextIOWrapper(io.BytesIO(stdin.encode()))
        try:
            with (
                mock.patch.dict(os.environ, self.clean(), clear=True),
                mock.patch.object(sys, "stdin", read),
                redirect_stdout(out),
                redirect_stderr(err),
            ):
                code = entry.run(arguments)
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
        return Answer(code, _text(out), _text(err))

    def clean(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CAS_")}
        return kept | {"NO_COLOR": "1"} | self.environment

    @staticmethod
    def kill(pid: int) -> None:
        """kill -9 a process that one of ours started."""
        os.kill(pid, signal.SIGKILL)

    @staticmethod
    def stop(pid: int) -> None:
        """Make it hang: it heeds nothing but SIGKILL."""
        os.kill(pid, signal.SIGSTOP)

    @contextmanager
    def process(self, *arguments: str, **options: Any) -> Iterator[CasProcess]:
        """`cas` as a process; killed at the end of the block if it still lives."""
        with running([str(BIN / "cas"), *arguments], self.clean(), **options) as process:
            yield process


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


class CasProcess:
    """A running process with its output, which is read all the time."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self._changed = threading.Condition()
        self._ended = 0
        self.out: list[str] = []
        self.err: list[str] = []
        assert popen.stdout is not None
        assert popen.stderr is not None
        self._threads = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((popen.stdout, self.out), (popen.stderr, self.err))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self.popen.pid

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        for line in stream:
            with self._changed:
                lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended += 1
            self._changed.notify_all()

    def line_with(self, text: str, timeout_s: float = TIMEOUT_S) -> str:
        """Wait for a line of output that contains ``text``."""

        def found() -> str | None:
            return next((line for line in (*self.out, *self.err) if text in line), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None or self._ended == 2, timeout_s)
            line = found()
        assert line is not None, f"no line with {text!r} in\n{self.out}\n{self.err}"
        return line

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def end(self, timeout_s: float = TIMEOUT_S) -> Answer:
        """Wait for its end."""
        code = self.popen.wait(timeout_s)
        for thread in self._threads:
            thread.join(timeout_s)
        return Answer(code, "\n".join(self.out), "\n".join(self.err))


@contextmanager
def running(command: list[str], environment: Mapping[str, str], **options: Any) -> Iterator[CasProcess]:
    """Start a process whose SIGINT is not ignored, whatever started the tests."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # A child inherits only that it is ignored.
    with subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    ) as popen:
        process = CasProcess(popen)
        try:
            yield process
        finally:
            popen.kill()
            process.end()
