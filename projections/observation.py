"""A projector process as operators see it: its metrics port, or none.

How far the tables are behind the log, what was submitted (the commands that they take in), and how far every work
consumer of the deployment is, also of agents that no runner serves any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

from cas_events.errors import NotReadyError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import StoredMessage
from cas_events.observe.extra import require_metrics
from cas_events.settings import MetricsAddress
from cas_events.wire.subjects import Names

if TYPE_CHECKING:
    from cas_events.observe.consumers import ServerSamples
    from cas_events.observe.exposure import Exposure
    from cas_events.observe.gauges import Gauges, Row
    from projections.keeper import Keeper

STALL_S = 60.0  # Nothing of a projector's keeps its loop; queries and transactions have threads of their own.
_EXECUTE_TOKEN = 2


class Observation:
    """What of a projector is served while the block lasts.

    Args:
        address: where; None for nowhere.
    """

    def __init__(self, address: MetricsAddress | None) -> None:
        self._address = address
        self._stack = AsyncExitStack()
        self._exposure: Exposure | None = None

    async def __aenter__(self) -> Self:
        """Listen; until `watch` the process is starting.

        Raises:
            MetricsAddressError: the address is in use, or is none of this machine.
            ObserveExtraMissingError: the extra ``observability`` is not installed.
        """
        if self._address is not None:
            require_metrics()
            from cas_events.observe.exposure import projector_exposure  # noqa: PLC0415 - an optional extra

            exposure = projector_exposure(self._address, stall_s=STALL_S)
            self._exposure = await self._stack.enter_async_context(exposure)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def applied(self, commands: Sequence[StoredMessage]) -> None:
        """The live tables hold these commands now."""
        if self._exposure is None:
            return
        for command in commands:
            kind, *ids = command.subject.split(".")[_EXECUTE_TOKEN:]
            if kind == "execute":
                self._exposure.meter.submitted(ids[0])

    def watch(self, connection: Connection, names: Names, keeper: Keeper) -> None:
        """The projector runs: show how far it is, and try what it needs when somebody asks whether it is ready."""
        if self._exposure is None:
            return
        from cas_events.observe.consumers import ServerSamples  # noqa: PLC0415 - an optional extra

        exposure, js = self._exposure, JetStream(connection)
        samples = ServerSamples(
            js,
            exposure.bridge,
            work=(names.commands, names.timers),
            logs=(names.commands, names.events),
        )
        samples.add_to(exposure.gauges)
        exposure.gauges.before = samples.refresh
        Rows(names, keeper, samples).add_to(exposure.gauges)
        exposure.health.check = lambda: _require_ready(connection, names, keeper)


_AT_WORK = frozenset({"building", "swapping"})


async def _require_ready(connection: Connection, names: Names, keeper: Keeper) -> None:
    """Raise what keeps the projector from projecting and answering, if anything does."""
    from cas_events.observe.health import round_trip  # noqa: PLC0415 - an optional extra

    if not connection.is_connected:
        raise NotReadyError("the connection to the NATS server is down")
    await keeper.desk.run("SELECT 1")
    await round_trip(JetStream(connection), names, "cas/projector")


class Rows:
    """Reads the gauges of a projector.

    Args:
        names: of the deployment.
        keeper: of the tables.
        samples: what the server last said.
    """

    def __init__(self, names: Names, keeper: Keeper, samples: ServerSamples) -> None:
        self._names = names
        self._keeper = keeper
        self._samples = samples

    def add_to(self, gauges: Gauges) -> None:
        """Show them."""
        gauges.add(
            "cas_projection_position",
            "Sequence up to which the live tables hold a stream.",
            ("stream",),
            self.positions,
        )
        gauges.add(
            "cas_projection_lag_messages",
            "Messages of a stream that the live tables do not hold yet.",
            ("stream",),
            self.lags,
        )
        gauges.add(
            "cas_projection_rebuilding",
            "Whether the tables are being made anew.",
            (),
            lambda: [((), float(self._keeper.progress.state in _AT_WORK))],
        )

    def positions(self) -> Iterator[Row]:
        """Where the live tables are."""
        positions = self._keeper.live_positions
        if positions is not None:
            yield (self._names.commands,), float(positions.commands)
            yield (self._names.events,), float(positions.events)

    def lags(self) -> Iterator[Row]:
        """How far that is behind what the server last said."""
        for (stream,), position in self.positions():
            last_seq = self._samples.last_seqs.get(stream)
            if last_seq is not None:
                yield (stream,), max(0.0, last_seq - position)
