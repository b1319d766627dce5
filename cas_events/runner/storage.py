"""How full the log is, and how far back it reaches.

PROTOCOL section 4: from 90 % of the stream's or account's storage on, lifecycle events only and no pulling. Section
1: if the log has lost anything, an execute older than its oldest event and without a lifecycle event is `expired`.
"""

from __future__ import annotations

import asyncio
import logging
import time

from cas_events.errors import CasEventsError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.reads import DecidingReads
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

REFRESH_S = 5.0
TIGHT_RATIO = 0.9


class StorageWatch:
    """Looks at the streams every few seconds; read from any thread.

    Args:
        names: of the deployment.
        reads: of commands; told how many replicas there are.

    Attributes:
        is_tight: storage is at 90 % or more.
        first_seq: the oldest sequence that the log still has.
        first_time_ns: when that was stored, nanoseconds since the epoch.
    """

    def __init__(self, names: Names, reads: DecidingReads) -> None:
        self._names = names
        self._reads = reads
        self.is_tight = False
        self.first_seq = 1
        self.first_time_ns = 0
        self._refresh_at_s = 0.0
        self._refreshing: asyncio.Task[None] | None = None

    def refresh_if_due(self, js: JetStream) -> None:
        """Start a look, if the last one is `REFRESH_S` ago."""
        now_s = time.monotonic()
        if now_s < self._refresh_at_s or (self._refreshing is not None and not self._refreshing.done()):
            return
        self._refresh_at_s = now_s + REFRESH_S
        self._refreshing = asyncio.get_running_loop().create_task(self.refresh(js))

    async def refresh(self, js: JetStream) -> None:
        """Look once; a failed look changes nothing."""
        try:
            stream, commands, account = await asyncio.gather(
                js.stream_info(self._names.events), js.stream_info(self._names.commands), js.account_info()
            )
        except CasEventsError as error:
            _log.debug("storage not checked: %s", error)
            return
        self._reads.is_single_copy = commands.config.get("num_replicas", 1) == 1
        self.first_seq = stream.state.first_seq
        self.first_time_ns = stream.state.first_time_ns
        ratio = max(
            _ratio(stream.state.bytes, int(stream.config.get("max_bytes", -1))),
            _ratio(account["storage"], account["limits"]["max_storage"]),
        )
        was_tight, self.is_tight = self.is_tight, ratio >= TIGHT_RATIO
        if self.is_tight and not was_tight:
            _log.warning(
                "storage of %s is at %.0f %%: lifecycle events only, no pulling",
                self._names.events,
                100 * ratio,
            )

    def has_expired(self, command_time_ns: int) -> bool:
        """Whether a command is older than a log that has lost its beginning."""
        return self.first_seq > 1 and command_time_ns < self.first_time_ns


def _ratio(used: int, limit: int) -> float:
    return used / limit if limit > 0 else 0.0
