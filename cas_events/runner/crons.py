"""Due times of recurring schedules: each starts one task, however many runners there are (docs/schedules.md).

The consumer `cron` is shared by all runners, whatever agents they serve. A due time's task has an id that follows from
it, so a delivery that comes again, or that the server makes twice, starts nothing twice. It is acknowledged when the
execute and the next timer are stored, in this order: who dies in between has the delivery come to another runner.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from cas_events import submit
from cas_events.errors import CasEventsError, DuplicateTaskError, InvalidScheduleError, QueueFullError
from cas_events.jetstream.queue import Delivery
from cas_events.runner import agent_events
from cas_events.runner.holds import Offer
from cas_events.runner.workplace import Workplace
from cas_events.schedules import Schedules
from cas_events.schedules.control import Stored
from cas_events.schedules.timers import read_timer

_log = logging.getLogger(__name__)

MEND_EVERY_S = 60.0
LOOK_AGAIN_S = 60.0  # at a schedule whose zone is not known here; another runner may look earlier
EARLY_MAX = timedelta(seconds=1)  # the server's clock made the message; times in it are whole seconds


class Crons:
    """Starts the tasks of recurring schedules."""

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._schedules = Schedules(place.js, place.names, place.blobs, source=place.source)

    async def handle(self, offer: Offer) -> None:
        """Deal with one due message, whoever wrote it."""
        delivery = offer.delivery
        name = self._place.names.parse_cron_due(delivery.subject)
        stored = None if name is None else await self._schedules.find(name)
        if name is None or stored is None:
            _log.info("%s: there is no such schedule, or no more", delivery.subject)
            self._place.ack(delivery)
            return
        try:
            await self._fire(name, stored, delivery)
        except InvalidScheduleError as error:
            _log.warning("schedule %s is left to another runner: %s", name, error)
            self._place.nak(delivery, LOOK_AGAIN_S)
            return
        self._place.ack(delivery)

    async def _fire(self, name: str, stored: Stored, delivery: Delivery) -> None:
        """Start the task that is due, if one is, and make sure of the next one."""
        timer = read_timer(delivery.data)
        if timer is None:
            await self._ignore(stored, delivery, "this is no timer of a schedule")
            return
        definition, now = stored.definition, datetime.now(UTC)
        if timer.schedule != definition.id or definition.paused:
            return  # Of a schedule that had the name before, or that stands still since.
        if timer.due <= definition.since:
            await self._schedules.arm(name, stored, after=now, fired=timer.due)
            return
        stored_at = datetime.fromtimestamp(delivery.time_ns / 1e9, UTC)
        just_before = timer.due - timedelta(microseconds=1)
        if timer.due > stored_at + EARLY_MAX or definition.next_after(just_before) != timer.due:
            await self._ignore(stored, delivery, "the schedule is not due then")
            await self._schedules.arm(name, stored, after=now)
            return
        if definition.starts(timer.due, now):
            await self._start(name, stored, timer.due)
        else:
            _log.warning("schedule %s: the run of %s was missed, and is skipped", name, timer.due)
        # What else has been due until now is one with this run: it is not made up for one by one.
        await self._schedules.arm(name, stored, after=max(timer.due, now), fired=timer.due)

    async def _start(self, name: str, stored: Stored, due: datetime) -> None:
        """Store the execute of a due time; a second one is refused by the server."""
        place, definition = self._place, stored.definition
        members = definition.members(name, due)
        input_ = members.pop("input", {})
        command = submit.prepare(definition.agent, input_, {**members, "task_id": definition.task_id(due)})  # type: ignore[typeddict-item] # `prepare` refuses what is no option
        await place.session.is_served(definition.agent)  # Its runners say how many tasks may wait.
        try:
            await place.session.require_room(definition.agent)
            await submit.send(place.js, place.names, place.blobs, command)
        except QueueFullError as error:
            _log.warning("schedule %s: the run of %s is left out: %s", name, due, error)
        except DuplicateTaskError:
            _log.debug("schedule %s: the run of %s has begun before", name, due)

    async def _ignore(self, stored: Stored, delivery: Delivery, reason: str) -> None:
        """Leave a trace of a message that is none of the server's making."""
        await agent_events.ignore(
            self._place.js,
            self._place.names,
            agent_id=stored.definition.agent,
            source=self._place.source,
            command=(delivery.seq, delivery.subject, delivery.data),
            reason=reason,
            stream="CAS_TIMERS",
        )

    async def mend(self) -> None:
        """Now and then, give schedules that lack one their timer; runs until it is cancelled."""
        while True:
            try:
                await self._schedules.mend()
            except CasEventsError as error:  # The server is away, for example: there will be another time.
                _log.info("schedules were not looked after: %s", error)
            except Exception:  # A fault of ours must not take the runner with it.
                _log.exception("schedules were not looked after")
            await asyncio.sleep(MEND_EVERY_S)
