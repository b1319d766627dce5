"""One fleet of two runners for the tests of a module, each process behind a proxy of its own.

A runner takes seconds to start and its tests are about something else; whoever kills one puts another in its place.
"""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from cas_events import Client
from tests.harness.faults import Fleet
from tests.harness.processes import settings
from tests.harness.proxy import Proxy
from tests.harness.server import NatsServer


@pytest.fixture(scope="module")
def proxies(nats_server: NatsServer) -> Iterator[list[Proxy]]:
    """One for the client, and one for each of two runners."""
    port = int(nats_server.url.rpartition(":")[2])
    with Proxy(port) as client, Proxy(port) as first, Proxy(port) as second:
        yield [client, first, second]


@pytest.fixture(scope="module")
def fleet(nats_server: NatsServer, proxies: list[Proxy]) -> Iterator[Fleet]:
    """Two runners that serve already."""
    deployment = f"t{uuid.uuid4().hex[:12]}"
    with Fleet(nats_server.url, deployment, [proxy.url for proxy in proxies[1:]]) as fleet:
        asyncio.run(fleet.until_up())
        yield fleet


@pytest.fixture
async def fleet_client(fleet: Fleet, proxies: list[Proxy]) -> AsyncIterator[Client]:
    """A client of the fleet, behind its own proxy; what a failed test leaves broken is mended for the next one."""
    async with Client(settings=settings(proxies[0].url, fleet.deployment)) as client:
        yield client
    for proxy in proxies:
        await asyncio.to_thread(proxy.heal)
    dead = [place for place, runner in enumerate(fleet.runners) if runner.is_dead()]
    for runner in fleet.runners:
        if not runner.is_dead():
            runner.send(signal.SIGCONT)
    for place in dead:
        await asyncio.to_thread(fleet.replace, place)
    if dead:
        await fleet.until_up()
