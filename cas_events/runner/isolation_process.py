"""The child process of one attempt of an isolated agent, owned by one thread.

That thread alone starts the child, talks to it, signals it and reaps it, so that no signal can hit a number that
has become somebody else's, and the event loop is never waited for: a cancel escalates even while the loop is blocked.
It lives as long as the child, as Linux's parent-death signal asks (it is sent when the *thread* that forked ends).

The child is the leader of a session of its own: a Ctrl-C in the terminal is the runner's to deal with, and what the
agent started in its group is killed with it.
"""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import msgspec

from cas_events.runner.isolation_link import (
    READ_BYTES,
    Failure,
    FrameReader,
    FromChild,
    Result,
    Stop,
    frame,
)

_log = logging.getLogger(__name__)

LOOK_S = 0.5  # a child whose end is not seen on the socket, because it forked, is looked at so often
LINGER_S = 1.0  # a child that has said its last word and does not end is killed

# The child finds this package where the parent does, then takes its orders from the socket.
_BOOT = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from cas_events.runner.isolation_child import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)


class ChildProcess:
    """One child process.

    Args:
        make_start: makes the first frame, in the thread: it may be large.
        grace_s: how long a child that is asked to stop may take: after a third of it comes SIGTERM, after two SIGKILL.
        on_messages: called in the thread with what the child said; nothing more is read until `resume`, except what
            a child left behind that has ended.
        on_exit: called in the thread, once and last, when the child has been reaped: with its return code as in
            `subprocess`, or None if it could not be started or talked to.
    """

    def __init__(
        self,
        make_start: Callable[[], bytes],
        *,
        grace_s: float,
        on_messages: Callable[[list[FromChild]], None],
        on_exit: Callable[[int | None], None],
    ) -> None:
        self._make_start = make_start
        self._grace_s = grace_s
        self._on_messages = on_messages
        self._on_exit = on_exit
        self._decoder: msgspec.msgpack.Decoder[FromChild] = msgspec.msgpack.Decoder(FromChild)
        self._frames = FrameReader()
        self._outgoing: deque[memoryview] = deque()
        self._is_paused = False
        self._is_eof = False
        self._stop_asked_s: float | None = None
        self._is_stop_sent = False
        self._terminate_at_s = math.inf
        self._kill_at_s = math.inf
        self._thread = threading.Thread(target=self._run, name="cas-isolation", daemon=True)

    # --- called on the event loop ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the child, soon."""
        self._link, self._link_of_child = socket.socketpair()
        self._wake, self._waker = socket.socketpair()
        for end in (self._link, self._wake, self._waker):
            end.setblocking(False)
        self._thread.start()

    def stop(self) -> None:
        """Ask the child to end, and see to it; asking again changes nothing."""
        if self._stop_asked_s is None:
            self._stop_asked_s = time.monotonic()
            self._rouse()

    def send(self, frame: bytes) -> None:
        """Send something to a child that has been heard of; lost if it ends."""
        self._outgoing.append(memoryview(frame))
        self._rouse()

    def resume(self) -> None:
        """What was handed over has been dealt with."""
        self._is_paused = False
        self._rouse()

    def _rouse(self) -> None:
        with suppress(OSError):  # Full means that it is roused already, closed that it is over.
            self._waker.send(b"\0")

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        code: int | None = None
        try:
            code = self._live()
        except Exception:  # Whatever it was, the attempt must hear of its end.
            _log.exception("the child process of an agent could not be started or talked to")
        finally:
            for end in (self._link, self._link_of_child, self._wake, self._waker):
                end.close()
        try:
            self._on_exit(code)
        except RuntimeError as problem:
            _log.debug("nobody waits for the child process any more: %s", problem)

    def _live(self) -> int:
        """Start the child and serve it until it has ended; its return code."""
        popen = self._launch()
        try:
            self._outgoing.append(memoryview(self._make_start()))
            while not _has_ended(popen):
                self._escalate(popen)
                self._exchange()
            self._is_paused = False
            while not self._is_eof and self._receive():
                continue
        finally:
            # Also what the agent left running in its group; its leader is not reaped yet, so the number is its own.
            _signal(popen, signal.SIGKILL)
            code = popen.wait()
        return code

    def _launch(self) -> subprocess.Popen[bytes]:
        link = self._link_of_child
        popen = subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-c", _BOOT, str(link.fileno()), str(os.getpid()), *sys.path],
            stdin=subprocess.DEVNULL,
            pass_fds=[link.fileno()],
            start_new_session=True,
        )
        link.close()
        return popen

    def _escalate(self, popen: subprocess.Popen[bytes]) -> None:
        now_s = time.monotonic()
        if self._stop_asked_s is not None and not self._is_stop_sent:
            self._is_stop_sent = True
            self._outgoing.append(memoryview(frame(Stop())))
            self._terminate_at_s = self._stop_asked_s + self._grace_s / 3
            self._kill_at_s = min(self._kill_at_s, self._stop_asked_s + self._grace_s * 2 / 3)
        if now_s >= self._terminate_at_s:
            self._terminate_at_s = math.inf
            _log.info(
                "agent process %d gets SIGTERM: it has not ended within a third of the grace", popen.pid
            )
            _signal(popen, signal.SIGTERM)
        if now_s >= self._kill_at_s:
            self._kill_at_s = math.inf
            _log.warning("agent process %d gets SIGKILL: it did not end by itself", popen.pid)
            _signal(popen, signal.SIGKILL)

    def _exchange(self) -> None:
        """Send and receive what can be, or wait for the next moment at which something is due."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        wanted = select.POLLOUT if self._outgoing and not self._is_eof else 0
        if not self._is_paused and not self._is_eof:
            wanted |= select.POLLIN
        if wanted:
            poll.register(self._link, wanted)
        due_s = min(self._terminate_at_s, self._kill_at_s) - time.monotonic()
        look_s = 0.005 if self._is_eof else LOOK_S
        ready = dict(poll.poll(max(1.0, min(due_s, look_s) * 1_000)))
        if self._wake.fileno() in ready:
            self._wake.recv(READ_BYTES)
        got = ready.get(self._link.fileno(), 0)
        if got & select.POLLOUT:
            self._send()
        if got & ~select.POLLOUT and not self._is_paused:
            self._receive()

    def _send(self) -> None:
        try:
            while self._outgoing:
                sent = self._link.send(self._outgoing[0])
                self._outgoing[0] = self._outgoing[0][sent:]
                if not self._outgoing[0]:
                    self._outgoing.popleft()
        except BlockingIOError:
            return
        except OSError as problem:
            _log.debug("the child process does not listen any more: %s", problem)
            self._outgoing.clear()

    def _receive(self) -> bool:
        """Take what has arrived and hand it over; whether there was anything."""
        try:
            data = self._link.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as problem:
            _log.debug("the link to the child process broke: %s", problem)
            data = b""
        if not data:
            self._is_eof = True
            self._kill_at_s = min(self._kill_at_s, time.monotonic() + LINGER_S)
            return False
        messages = [self._decoder.decode(body) for body in self._frames.feed(data)]
        if not messages:
            return True
        if isinstance(messages[-1], Result | Failure):
            self._kill_at_s = min(self._kill_at_s, time.monotonic() + LINGER_S)
        self._is_paused = True
        self._on_messages(messages)
        return True


def _signal(popen: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal the child's whole group, unless its leader is reaped and the number may be another's."""
    if popen.returncode is not None:
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(popen.pid, number)


def _has_ended(popen: subprocess.Popen[bytes]) -> bool:
    """Whether the child has ended; it is left to be reaped where the system can do that."""
    if not hasattr(os, "waitid"):
        return popen.poll() is not None
    return os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
