"""What an isolated agent says, on its way to the runner: the child process's side of the context.

Nothing waits in this process but the newest progress of each origin: what else is said is with the parent, or at
least with the system, when the call returns. A flood of progress costs the runner next to nothing.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from cas_events.domain.limits import CLAIM_BYTES_MAX, LOG_LINE_BYTES, cut_utf8
from cas_events.runner.context import DONE, NOWHERE, Awaitable, Origin
from cas_events.runner.isolation_link import FromChild, Log, Output, Progress, Step, frame
from cas_events.wire.claims import require_small_enough
from cas_events.wire.jsonvalue import encode_json, encode_lossy

ORPHANED = 70  # exit code of a child without a parent, which nobody will see
CUT_SLACK_BYTES = (
    4096  # a text keeps so much more here that the parent sees that it is cut, and what stood there
)
PROGRESS_EVERY_S = 0.002  # so seldom is a flood of progress sent; the newest wins
YIELD_EVERY_S = 0.0002  # an agent that only ticks lets its event loop, and so a cancel, run this often

_Origin = tuple[str | None, str | None]


class Outbox:
    """Sends what the agent says: at once, but for progress, whose newest a thread sends now and then.

    At once means that it is said even if the process dies of the next instruction. Whoever says more than the parent
    takes in is held up, and the child's event loop with it: it is the agent's alone.

    Args:
        link: to the parent.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._sending = threading.RLock()
        self._is_sending = False
        self._late: list[FromChild] = []
        self._progress: dict[_Origin, Progress] = {}
        self._has_progress = threading.Event()
        threading.Thread(target=self._send_progress, name="cas-progress", daemon=True).start()

    def put(self, message: FromChild) -> None:
        """Send a message, after the progress that was made before it."""
        with self._sending:
            self._send([*self._take_progress(), message])

    def put_progress(self, progress: Progress) -> None:
        """Have progress sent, unless newer comes first."""
        self._progress[progress.node, progress.agent] = progress
        self._has_progress.set()

    def _send_progress(self) -> None:
        while True:
            self._has_progress.wait()
            self._has_progress.clear()
            with self._sending:
                self._send(self._take_progress())
            time.sleep(PROGRESS_EVERY_S)

    def _take_progress(self) -> list[FromChild]:
        # Looked up by key, since the agent's threads add to it meanwhile.
        return [self._progress.pop(origin) for origin in list(self._progress)]

    def _send(self, messages: Sequence[FromChild]) -> None:
        self._late += messages
        if self._is_sending:
            return  # A signal handler speaks in the middle of a frame; the code that it interrupted goes on to send.
        self._is_sending = True
        try:
            while self._late:
                batch, self._late = self._late, []
                self._link.sendall(b"".join(map(frame, batch)))
        except OSError:
            os._exit(ORPHANED)
        finally:
            self._is_sending = False


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
        text, _ = cut_utf8(message, LOG_LINE_BYTES + CUT_SLACK_BYTES)
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

    def log(self, level: str, message: str, metadata: Mapping[str, Any], *, origin: Origin = NOWHERE) -> None:
        """Emit a `cas.log` event."""
        text, _ = cut_utf8(message, LOG_LINE_BYTES + CUT_SLACK_BYTES)
        fields = encode_lossy(dict(metadata))
        if not fields.startswith(b"{"):
            fields = b'{"unencodable":%b}' % fields
        if len(fields) > CLAIM_BYTES_MAX:
            fields = b"{}"  # It would be cut by the parent anyway, and much sooner.
        node, agent = origin
        self._outbox.put(Log(level=level, message=text, metadata=fields, node=node, agent=agent))

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
