"""A runner process as operators see it: its metrics port, or none.

Without a port there is nothing but a meter that does nothing, and the libraries are not loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

from cas_events.errors import NotReadyError
from cas_events.jetstream.api import JetStream
from cas_events.observe.extra import require_metrics
from cas_events.observe.meter import NO_METER, Meter
from cas_events.settings import MetricsAddress

if TYPE_CHECKING:
    from cas_events.observe.exposure import Exposure
    from cas_events.observe.gauges import Gauges, Row
    from cas_events.observe.prometheus import AgentLabels
    from cas_events.runner.workplace import Workplace

# As Prometheus wants states: one gauge that can be drawn and compared.
BREAKER_VALUES = {"closed": 0.0, "half_open": 1.0, "open": 2.0}


class Observation:
    """What of a runner is served while the block lasts.

    Args:
        address: where; None for nowhere.
        stall_s: how late the event loop may be before the process counts as dead.

    Attributes:
        meter: what the runner's parts tell.
    """

    def __init__(self, address: MetricsAddress | None, *, stall_s: float) -> None:
        self._address = address
        self._stall_s = stall_s
        self._stack = AsyncExitStack()
        self._exposure: Exposure | None = None
        self.meter: Meter = NO_METER

    async def __aenter__(self) -> Self:
        """Listen; until `watch` the process is starting.

        Raises:
            MetricsAddressError: the address is in use, or is none of this machine.
            ObserveExtraMissingError: the extra ``observability`` is not installed.
        """
        if self._address is not None:
            require_metrics()
            # An optional extra, loaded by whoever has a port.
            from cas_events.observe.exposure import runner_exposure  # noqa: PLC0415

            exposure = runner_exposure(self._address, stall_s=self._stall_s)
            self._exposure = await self._stack.enter_async_context(exposure)
            self.meter = exposure.meter
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def url(self) -> str | None:
        """Where it listens, if it does."""
        return None if self._exposure is None else self._exposure.url

    def watch(self, place: Workplace) -> None:
        """The runner serves: show what it has, and try what it needs when somebody asks whether it is ready."""
        if self._exposure is None:
            return
        from cas_events.observe.consumers import ServerSamples  # noqa: PLC0415 - as above

        exposure, names = self._exposure, place.names
        js = JetStream(place.connection)
        samples = ServerSamples(js, exposure.bridge, work=(names.commands, names.timers))
        samples.add_to(exposure.gauges)
        exposure.gauges.before = samples.refresh
        Rows(place, exposure.agents).add_to(exposure.gauges)
        exposure.health.check = lambda: _require_ready(place, js)


async def _require_ready(place: Workplace, js: JetStream) -> None:
    """Raise what keeps the runner from taking tasks, if anything does."""
    from cas_events.observe.health import round_trip  # noqa: PLC0415 - as above

    if place.is_stopping:
        raise NotReadyError("the runner shuts down")
    if not place.connection.is_connected:
        raise NotReadyError("the connection to the NATS server is down")
    if not place.keeper.is_connected:
        raise NotReadyError("the keeper's connection to the NATS server is down")
    if place.keeper.storage.is_tight:
        raise NotReadyError("the log's storage is almost full: nothing is pulled")
    await round_trip(js, place.names, place.source)


class Rows:
    """Reads the gauges of a workplace.

    Args:
        place: what is looked at.
        agents: whose labels are bounded.
    """

    def __init__(self, place: Workplace, agents: AgentLabels) -> None:
        self._place = place
        self._agents = agents

    def add_to(self, gauges: Gauges) -> None:
        """Show them."""
        add, desk = gauges.add, self._place.desk
        add("cas_tasks_running", "Tasks that this process runs.", ("agent",), self._running)
        add("cas_places", "Tasks that this process takes at once.", (), lambda: [((), float(desk.places))])
        add(
            "cas_places_free",
            "How many more tasks this process would take.",
            (),
            lambda: [((), float(max(0, desk.free_places)))],
        )
        add(
            "cas_breaker_state",
            "The agent's circuit breaker: 0 closed, 1 half open, 2 open.",
            ("agent",),
            self._breakers,
        )
        add(
            "cas_agent_paused",
            "Whether an operator has stopped the agent's intake.",
            ("agent",),
            self._paused,
        )
        add(
            "cas_telemetry_pending_acks",
            "Events that are published and not acknowledged yet.",
            (),
            lambda: [((), float(self._place.publisher.in_flight))],
        )
        add(
            "cas_connected",
            "Whether the connection to the NATS server is up.",
            ("link",),
            lambda: [
                (("loop",), float(self._place.connection.is_connected)),
                (("keeper",), float(self._place.keeper.is_connected)),
            ],
        )
        add(
            "cas_storage_tight",
            "Whether the log is so full that nothing but lifecycle events is stored.",
            (),
            lambda: [((), float(self._place.keeper.storage.is_tight))],
        )

    def _running(self) -> Iterator[Row]:
        labels = self._agents
        for agent_id in list(self._place.agents):  # Agents come and go on another thread.
            yield (labels[agent_id],), 0.0
        for hold in list(self._place.desk.holds.values()):
            if not hold.is_lost:
                yield (labels[hold.agent_id],), 1.0

    def _breakers(self) -> Iterator[Row]:
        for agent_id, phase, _ in self._place.breakers.phases():
            if self._agents[agent_id] == agent_id:  # Of all others together there is no state.
                yield (agent_id,), BREAKER_VALUES[phase]

    def _paused(self) -> Iterator[Row]:
        for agent_id, _, is_paused in self._place.breakers.phases():
            yield (self._agents[agent_id],), float(is_paused)
