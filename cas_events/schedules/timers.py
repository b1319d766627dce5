"""The server's schedule for a next due time: stored, found and taken away again (ADR-51).

One subject holds one: a second one replaces it. Each write expects what was read before, so that whoever is late does
not put the clock back.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from cas_events.domain.commands import Token
from cas_events.errors import ConnectionLostError, NotConnectedError, WrongLastSequenceError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import build_header
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.patience import patiently
from cas_events.schedules.definitions import Definition, rfc3339
from cas_events.submit import PATIENCE_S
from cas_events.wire.subjects import Names

_UNSETTLED = (WrongLastSequenceError, ConnectionLostError, NotConnectedError)


class Timer(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a schedule's timer, and of the message that it fires.

    Attributes:
        schedule: the id of the schedule.
        due: when it is due.
        revision: of the definition that it was stored for.
    """

    schedule: Token
    due: datetime
    revision: int = 0


_decode = msgspec.json.Decoder(Timer).decode


def read_timer(data: bytes) -> Timer | None:
    """Read a timer's body; None if it is none of ours."""
    try:
        timer = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return timer if timer.due.tzinfo is not None else None


class Timers:
    """The timers of a deployment's schedules.

    Args:
        js: of a client or a runner.
        names: of the deployment.
    """

    def __init__(self, js: JetStream, names: Names) -> None:
        self._js = js
        self._names = names

    async def pending(self, name: str) -> StoredMessage | None:
        """The timer of a schedule, as the leader has it."""
        return await self._js.last_message(self._names.timers, self._names.schedule(name))

    async def arm(
        self,
        name: str,
        definition: Definition,
        revision: int,
        due: datetime,
        *,
        fired: datetime | None = None,
    ) -> datetime:
        """Make sure that a schedule has a timer, and return when that is due: one that is there already stays.

        But for one that has ``fired``: the server takes that away a moment after it has stored what it fires (tried).
        """

        async def once() -> datetime:
            stored = await self.pending(name)
            timer = None if stored is None else read_timer(stored.data)
            if timer is not None and timer.schedule == definition.id and (fired is None or timer.due > fired):
                return timer.due
            await self._js.append(
                self._names.schedule(name),
                msgspec.json.encode({"schedule": definition.id, "due": rfc3339(due), "revision": revision}),
                header=build_header(
                    {
                        "Nats-Schedule": f"@at {rfc3339(due)}",
                        "Nats-Schedule-Target": self._names.cron_due(name),
                    }
                ),
                expected_last_seq=0 if stored is None else stored.seq,
            )
            return due

        return await patiently(once, errors=_UNSETTLED, give_up_s=PATIENCE_S)

    async def disarm(self, name: str, revision: int) -> None:
        """Take away a timer that was stored for an earlier revision of its schedule."""

        async def once() -> None:
            stored = await self.pending(name)
            timer = None if stored is None else read_timer(stored.data)
            if stored is None or (timer is not None and timer.revision >= revision):
                return
            await self._js.call(
                f"STREAM.MSG.DELETE.{self._names.timers}", {"seq": stored.seq, "no_erase": True}
            )

        # A timer that stays fires for a schedule that stands still, or is gone: that is found out then.
        await patiently(once, give_up_s=PATIENCE_S)
