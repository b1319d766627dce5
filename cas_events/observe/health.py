"""Whether a process lives, and whether it could do now what it is there for.

Ready is what was tried: a message is published and read back. It goes to one subject of the deployment below
``CAS_CHECKPOINTS``, whose messages replace each other, so that however often and by however many it is tried, one
message stays; a thread's subject it cannot be, because of the ``~``. The leaders of commands and events are asked
beside it. Nothing of this is in the audit log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine

import msgspec

from cas_events.errors import CasEventsError, NotReadyError
from cas_events.jetstream.api import JetStream
from cas_events.observe.bridge import LoopBridge, LoopWatch
from cas_events.wire.envelope import format_time
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

READY_STALL_S = 1.0  # A loop that is later than this has other things to do than tasks.
TRIP_S = 2.0  # each of two round trips
READY_S = 5.0
FRESH_S = 1.0  # An answer counts so long, however many ask.

Check = Callable[[], Coroutine[None, None, None]]


async def round_trip(js: JetStream, names: Names, writer: str) -> None:
    """Publish, read it back, and hear from the leaders of commands and events.

    Args:
        js: how.
        names: of the deployment.
        writer: who tries, for whoever reads the message.

    Raises:
        CasEventsError: it does not work now; the message says what.
    """
    body = {"by": writer, "at": format_time(time.time_ns()), "nonce": os.urandom(8).hex()}
    payload = msgspec.json.encode(body)
    ack = await js.append(names.probe, payload, timeout_s=TRIP_S)
    stored, _, _ = await asyncio.gather(
        js.last_message(names.checkpoints, names.probe, timeout_s=TRIP_S),
        js.message(names.commands, 1, timeout_s=TRIP_S),
        js.message(names.events, 1, timeout_s=TRIP_S),
    )
    # Another process may have tried since; what is older than ours, or other bytes in its place, is a loss.
    if stored is None or stored.seq < ack.seq or (stored.seq == ack.seq and stored.data != payload):
        raise NotReadyError(f"what {names.checkpoints} acknowledged at {ack.seq} cannot be read back")


class Health:
    """Answers whether a process lives and is ready, in the threads that are asked.

    Args:
        watch: of the event loop.
        bridge: to it.
        stall_s: how late the loop may be before the process counts as dead.
    """

    def __init__(self, watch: LoopWatch, bridge: LoopBridge, *, stall_s: float) -> None:
        self._watch = watch
        self._bridge = bridge
        self._stall_s = stall_s
        self._checking = threading.Lock()
        self._fresh_until_s = 0.0
        self._problem = ""
        self.check: Check = _starting

    def alive(self) -> str:
        """Why the process is as good as dead; empty if it lives."""
        return self._stall(self._stall_s)

    def ready(self) -> str:
        """Why it could not do its work now; empty if it could."""
        with self._checking:
            if time.monotonic() >= self._fresh_until_s:
                self._problem = self._tried()
                self._fresh_until_s = time.monotonic() + FRESH_S
            return self._problem

    def _stall(self, limit_s: float) -> str:
        stalled_s = self._watch.stalled_s
        return f"the event loop has not run for {stalled_s:.1f} s" if stalled_s > limit_s else ""

    def _tried(self) -> str:
        problem = self._stall(READY_STALL_S)
        if problem:
            return problem
        try:
            self._bridge.ask(self.check, READY_S)
        except CasEventsError as error:
            return str(error)
        except Exception as error:  # Whoever asks gets an answer, and the reason is in the log.
            _log.exception("readiness could not be tried")
            return f"{type(error).__name__}: {error}"
        return ""


async def _starting() -> None:
    raise NotReadyError("the process is starting")
