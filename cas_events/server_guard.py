"""Starts a command that does not outlive the process that asked for it. Run as a script, not imported.

    python server_guard.py PARENT_PID COMMAND [ARGUMENT ...]

On Linux the kernel is asked to kill this process when its parent ends, and the command then takes this process over:
its pid is ours. The kernel means the parent's *thread*, so that thread must live as long (`server` keeps one).
Elsewhere this process stays, with the command as its child, and ends it when the pipe that is its standard input
closes. Stand-alone: standard library only, nothing of the package.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Run the command, bound to the life of the parent."""
    parent_pid, command = int(arguments[0]), arguments[1:]
    if platform.system() == "Linux":
        # SIGKILL, so that a stuck server goes, too; the store survives it.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # It ended before the kernel was asked.
            return 1
        os.execv(command[0], command)  # noqa: S606 - the command is the caller's
    return _watch(command)


def _watch(command: list[str]) -> int:
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:  # noqa: S603 - as above
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        threading.Thread(target=_kill_at_end_of_input, args=(process,), daemon=True).start()
        return process.wait()


def _kill_at_end_of_input(process: subprocess.Popen[bytes]) -> None:
    while sys.stdin.buffer.read(1024):
        pass
    process.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
