"""The network between runners, clients and server cut, refused, held back and black-holed (promises 1, 2, 3 and 6).

Method: every process talks through a TCP proxy of its own; what happened is read past the proxies.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cas_events import Client
from tests.harness.faults import Load, at_rest, count, fleet, last_for, marks, until_marked
from tests.harness.processes import settings
from tests.harness.proxy import Proxy
from tests.harness.server import NatsServer
from tests.harness.wait import until

LEASE_S = 2.0
# A silence of 10 s leads to a question, which has 5 s to be answered (PROTOCOL section 12, watchdog).
DEAD_FOUND_S = 10.0 + 5.0 + 2.5


@pytest.fixture
def proxies(nats_server: NatsServer) -> Iterator[list[Proxy]]:
    """One for the client and one for each of two runners."""
    port = int(nats_server.url.rpartition(":")[2])
    with Proxy(port) as client, Proxy(port) as first, Proxy(port) as second:
        yield [client, first, second]


@pytest.fixture
async def cas(proxies: list[Proxy], deployment: str) -> AsyncIterator[Client]:
    async with Client(settings=settings(proxies[0].url, deployment)) as client:
        yield client


async def test_cuts_and_refusals_under_load_lose_nothing(
    cas: Client, proxies: list[Proxy], nats_server: NatsServer, deployment: str, tmp_path: Path
) -> None:
    file, load = tmp_path / "marks", Load(cas)
    _, first, second = proxies
    async with fleet(nats_server.url, deployment, first.url, second.url, agents="echo,ticker"):
        for _ in range(count(1, 20)):
            for _ in range(6):
                await load.start("talker", {"file": str(file), "ticks": 100}, follow=True)
                await load.start("ticker", {"ticks": 60}, follow=True)
            for proxy in proxies:
                proxy.cut()
                await last_for(0.2)
            for proxy in proxies:
                proxy.refuse()
                await last_for(0.7)
                proxy.heal()
            first.delay(0.02)
            second.stall()
            await last_for(1.0)
            first.heal()
            second.heal()
        assert await load.complaints(nats_server.url) == []
    assert len(marks(file, "began")) == count(6, 120), "nobody was robbed by a short cut"


@pytest.mark.parametrize("way", ["both ways", "half-open"])
async def test_a_black_hole_that_ends_loses_nothing(
    way: str, cas: Client, proxies: list[Proxy], nats_server: NatsServer, deployment: str
) -> None:
    load = Load(cas)
    _, first, second = proxies
    async with fleet(nats_server.url, deployment, first.url, second.url, agents="echo,ticker"):
        for _ in range(count(1, 5)):
            for _ in range(5):
                await load.start("talker", {"ticks": 60}, follow=True)
            for proxy in (proxies[0], first):
                proxy.black_hole(up=way == "both ways")
            await last_for(1.5 * LEASE_S)
            for proxy in (proxies[0], first):
                proxy.heal()
        assert await load.complaints(nats_server.url) == []


async def test_connections_that_die_in_silence_are_found_and_replaced(
    cas: Client, proxies: list[Proxy], nats_server: NatsServer, deployment: str, tmp_path: Path
) -> None:
    """Every old connection stays a black hole for good; only new ones are served."""
    file, enough, load = tmp_path / "marks", tmp_path / "enough", Load(cas)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(fleet(nats_server.url, deployment, proxies[1].url, agents="echo"))
        task = await load.start(
            "talker", {"file": str(file), "enough": str(enough), "ticks": 10_000}, follow=True
        )
        await until_marked(file, "began", 1)
        accepted = [proxy.accepted for proxy in proxies[:2]]
        for proxy in proxies[:2]:
            proxy.black_hole()
            proxy.heal(keep_dead=True)
        dead_s = time.monotonic()
        await until(
            lambda: proxies[0].accepted > accepted[0] and proxies[1].accepted >= accepted[1] + 2,
            timeout_s=DEAD_FOUND_S,
            what="the client and both connections of the runner are new",
        )
        found_s = time.monotonic() - dead_s
        assert await asyncio.wait_for(cas.execute_task("echo", wait_for_runner_s=5), 10)
        enough.touch()
        history = await at_rest(nats_server.url, deployment)
        assert await load.complaints(nats_server.url) == []
    assert found_s < DEAD_FOUND_S
    assert [r.event.attempt for r in history.lifecycle_of(task.task_id)] == [1, 1], "its one owner kept it"
