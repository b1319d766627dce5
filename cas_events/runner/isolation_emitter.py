"""What an isolated agent says, on its way to the runner: the child process's side of the context.

Everything goes through one outbox whose thread sends it, so that saying something costs the agent no system call and
a flood of progress costs the runner next to nothing. The outbox is bounded: who says more than the parent takes waits.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Generator, Mapping
from typing import Any

from cas_events.domain.limits import CLAIM_BYTES_MAX, LOG_LINE_BYTES, cut_utf8
from cas_events.runner.context import DONE, Awaitable
from cas_events.runner.isolation_link import FromChild, Log, Output, Progress, Step, frame
from cas_events.wire.claims import require_small_enough
from cas_events.wire.jsonvalue import encode_json, encode_lossy

ORPHANED = 70  # exit code of a child without a parent, which nobody will see
CUT_SLACK_BYTES = 4  # a text is cut by so little less here that the parent sees that it was
OUTBOX_BYTES_MAX = 4 * 1024 * 1024
PROGRESS_EVERY_S = 0.002  # so seldom is a flood of progress sent; the newest wins
YIELD_EVERY_S = 0.0002  # an agent that only ticks lets its event loop, and so a cancel, run this often

_Origin = tuple[str | None, str | None]


class Outbox:
    """Sends frames from a thread of its own, in order; progress overtakes them, and only the newest of an origin goes.

    Args:
        link: to the parent.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._changed = threading.Condition()
        self._frames: list[bytes] = []
        self._waiting_bytes = 0
        self._progress: dict[_Origin, Progress] = {}
        self._is_sending = False
        threading.Thread(target=self._run, name="cas-outbox", daemon=True).start()

    def put(self, message: FromChild) -> None:
        """Have a message sent; waits while too much waits already, also on the event loop: it is the agent's alone."""
        data = frame(message)
        with self._changed:
            while self._waiting_bytes > OUTBOX_BYTES_MAX:
                self._changed.wait()
            self._frames.append(data)
            self._waiting_bytes += len(data)
            self._changed.notify_all()

    def put_progress(self, progress: Progress) -> None:
        """Have progress sent, unless newer comes first."""
        with self._changed:
            self._progress[progress.node, progress.agent] = progress
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything is sent."""
        with self._changed:
            while self._frames or self._progress or self._is_sending:
                self._changed.wait()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._frames and not self._progress:
                    self._changed.wait()
                batch = [frame(progress) for progress in self._progress.values()]
                had_progress = bool(batch)
                batch += self._frames
                self._frames, self._progress, self._is_sending = [], {}, True
            try:
                self._link.sendall(b"".join(batch))
            except OSError:
                os._exit(ORPHANED)
            with self._changed:
                self._is_sending, self._waiting_bytes = False, sum(map(len, self._frames))
                self._changed.notify_all()
                if had_progress:
                    self._changed.wait_for(lambda: self._frames, timeout=PROGRESS_EVERY_S)


class ChildEmitter:
    """The context's emitter: what `Telemetry` is in a runner, it forwards to.

    Args:
        outbox: what is said goes there.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._yielded_s = 0.0

    def progress(self, fraction: float, message: str, *, node: str | None, agent: str | None) -> Awaitable:
        """Emit a `cas.progress` event."""
        text, _ = cut_utf8(message, LOG_LINE_BYTES)
        self._outbox.put_progress(Progress(fraction=fraction, message=text, node=node, agent=agent))
        return self._breath()

    def output(self, value: Any, *, kind: str) -> Awaitable:
        """Emit a `cas.output` event.

        Raises:
            NotJsonError: it has no JSON form.
            PayloadTooLargeError: it is over the limit of claim checks.
        """
        encoded = encode_json(value, path="value")
        require_small_enough([encoded], "the output", CLAIM_BYTES_MAX)
        self._outbox.put(Output(kind=kind, value=encoded))
        return self._breath()

    def log(self, level: str, message: str, metadata: Mapping[str, Any]) -> None:
        """Emit a `cas.log` event."""
        text, _ = cut_utf8(message, LOG_LINE_BYTES + CUT_SLACK_BYTES)
        fields = encode_lossy(dict(metadata))
        if not fields.startswith(b"{"):
            fields = b'{"unencodable":%b}' % fields
        if len(fields) > CLAIM_BYTES_MAX:
            fields = b"{}"  # It would be cut by the parent anyway, and much sooner.
        self._outbox.put(Log(level=level, message=text, metadata=fields))

    def step(self, type_: str, members: Mapping[str, Any]) -> None:
        """Emit a `cas.step` event."""
        self._outbox.put(Step(type=type_, members=encode_json(dict(members), path="step")))

    def _breath(self) -> Awaitable:
        now_s = time.monotonic()
        if now_s - self._yielded_s < YIELD_EVERY_S:
            return DONE
        self._yielded_s = now_s
        return _BREATH


class _Breath:
    """An awaitable that lets the event loop run once."""

    def __await__(self) -> Generator[Any, None, None]:
        yield


_BREATH = _Breath()
