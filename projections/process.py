"""The projector as a process: connection, streams, tables and the services that answer, until a signal or an error.

SIGTERM and SIGINT end it after the transaction that runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import AsyncExitStack
from functools import partial

from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.topology import ensure_streams
from cas_events.settings import MetricsAddress, Settings
from cas_events.wire.subjects import Names
from projections.fold import Positions
from projections.keeper import Keeper
from projections.observation import Observation
from projections.queries import Limits
from projections.rebuild_service import rebuild_service
from projections.service import SqlService
from projections.signing import Signing
from projections.signing import signing as sign_meanwhile

log = logging.getLogger(__name__)


async def run(
    settings: Settings,
    *,
    limits: Limits | None = None,
    signing: Signing | None = None,
    metrics: MetricsAddress | None = None,
) -> None:
    """Project and answer until SIGTERM or SIGINT.

    Args:
        settings: of the deployment.
        limits: of each query; the usual ones without it.
        signing: how to sign the log; not at all without it.
        metrics: where to serve metrics and health; where the settings say without it.

    Raises:
        ServerError: the server cannot be reached or its streams are not as they should be.
        ProjectionError: the tables cannot be opened, or projecting cannot go on.
        MetricsAddressError: metrics cannot be served there.
    """
    names = Names(settings.deployment)
    async with AsyncExitStack() as stack:
        observation = await stack.enter_async_context(Observation(metrics or settings.metrics))
        connection = await Connection.open(settings.url(), name=f"{settings.deployment} projector")
        stack.push_async_callback(connection.close)
        await ensure_streams(JetStream(connection), settings.deployment, settings.replicas)
        keeper = Keeper(
            connection,
            names,
            settings.database_path,
            limits=limits,
            say=partial(_say, settings),
            on_applied=observation.applied,
        )
        observation.watch(connection, names, keeper)
        for service in (
            SqlService(connection, names, keeper.desk, keeper.desk),
            rebuild_service(connection, names, keeper),
        ):
            await service.start()
            stack.push_async_callback(service.stop)
        _stop_on_signals(keeper, stack)
        async with sign_meanwhile(connection, names, signing):
            await keeper.run()
        _say(settings, "stopped", keeper.positions)


def _stop_on_signals(keeper: Keeper, stack: AsyncExitStack) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, keeper.stop)
        stack.callback(loop.remove_signal_handler, number)


def _say(settings: Settings, event: str, positions: Positions) -> None:
    """A line of the log, for supervisors and people alike."""
    fields = {
        "pid": os.getpid(),
        "deployment": settings.deployment,
        "database": str(settings.database_path),
        "commands_seq": positions.commands,
        "events_seq": positions.events,
    }
    log.info("projector.%s", event, extra=fields)
