"""While a cluster elects a leader: what its servers answer is no refusal, and what fails then is tried again."""

from __future__ import annotations

import asyncio

import pytest

from cas_events import Client, live
from cas_events.errors import StreamUnavailableError
from cas_events.jetstream.answers import ApiError, refusal
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.topology import ensure_streams
from tests.harness.processes import settings
from tests.harness.server import NatsServer
from tests.harness.wait import until


@pytest.mark.parametrize("err_code", [10007, 10008, 10009])
def test_no_leader_now_is_no_refusal(err_code: int) -> None:
    error = refusal(ApiError(503, err_code, "JetStream system temporarily unavailable"))
    assert isinstance(error, StreamUnavailableError)
    assert "temporarily unavailable" in str(error)


async def test_a_waiter_outlives_looks_that_fail(
    nats_server: NatsServer, js: JetStream, deployment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks fail while the server is away; whoever waits must still be asked to look afterwards, again and again."""
    monkeypatch.setattr(live, "SWEEP_S", 0.1)
    await ensure_streams(js, deployment)
    async with Client(settings=settings(nats_server.url, deployment)) as cas:
        session = cas._session
        looks: list[float] = []
        with session.waiter("nobody", "t") as waiter:
            look = waiter.look

            async def counted() -> None:
                looks.append(asyncio.get_running_loop().time())
                await look()

            monkeypatch.setattr(waiter, "look", counted)
            await until(lambda: len(looks) > 1, what="it is asked to look")
            await asyncio.to_thread(nats_server.kill)
            seen = len(looks)
            await until(lambda: len(looks) > seen + 3, what="it is asked to look although looking fails")
            await asyncio.to_thread(nats_server.start)
            await until(lambda: session.connection.is_connected, what="connected again")
            seen = len(looks)
            await until(lambda: len(looks) > seen + 3, what="it is still asked to look")
