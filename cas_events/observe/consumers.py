"""How far the consumers and the streams of a deployment are, asked of the server when somebody looks.

Work consumers are those of commands and timers; the readers of followers and projectors on the event log come and go,
and how far a projector is it says itself. An answer counts for `FRESH_S`; without a new one in time the last one
stays.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import msgspec

from cas_events.errors import CasEventsError
from cas_events.jetstream.answers import ConsumerInfo
from cas_events.jetstream.api import JetStream
from cas_events.observe.bridge import LoopBridge
from cas_events.observe.gauges import Gauges, Row
from cas_events.observe.prometheus import OTHER

_log = logging.getLogger(__name__)

FRESH_S = 1.0
ASK_S = 2.0
CONSUMERS_MAX = 500  # with a label of their own


class _Page(msgspec.Struct, frozen=True):
    total: int = 0
    consumers: list[ConsumerInfo] | None = None


_decode = msgspec.json.Decoder(_Page).decode


class ServerSamples:
    """What the server last said.

    Args:
        js: how to ask.
        bridge: to the loop of ``js``.
        work: the streams whose consumers are looked at.
        logs: the streams whose last sequence is looked at.

    Attributes:
        consumers: as last heard.
        last_seqs: of the ``logs``, as last heard.
    """

    def __init__(
        self, js: JetStream, bridge: LoopBridge, *, work: tuple[str, ...], logs: tuple[str, ...] = ()
    ) -> None:
        self._js = js
        self._bridge = bridge
        self._work = work
        self._logs = logs
        self._asking = threading.Lock()
        self._fresh_until_s = 0.0
        self.consumers: list[ConsumerInfo] = []
        self.last_seqs: dict[str, int] = {}

    def refresh(self) -> None:
        """Ask, unless the last answer is fresh; in a thread that is not the loop's."""
        with self._asking:
            if time.monotonic() < self._fresh_until_s:
                return
            try:
                self._bridge.ask(self._ask, ASK_S)
            except CasEventsError as error:
                _log.debug("consumers not asked for: %s", error)
            self._fresh_until_s = time.monotonic() + FRESH_S

    async def _ask(self) -> None:
        consumers = [info for stream in self._work for info in await self._list(stream)]
        for stream in self._logs:
            self.last_seqs[stream] = (await self._js.stream_info(stream, timeout_s=ASK_S)).state.last_seq
        self.consumers = consumers

    async def _list(self, stream: str) -> list[ConsumerInfo]:
        found: list[ConsumerInfo] = []
        while True:
            body = {"offset": len(found)}
            page = _decode(await self._js.call(f"CONSUMER.LIST.{stream}", body, timeout_s=ASK_S))
            found += page.consumers or []
            if not page.consumers or len(found) >= page.total:
                return found

    def add_to(self, gauges: Gauges) -> None:
        """Show them."""
        labels = ("stream", "consumer")
        gauges.add(
            "cas_consumer_pending_messages",
            "Messages that a work consumer has not delivered yet: what waits.",
            labels,
            lambda: self._rows("num_pending"),
        )
        gauges.add(
            "cas_consumer_ack_pending_messages",
            "Messages that a work consumer has delivered and nobody has acknowledged: what runs.",
            labels,
            lambda: self._rows("num_ack_pending"),
        )
        gauges.add(
            "cas_consumer_redelivered_messages",
            "Unacknowledged messages of a work consumer that were delivered more than once.",
            labels,
            lambda: self._rows("num_redelivered"),
        )
        gauges.add(
            "cas_consumer_waiting_pulls",
            "Pull requests that wait at a work consumer: whether anybody asks for work.",
            labels,
            lambda: self._rows("num_waiting"),
        )

    def _rows(self, figure: str) -> Iterator[Row]:
        for number, info in enumerate(self.consumers):
            name = info.name if number < CONSUMERS_MAX else OTHER
            yield (info.stream_name, name), float(getattr(info, figure))
