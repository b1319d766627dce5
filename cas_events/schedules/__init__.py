"""Recurring tasks: definitions in the log, and one schedule of the server's for each next due time (docs/schedules.md).

A definition is the state ``cas.evt.state.cron.<name>``: every change of it is an event with its time and its author, and
revisions keep two authors apart. What makes it fire is a message schedule (``@at``) on ``cas.timer.cron.<name>``, which
the server turns into a message on ``cas.due.cron.<name>`` when its time has come. Whichever runner gets that stores the
execute, whose id follows from the schedule and the due second, and the next schedule, and acknowledges only then.

The invariant is that an active schedule has a message on one of the two subjects. What dies between two steps is made up
for by the redelivery, by the next runner that starts, and by every runner now and then (`Schedules.mend`).
"""

from __future__ import annotations

from cas_events.schedules.control import Schedules
from cas_events.schedules.definitions import Schedule, ScheduleOptions

__all__ = ["Schedule", "ScheduleOptions", "Schedules"]
