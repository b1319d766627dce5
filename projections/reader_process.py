"""A reader: a process that is forked off whoever holds the tables, and answers questions from them as they were then.

DuckDB lets no second process open a file that is being written, and what a statement takes inside of one process can
neither be bounded (text and lists are outside of its `memory_limit`) nor always be ended. A fork has the tables in its
memory, copied on write, and needs no lock of the file: the system bounds its memory, ends it at any moment, and when it
breaks, it breaks alone. What this asks for:

- At the fork nobody else uses the tables, so it happens in the writer's thread; DuckDB has no threads of its own (`store`).
- While a reader lives, nobody moves blocks of the file (checkpoints): it may read them.
- A reader dies with whoever forked it, and writes nothing.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import pickle
import resource
import signal
import socket
import stat
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from cas_events.errors import QueryError
from projections.answering import Answer, Limits, Question

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_LENGTH_BYTES = 8
_CHUNK = 1024 * 1024
_TIME_SLACK_S = 5.0  # After its time a reader ends itself, should nobody have done it.
_LIGHT_BYTES = 64 * 1024 * 1024  # A reader that has grown by more answers no further question.

# One fork at a time, so that no reader inherits the other's end of somebody else's socket.
_forking = threading.Lock()

Reply = tuple[Answer, bool] | tuple[str, str]
"""An answer, and whether the reader may go on; or the reason and the message of an error."""


class ReaderDiedError(Exception):
    """The process ended before it had answered.

    Attributes:
        signal: what ended it; 0 if nothing did.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"a reader has ended by signal {number}" if number else "a reader has ended")
        self.signal = number


class Reader:
    """One reader, seen from the process that forked it. Made by `fork_reader`.

    Attributes:
        version: of the tables that it answers from, as whoever forked it counts them.
    """

    def __init__(self, pid: int, end: socket.socket, version: object) -> None:
        self._pid = pid
        self._end = end
        self._end.setblocking(False)
        self._is_over = False
        self._is_asked = False
        self.version = version

    async def ask(self, question: Question) -> tuple[Answer, bool]:
        """Have one question answered; a cancellation leaves nothing to do but `kill`.

        Returns:
            The answer, and whether the reader may be asked again.

        Raises:
            QueryError: it was refused or failed.
            ReaderDiedError: the process has ended.
        """
        self._is_asked = True
        try:
            await asyncio.get_running_loop().sock_sendall(self._end, _framed(question))
            length = int.from_bytes(await self._receive(_LENGTH_BYTES), "big")
            reply: Reply = pickle.loads(await self._receive(length))  # noqa: S301 - our own process
        except (ConnectionError, EOFError):
            self._is_over = True
            raise ReaderDiedError(await asyncio.to_thread(self._bury)) from None
        except BaseException:
            if self._is_over:  # Killed meanwhile.
                self._bury_aside()
            raise
        finally:
            self._is_asked = False
        if isinstance(reply[0], Answer):
            return reply[0], bool(reply[1])
        raise QueryError(str(reply[1]), reason=reply[0])

    async def _receive(self, count: int) -> bytes:
        loop = asyncio.get_running_loop()
        parts = bytearray()
        while len(parts) < count:
            part = await loop.sock_recv(self._end, min(_CHUNK, count - len(parts)))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)

    def kill(self) -> None:
        """End it, whatever it does; an `ask` that waits for it hears of its end. Idempotent; waits for nothing."""
        if self._is_over:
            return
        self._is_over = True
        os.kill(self._pid, signal.SIGKILL)
        if not self._is_asked:
            self._bury_aside()

    def _bury_aside(self) -> None:
        threading.Thread(target=self._bury, name="cas-sql-end", daemon=True).start()

    def _bury(self) -> int:
        """Wait for the end of a process that ends; which signal it was."""
        self._end.close()
        try:
            _, status = os.waitpid(self._pid, 0)
        except ChildProcessError:  # Somebody here waits for whatever child ends.
            return 0
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def fork_reader(answer: Callable[[Question], Answer], limits: Limits, version: object) -> Reader:
    """Fork a reader off this process; only while nobody else uses the tables that it is to answer from.

    Args:
        answer: answers one question, in the reader.
        limits: of each question.
        version: of the tables.

    Raises:
        OSError: the system has no process to give.
    """
    parent = os.getpid()
    with _forking, warnings.catch_warnings():
        # Python 3.12 warns of locks that other threads hold; see above for those that matter.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
        ours, theirs = socket.socketpair()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            _be_a_reader(parent, theirs, answer, limits)
        theirs.close()
    return Reader(pid, ours, version)


# --- in the reader ---------------------------------------------------------------------------------------------------


def _be_a_reader(
    parent: int, end: socket.socket, answer: Callable[[Question], Answer], limits: Limits
) -> NoReturn:
    """Everything that a reader does; nothing of the parent's runs on in it, not even an `atexit`."""
    try:
        gc.disable()  # Nothing of the parent's is to be finalized here, and a reader does not live for long.
        _heed_signals()
        _die_with(parent)
        _close_foreign(end.fileno())
        begun_bytes = _bound_memory(limits.memory_bytes)
        while question := _received(end):
            signal.setitimer(signal.ITIMER_REAL, limits.time_s + _TIME_SLACK_S)
            reply = _replied(answer, question, begun_bytes)
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            end.sendall(reply)
    finally:
        os._exit(0)


def _replied(answer: Callable[[Question], Answer], question: Question, begun_bytes: int) -> bytes:
    try:
        found = answer(question)
        return _framed((found, _data_bytes() - begun_bytes < _LIGHT_BYTES))
    except QueryError as error:
        reply = error.reason, str(error)
    except MemoryError:
        reply = "memory", "the query takes too much memory; ask for less"
    except Exception as error:
        reply = "failed", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return _framed(reply)


def _heed_signals() -> None:
    """Ctrl-C means the parent, which then ends its readers."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # The end of the socket ends an idle reader, too, only later.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        with suppress(OSError):  # If memory is short all the same, it is the reader that goes.
            Path("/proc/self/oom_score_adj").write_text("1000")
    if os.getppid() != parent:
        os._exit(0)


def _close_foreign(keep: int) -> None:
    """Close the parent's connections, which must end when the parent closes them; files are the tables'."""
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - numbers, not paths
        number = int(name)
        with suppress(OSError):
            if number > 2 and number != keep and not stat.S_ISREG(os.fstat(number).st_mode):
                os.close(number)


def _bound_memory(more_bytes: int) -> int:
    """Let this process grow by so much and not further, where the system can (Linux); what it has now."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    has_bytes = _data_bytes()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if has_bytes:
        most = has_bytes + more_bytes
        resource.setrlimit(
            resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
        )
    return has_bytes


def _data_bytes() -> int:
    """What `RLIMIT_DATA` counts; 0 where the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0


def _framed(value: object) -> bytes:
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


def _received(end: socket.socket) -> Question | None:
    """The next question; None: there will be none."""
    length = int.from_bytes(_read(end, _LENGTH_BYTES), "big")
    if not length:
        return None
    question = pickle.loads(_read(end, length))  # noqa: S301 - from our own parent
    assert isinstance(question, Question)
    return question


def _read(end: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = end.recv(min(_CHUNK, count - len(parts)))
        if not part:
            return b""
        parts += part
    return bytes(parts)
