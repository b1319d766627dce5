"""The pulls of a runner process: asked for, handed over and given back on the keeper's thread.

PROTOCOL section 4: at most the free places are asked for, and nothing while the event loop lags, because a command
that was fetched for a blocked runner costs everyone a lease; what still reaches a lagging runner is given back at
once. A delivery that renews a task held here is adopted without troubling the loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from cas_events.errors import NotConnectedError
from cas_events.jetstream.api import ConsumerInfo, JetStream
from cas_events.jetstream.queue import Delivery, PullEnd, WorkQueue, nak
from cas_events.jetstream.topology import ensure_consumer
from cas_events.observe.meter import NO_METER, Meter
from cas_events.runner.holds import Desk, Offer, Source
from cas_events.runner.storage import StorageWatch

_log = logging.getLogger(__name__)

LAG_MAX_S = 0.25
APPETITE_IDLE_MAX = 8
PLACELESS_BATCH = 256
PAUSE_S = 0.25  # after a pull that the server did not serve
SCARCE_EXPIRES_S = 0.1  # a pull that nothing answers gives its place to the next source in line so soon
SCARCE_FOR_S = 2.0


class Intake:
    """Pulls for the sources of a runner, which `pull_from` names.

    Args:
        desk: what is shared with the event loop.
        storage: nothing is asked for while it is tight.
        on_offer: called on ``loop`` with each offered delivery.
        loop: the runner's event loop.
        send: publishes, best effort.
        meter: told of what is delivered once more.

    Attributes:
        is_pulling: cleared when the runner shuts down.
        is_hungry: the free places did not admit all that was wanted; `ask` again when one is freed.
    """

    def __init__(
        self,
        *,
        desk: Desk,
        storage: StorageWatch,
        on_offer: Callable[[Offer], None],
        loop: asyncio.AbstractEventLoop,
        send: Callable[[str, bytes], None],
        meter: Meter = NO_METER,
    ) -> None:
        self._desk = desk
        self._sources: tuple[Source, ...] = ()
        self._js: JetStream | None = None
        self._storage = storage
        self._on_offer = on_offer
        self._main_loop = loop
        self._send = send
        self._meter = meter
        self._arrived: deque[Offer] = deque()
        self._queues: dict[str, WorkQueue] = {}
        self._appetite: dict[str, int] = {}
        self._repairs: dict[str, asyncio.Task[ConsumerInfo]] = {}
        self._ask_at_s: dict[str, float] = {}
        # Whoever found no free place is first in line for the next one: otherwise the idle pulls of the first agents
        # would leave the last ones without any, for good.
        self._line: deque[Source] = deque()
        self._retiring: set[asyncio.Task[None]] = set()
        self._scarce_until_s = 0.0
        self._is_open = False
        self._appetite_min = 1
        self.is_pulling = True
        self.is_hungry = False

    def open(self, js: JetStream) -> None:
        """Pull over this connection, from what `pull_from` names next."""
        self._js = js
        self._sources = ()
        self._line.clear()
        self._queues.clear()
        self._repairs.clear()  # Of an earlier connection, whose keeper failed.
        self._retiring.clear()
        self._is_open = True

    def pull_from(self, sources: Sequence[Source]) -> None:
        """Pull from these and no others; what the server has sent of another one already is given back."""
        assert self._js is not None, "pull_from() before open()"
        wanted = {source.consumer: source for source in sources}
        for name in self._queues.keys() - wanted.keys():
            retired = asyncio.get_running_loop().create_task(self._queues.pop(name).stop())
            self._retiring.add(retired)
            retired.add_done_callback(self._retired)
        tasks = sum(source.kind == "task" for source in sources)
        # All idle agents together, their wakes included, reserve at most a quarter of the places.
        self._appetite_min = max(1, min(APPETITE_IDLE_MAX, self._desk.places // (8 * max(tasks, 1))))
        self._sources = tuple(sources)
        self._line = deque(source for source in sources if source.takes_places)
        self._appetite = dict.fromkeys(wanted, self._appetite_min)
        for name in wanted.keys() - self._queues.keys():
            self._queues[name] = self._open_queue(self._js, wanted[name])

    async def close(self) -> None:
        """Pull no more over this connection and give back what was not taken."""
        self._is_open = False
        await asyncio.gather(*(queue.stop() for queue in self._queues.values()), *self._retiring)
        self.give_back_untaken()

    def ask(self) -> None:
        """Ask for what the free places admit."""
        if not self._takes or self._loop_lags() or self._storage.is_tight:
            return
        for source in self._sources:
            if not source.takes_places:
                self._ask_many(source)
        for _ in range(len(self._line)):
            if not self._ask_one(self._line[0]):
                self._scarce_until_s = time.monotonic() + SCARCE_FOR_S
                return
            self._line.rotate(-1)

    def give_back_untaken(self) -> None:
        """A delivery that a lagging loop does not take goes to another runner."""
        now_s = time.monotonic()
        for key, offer in list(self._desk.offers.items()):
            is_late = now_s - offer.offered_s > LAG_MAX_S
            is_wanted = self._takes and offer.source.consumer in self._queues
            if (is_late or not is_wanted) and self._desk.offers.pop(key, None) is not None:
                self._send(offer.delivery.reply, nak(0))

    @property
    def _takes(self) -> bool:
        return self.is_pulling and self._is_open

    def _open_queue(self, js: JetStream, source: Source) -> WorkQueue:
        return WorkQueue(
            js.connection,
            source.spec.stream,
            source.consumer,
            lambda delivery: self._arrive(source, delivery),
            on_pull_end=lambda end: self._pull_ended(js, source, end),
        )

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._retiring.discard(task)
        if not task.cancelled() and task.exception():
            _log.warning("a queue was not closed in order: %s", task.exception())

    def _loop_lags(self) -> bool:
        return time.monotonic() - self._desk.loop_ticked_s > LAG_MAX_S

    def _arrive(self, source: Source, delivery: Delivery) -> None:
        if delivery.delivered > 1:
            self._meter.redelivered(source.agent_id, source.kind)
        if self._adopt(source, delivery):
            return
        queue = self._queues.get(source.consumer)
        if queue is None or not self._takes or self._loop_lags():
            self._send(delivery.reply, nak(0))
            return
        offer = Offer(source, delivery)
        self._desk.offers[id(offer)] = offer
        self._arrived.append(offer)
        if len(self._arrived) == 1:
            self._main_loop.call_soon_threadsafe(self._hand_over)
        if (
            not self.is_hungry
            and source.agent_id not in self._desk.probing
            and queue.outstanding * 2 <= self._appetite[source.consumer]
        ):
            self._appetite[source.consumer] = min(self._desk.places, self._appetite[source.consumer] * 2)
            self._ask_one(source)

    def _hand_over(self) -> None:
        """On the event loop: offer what has arrived."""
        while self._arrived:
            self._on_offer(self._arrived.popleft())

    def _adopt(self, source: Source, delivery: Delivery) -> bool:
        """Whether it is the governing command of a task held here, delivered once more: it is renewed from now on."""
        if delivery.delivered == 1 or not source.takes_places:
            return False
        hold = self._desk.holds.get(source.task_key(delivery.subject))
        if hold is None or hold.is_lost:
            return False
        if (hold.delivery.stream, hold.delivery.seq) != (delivery.stream, delivery.seq):
            return False
        hold.delivery = delivery
        hold.renew_at_s = 0.0
        return True

    def _ask_many(self, source: Source) -> None:
        if self._queues[source.consumer].outstanding * 2 <= PLACELESS_BATCH:
            self._send_pull(source, PLACELESS_BATCH, expires_s=source.ack_wait_s / 3)

    def _ask_one(self, source: Source) -> bool:
        """Ask for what one source may bring; False if it could use a place and there is none."""
        wanted = self._admitted(source) - self._queues[source.consumer].outstanding
        free = self._desk.free_places - self._reserved()
        if free <= 0:
            self.is_hungry = True
            return wanted <= 0
        if wanted > 0:
            expires_s = SCARCE_EXPIRES_S if self._is_scarce else source.ack_wait_s / 3
            self._send_pull(source, min(wanted, free), expires_s=expires_s)
        return True

    @property
    def _is_scarce(self) -> bool:
        return time.monotonic() < self._scarce_until_s

    def _send_pull(self, source: Source, wanted: int, *, expires_s: float) -> None:
        name = source.consumer
        if time.monotonic() < self._ask_at_s.get(name, 0.0):
            return
        try:
            self._queues[name].ask(wanted, expires_s=expires_s)
        except NotConnectedError:
            self._ask_at_s[name] = time.monotonic() + PAUSE_S

    def _admitted(self, source: Source) -> int:
        """How many of an agent's commands may be on their way: its appetite, or one probe of a half-open breaker.

        While places are scarce an idle source waits on one only.
        """
        if source.agent_id in self._desk.probing:
            return 0 if self._desk.is_busy_with(source.agent_id) else 1
        appetite = self._appetite[source.consumer]
        return 1 if appetite == self._appetite_min and self._is_scarce else appetite

    def _reserved(self) -> int:
        """Places that open pulls may still fill."""
        return sum(
            self._queues[source.consumer].outstanding for source in self._sources if source.takes_places
        )

    def _pull_ended(self, js: JetStream, source: Source, end: PullEnd) -> None:
        """A pull is over: an unfulfilled one lessens the appetite, a missing consumer is made again."""
        name = source.consumer
        if name not in self._queues:
            return
        if end.unfulfilled:
            self._appetite[name] = max(self._appetite_min, self._appetite[name] // 2)
        if end.reason not in {"fulfilled", "expired", "stopped"}:
            self._ask_at_s[name] = time.monotonic() + PAUSE_S
            _log.debug("pull of %s ended: %s %s", name, end.reason, end.detail)
        if end.reason == "no_consumer" and name not in self._repairs and self._takes:
            repair = asyncio.get_running_loop().create_task(ensure_consumer(js, source.spec))
            self._repairs[name] = repair
            repair.add_done_callback(lambda task: self._repaired(name, task))

    def _repaired(self, name: str, task: asyncio.Task[ConsumerInfo]) -> None:
        self._repairs.pop(name, None)
        if not task.cancelled() and task.exception():
            _log.warning("consumer %s does not answer: %s", name, task.exception())
