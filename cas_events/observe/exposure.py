"""A process's metrics port, put together: registry, gauges, the watch over the loop, health and the HTTP server.

The runner and the projector add what is theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

from cas_events.observe.bridge import LoopBridge, LoopWatch
from cas_events.observe.endpoint import Endpoint
from cas_events.observe.gauges import Gauges
from cas_events.observe.health import Health
from cas_events.observe.meter import Meter
from cas_events.observe.prometheus import (
    AgentLabels,
    ProjectorMeter,
    RunnerMeter,
    exposition,
    new_registry,
)
from cas_events.settings import MetricsAddress

Counts = Callable[[Any, AgentLabels], Meter]


class Exposure:
    """What of one process is served while the block lasts.

    Args:
        address: where.
        stall_s: how late the event loop may be before `/healthz` says so.
        counts: makes the meter of this kind of process.

    Attributes:
        agents: whose labels are bounded.
        meter: counts.
        gauges: what is read when somebody looks.
        health: its ``check`` is what ready means.
        bridge: from the threads that answer to the loop.
    """

    def __init__(self, address: MetricsAddress, *, stall_s: float, counts: Counts) -> None:
        self._address = address
        self.registry = new_registry()
        self.agents = AgentLabels()
        self.meter = counts(self.registry, self.agents)
        self.gauges = Gauges(self.registry)
        self._watch = LoopWatch(self.meter)
        self.bridge = LoopBridge(asyncio.get_running_loop())
        self.health = Health(self._watch, self.bridge, stall_s=stall_s)
        self.gauges.add(
            "cas_event_loop_stalled_seconds",
            "How late the event loop is at this moment.",
            (),
            lambda: [((), self._watch.stalled_s)],
        )
        self._watching: asyncio.Task[None] | None = None
        self._endpoint: Endpoint | None = None

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            MetricsAddressError: the address is in use, or is none of this machine.
        """
        self._endpoint = Endpoint(self._address, exposition(self.registry), self.health)
        self._watching = asyncio.get_running_loop().create_task(self._watch.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.bridge.close()
        if self._watching is not None:
            self._watching.cancel()
        if self._endpoint is not None:
            await self._endpoint.close()

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._endpoint is not None
        return self._endpoint.url


def runner_exposure(address: MetricsAddress, *, stall_s: float) -> Exposure:
    """What of a runner is served."""
    return Exposure(address, stall_s=stall_s, counts=RunnerMeter)


def projector_exposure(address: MetricsAddress, *, stall_s: float) -> Exposure:
    """What of a projector is served."""
    return Exposure(address, stall_s=stall_s, counts=ProjectorMeter)
