"""The client's methods for schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack, cast

from cas_events.agent_standing import known_standing
from cas_events.domain.tokens import require_token
from cas_events.schedules import Schedule, ScheduleOptions, Schedules
from cas_events.schedules.control import PauseScheduleAnswer, ResumeScheduleAnswer, define
from cas_events.schedules.definitions import MISSED_AFTER_S, Missed
from cas_events.session import Session
from cas_events.submit import TaskOptions


class ScheduleMethods:
    """What `Client` does with schedules."""

    _source: str

    @property
    def _session(self) -> Session:
        raise NotImplementedError

    @property
    def _schedules(self) -> Schedules:
        session = self._session
        return Schedules(session.js, session.names, session.blobs, source=self._source)

    async def create_schedule(
        self,
        name: str,
        agent_id: str,
        input: Mapping[str, Any] | None,
        cron: str,
        time_zone: str = "UTC",
        *,
        missed: Missed = "fire_once",
        missed_after_s: float = MISSED_AFTER_S,
        requested_by: str = "",
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Start a task whenever a cron expression says; durable once this returns, and no process of ours need live.

        Each task's id follows from the schedule and the due second, so that a due time starts one task, however many
        runners there are. Its metadata has ``schedule`` (the name) and ``due``. Asking again for the same is no error.

        Args:
            name: its name, a subject token.
            agent_id: the agent.
            input: of each task, a JSON object.
            cron: five fields, or six with seconds in front, or ``@hourly`` to ``@yearly``; see `domain.cron` for what
                that means where the clocks change.
            time_zone: by whose clock, an IANA name such as ``Europe/Berlin``.
            missed: when no server or no runner was there in time, whatever was due meanwhile is made up for by one
                task (``fire_once``) or by none (``skip``).
            missed_after_s: how late a run counts as missed, in seconds, from 1 on.
            requested_by: who asks, for the history.
            options: of each task, see `ScheduleOptions`.

        Raises:
            InvalidScheduleError, InvalidCommandError, InvalidNameError, NotJsonError, PayloadTooLargeError: it cannot
                be made; the error names the argument, and nothing was stored.
            ScheduleExistsError: another one has the name.
            UnknownAgentError: no runner has ever served the agent.
        """
        terms = {
            "cron": cron,
            "time_zone": time_zone,
            "missed": missed,
            "missed_after_s": missed_after_s,
        }
        unknown = options.keys() - ScheduleOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"a schedule has no option {min(unknown)!r}")
        require_token("schedule", name)
        definition = define(
            agent_id, input, terms=terms, options=cast(TaskOptions, options), requested_by=requested_by
        )
        await known_standing(self._session.js, self._session.names, agent_id)
        return await self._schedules.create(name, definition)

    async def pause_schedule(self, name: str, *, requested_by: str = "") -> PauseScheduleAnswer:
        """Let a schedule stand still until it is resumed. What is due meanwhile is not made up for.

        Returns:
            ``paused`` or ``already_paused``.

        Raises:
            UnknownScheduleError: there is none of the name.
            InvalidNameError: the name is no token.
        """
        return await self._schedules.pause(name, requested_by)

    async def resume_schedule(self, name: str, *, requested_by: str = "") -> ResumeScheduleAnswer:
        """Let a schedule go on with its next due time. Errors as for `pause_schedule`.

        Returns:
            ``resumed`` or ``not_paused``.
        """
        return await self._schedules.resume(name, requested_by)

    async def cancel_schedule(self, name: str, *, requested_by: str = "") -> None:
        """End a schedule for good; its tasks stay, its name is free. Errors as for `pause_schedule`."""
        await self._schedules.cancel(name, requested_by)

    async def list_schedules(self) -> list[Schedule]:
        """Every schedule, by name, paused ones too."""
        return await self._schedules.shown()
