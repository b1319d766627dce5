"""The network between runners, clients and server cut, refused, held back and black-holed (promises 1, 2, 3 and 6).

Method: every process talks through a TCP proxy of its own; what happened is read past the proxies.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from cas_events import Client
from cas_events.jetstream.connection import Connection
from cas_events.settings import Settings
from tests.harness.faults import Fleet, Load, at_rest, last_for, marks, until_marked
from tests.harness.patience import IS_TORTURE, count, promised
from tests.harness.proxy import Proxy
from tests.harness.server import NatsServer
from tests.harness.wait import until

LEASE_S = 2.0
FAULTS_S = 3 * 0.2 + 3 * 0.7 + 1.0  # of one round of cuts, refusals and a stall


async def test_cuts_and_refusals_under_load_lose_nothing(
    fleet: Fleet, fleet_client: Client, proxies: list[Proxy], tmp_path: Path, record_property
) -> None:
    file, load = tmp_path / "marks", Load(fleet_client)
    client, first, second = proxies
    rounds = count(1, 20)
    record_property("cases", f"{rounds} rounds of cuts and refusals")
    were_short = True
    for _ in range(rounds):
        for _ in range(6):
            await load.start("talker", {"file": str(file), "ticks": 100}, follow=True)
            await load.start("ticker", {"ticks": 60}, follow=True)
        began_s = time.monotonic()
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
        were_short = were_short and time.monotonic() - began_s < FAULTS_S + 0.3
        client.cut()
    assert await load.complaints(fleet.url) == []
    if were_short:  # On a machine that stands still meanwhile, a cut is as long as a lease.
        assert len(marks(file, "began")) == count(6, 120), "nobody was robbed by a short cut"


@pytest.mark.parametrize("client_hears", [True, False])
async def test_a_black_hole_that_ends_loses_nothing(
    client_hears: bool, fleet: Fleet, fleet_client: Client, proxies: list[Proxy], record_property
) -> None:
    """For one side it swallows both ways, for the other only one: half-open."""
    load = Load(fleet_client)
    client, first, _ = proxies
    holes = count(1, 5)
    record_property("cases", f"{holes} black holes")
    for _ in range(holes):
        for _ in range(5):
            await load.start("talker", {"ticks": 60}, follow=True)
        client.black_hole(down=not client_hears)
        first.black_hole(up=client_hears)
        await last_for(1.25 * LEASE_S)
        client.heal()
        first.heal()
    assert await load.complaints(fleet.url) == []


@pytest.fixture
def ping_interval_s(monkeypatch: pytest.MonkeyPatch) -> float:
    """The real setting in torture; in CI a shorter one, for this process and those that it starts."""
    interval_s = 10.0 if IS_TORTURE else 2.0
    monkeypatch.setenv("PING_INTERVAL_S", str(interval_s))
    monkeypatch.setitem(Connection.open.__func__.__kwdefaults__, "ping_interval_s", interval_s)  # type: ignore[attr-defined]
    return interval_s


async def test_connections_that_die_in_silence_are_found_and_replaced(
    ping_interval_s: float, nats_server: NatsServer, deployment: str, tmp_path: Path
) -> None:
    """Every old connection stays a black hole for good; only new ones are served."""
    file, enough = tmp_path / "marks", tmp_path / "enough"
    port = int(nats_server.url.rpartition(":")[2])
    with (
        Proxy(port) as near,
        Proxy(port) as far,
        Fleet(nats_server.url, deployment, [far.url]) as fleet,
    ):
        await fleet.until_up()
        async with Client(settings=Settings(nats_url=near.url, deployment=deployment)) as cas:
            load = Load(cas)
            body = {"file": str(file), "enough": str(enough), "ticks": 100_000}
            task = await load.start("talker", body, follow=True)
            await until_marked(file, "began", 1)
            accepted = near.accepted, far.accepted
            for proxy in (near, far):
                proxy.black_hole()
                proxy.heal(keep_dead=True)
            # The silence that leads to a question, half of it for the answer, a tick, and the way back.
            await until(
                lambda: near.accepted > accepted[0] and far.accepted >= accepted[1] + 2,
                timeout_s=1.5 * ping_interval_s + 2.5,
                what="the client's and both of the runner's connections are new",
            )
            echo = cas.execute_task("echo", wait_for_runner_s=promised(5.0))
            result = await asyncio.wait_for(echo, promised(10.0))
            assert result.status == "completed"
            enough.touch()
            history = await at_rest(nats_server.url, deployment)
            assert await load.complaints(nats_server.url) == []
    assert [r.event.attempt for r in history.lifecycle_of(task.task_id)] == [1, 1], "its one owner kept it"
