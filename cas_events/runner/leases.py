"""The leases of the tasks that a process runs, renewed on the keeper's thread (PROTOCOL section 4, "While it runs").

Before each renewal the task's last lifecycle event is read; when that is not the hold's fence, it is renewed no more, for
good. At ``timeout_s`` and the grace the attempt is ended from here, under the same lock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from cas_events.domain import events
from cas_events.errors import CasEventsError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.queue import ACK, WPI, nak
from cas_events.observe.meter import Meter
from cas_events.runner.holds import Desk, Hold
from cas_events.runner.ledger import Ledger, LostRaceError
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

AGAIN_S = 0.05
STORE_AGAIN_S = 1.0
RENEWALS_AT_ONCE = 64


class Leases:
    """Renews what a desk holds.

    Args:
        names: of the deployment.
        desk: what is shared with the event loop.
        loop: the runner's event loop, which is told of losses.
        publish: best effort.
        meter: told of losses, too.
    """

    def __init__(
        self,
        names: Names,
        desk: Desk,
        *,
        loop: asyncio.AbstractEventLoop,
        publish: Callable[[str, bytes], None],
        meter: Meter,
    ) -> None:
        self._names = names
        self._desk = desk
        self._main_loop = loop
        self._publish = publish
        self._meter = meter
        self._renewing: set[asyncio.Task[None]] = set()

    async def settle(self, *, timeout_s: float) -> None:
        """Wait for renewals that are on their way."""
        if self._renewing:
            await asyncio.wait(self._renewing, timeout=timeout_s)

    def renew_due(self, js: JetStream, ledger: Ledger) -> None:
        """Renew what is due over this connection, and end what is overdue."""
        now_s = time.monotonic()
        for hold in list(self._desk.holds.values()):
            if hold.is_lost or len(self._renewing) >= RENEWALS_AT_ONCE:
                continue
            if hold.deadline_s is not None and now_s > hold.deadline_s:
                hold.deadline_s = None
                self._spawn_renewal(self._fail_timed_out(ledger, hold))
            elif now_s >= hold.renew_at_s:
                hold.renew_at_s = now_s + hold.ack_wait_s / 3
                self._spawn_renewal(self._renew(js, hold))

    def _spawn_renewal(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._renewing.add(task)
        task.add_done_callback(self._renewed)

    def _renewed(self, task: asyncio.Task[None]) -> None:
        self._renewing.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a renewal failed", exc_info=task.exception())

    async def _renew(self, js: JetStream, hold: Hold) -> None:
        """Renew one lease, if the task is still ours; without a read there is no renewal."""
        try:
            last = await js.last_message(
                self._names.events, hold.lifecycle_subject, timeout_s=hold.ack_wait_s / 3
            )
        except CasEventsError as error:
            hold.renew_at_s = time.monotonic() + AGAIN_S
            _log.debug("lease not renewed task=%s: %s", hold.task_id, error)
            return
        if last is None or last.seq != hold.fence_seq:
            self._lose(hold)
        elif hold.key in self._desk.holds:
            self._publish(hold.delivery.reply, WPI)

    def _lose(self, hold: Hold) -> None:
        hold.is_lost = True
        self._meter.fenced(hold.agent_id)
        self._main_loop.call_soon_threadsafe(hold.on_lost)

    async def _fail_timed_out(self, ledger: Ledger, hold: Hold) -> None:
        """The event loop did not end a task in time: end it from here, under the same lock."""
        try:
            await ledger.append(
                hold.encoder,
                events.FAILED,
                agent_id=hold.agent_id,
                index=next(hold.indexes),
                time_ns=time.time_ns(),
                members={
                    "tries": hold.tries,
                    "command_seq": hold.command_seq,
                    "error": {
                        "type": "TimeoutError",
                        "message": f"the attempt ran longer than {hold.timeout_s:g} s",
                    },
                    "reason": "timeout",
                },
                expected_seq=hold.fence_seq,
            )
        except LostRaceError:
            _log.info("task %s ended before its timeout was stored", hold.task_id)
        except CasEventsError as error:
            hold.deadline_s = time.monotonic() + STORE_AGAIN_S
            _log.warning("the timeout of task %s is not stored yet: %s", hold.task_id, error)
            return
        else:
            # Whoever gets it next ends the children and passes the slot on; from here that would take too long.
            self._publish(hold.delivery.reply, nak(0) if hold.must_be_settled else ACK)
        self._lose(hold)
