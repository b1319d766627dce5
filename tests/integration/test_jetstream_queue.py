"""The work queue: every pull ends with a reason, and what was delivered is handed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cas_events.errors import NotConnectedError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.queue import ACK, TERM, WPI, Delivery, PullEnd, WorkQueue, nak
from cas_events.jetstream.topology import agent_consumer, ensure_consumer, ensure_streams
from cas_events.wire.subjects import Names
from tests.harness.server import NatsServer
from tests.harness.wait import until, until_async

LEASE_S = 2.0


class Intake:
    """A queue and what came out of it."""

    def __init__(self, js: JetStream, names: Names) -> None:
        self.js = js
        self.names = names
        self.spec = agent_consumer(names.deployment, "a", LEASE_S)
        self.deliveries: list[Delivery] = []
        self.ends: list[PullEnd] = []
        self.queue = WorkQueue(
            js.connection,
            self.spec.stream,
            self.spec.name,
            self.deliveries.append,
            on_pull_end=self.ends.append,
        )

    async def submit(self, *tasks: str) -> None:
        for task in tasks:
            await self.js.append(self.names.execute("a", task), task.encode())

    def answer(self, delivery: Delivery, payload: bytes) -> None:
        self.js.connection.publish(delivery.reply, payload)


@pytest.fixture(params=["fast", "stock"])
async def intake(request: pytest.FixtureRequest, nats_url: str, deployment: str) -> AsyncIterator[Intake]:
    fast = request.param == "fast"
    async with await Connection.open(nats_url, name="test", fast=fast, ping_interval_s=60) as connection:
        js = JetStream(connection)
        await ensure_streams(js, deployment)
        intake = Intake(js, Names(deployment))
        await ensure_consumer(js, intake.spec)
        yield intake
        await intake.queue.stop()


async def test_pull_ends_when_it_is_fulfilled(intake: Intake) -> None:
    await intake.submit("t1", "t2", "t3")
    intake.queue.ask(2, expires_s=30)
    assert intake.queue.outstanding == 2
    await until(lambda: intake.ends)
    assert intake.ends == [PullEnd(2, 0, "fulfilled")]
    assert [delivery.data for delivery in intake.deliveries] == [b"t1", b"t2"]
    assert intake.queue.outstanding == 0
    first = intake.deliveries[0]
    assert (first.stream, first.consumer, first.delivered) == (intake.spec.stream, "agent-a", 1)
    assert (first.seq, first.subject) == (1, intake.names.execute("a", "t1"))
    assert first.pending in (1, 2), "the server counts what was stored a moment ago a moment later"


async def test_pull_that_expires_says_how_much_is_missing(intake: Intake) -> None:
    await intake.submit("t1")
    intake.queue.ask(5, expires_s=0.3)
    await until(lambda: intake.ends)
    assert [(end.asked, end.unfulfilled, end.reason) for end in intake.ends] == [(5, 4, "expired")]
    assert intake.queue.outstanding == 0


async def test_waiting_pull_delivers_what_comes(intake: Intake) -> None:
    intake.queue.ask(10, expires_s=30)
    await intake.submit("t1", "t2")
    await until(lambda: len(intake.deliveries) == 2)
    assert intake.queue.outstanding == 8


async def test_several_pulls_are_counted_apart(intake: Intake) -> None:
    intake.queue.ask(1, expires_s=30)
    intake.queue.ask(2, expires_s=0.3)
    assert intake.queue.outstanding == 3
    await until(lambda: intake.ends)
    assert intake.queue.outstanding == 1
    await intake.submit("t1")
    await until(lambda: len(intake.ends) == 2)
    assert intake.ends[1] == PullEnd(1, 0, "fulfilled")


async def test_acks_naks_and_renewals_do_what_they_say(intake: Intake) -> None:
    await intake.submit("acked", "given-back", "ended", "renewed")
    intake.queue.ask(100, expires_s=30)
    await until(lambda: len(intake.deliveries) == 4)
    acked, given_back, ended, renewed = intake.deliveries
    intake.answer(acked, ACK)
    intake.answer(ended, TERM)
    intake.answer(given_back, nak(0.05))
    again = await until(lambda: intake.deliveries[4:])
    assert (again[0].seq, again[0].delivered) == (given_back.seq, 2)
    intake.answer(again[0], ACK)
    for _ in range(6):  # One and a half leases long, renewed at a quarter.
        intake.answer(renewed, WPI)
        await until_async(lambda: _after(LEASE_S / 4))
    assert len(intake.deliveries) == 5
    assert (await intake.js.consumer_info(intake.spec.stream, intake.spec.name)).num_ack_pending == 1
    await until(lambda: len(intake.deliveries) == 6, what="without renewal it comes again")
    assert intake.deliveries[5].seq == renewed.seq


async def _after(delay_s: float) -> bool:
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=delay_s)
    return True


async def test_deleted_consumer_is_reported_and_can_be_made_again(intake: Intake) -> None:
    intake.queue.ask(3, expires_s=30)
    await intake.js.connection.flush()
    await intake.js.delete_consumer(intake.spec.stream, intake.spec.name)
    await until(lambda: intake.ends)
    intake.queue.ask(4, expires_s=30)
    await until(lambda: len(intake.ends) == 2)
    assert [(end.unfulfilled, end.reason) for end in intake.ends] == [(3, "no_consumer"), (4, "no_consumer")]
    await ensure_consumer(intake.js, intake.spec)
    await intake.submit("t1")
    intake.queue.ask(1, expires_s=30)
    await until(lambda: intake.deliveries)


async def test_pull_that_the_server_does_not_take_is_refused(intake: Intake) -> None:
    await intake.js.delete_consumer(intake.spec.stream, intake.spec.name)
    await intake.js.create_consumer(intake.spec.stream, {**intake.spec.config(), "max_batch": 2})
    intake.queue.ask(3, expires_s=30)
    await until(lambda: intake.ends)
    assert intake.ends[0].reason == "refused"
    assert "MaxRequestBatch" in intake.ends[0].detail


async def test_crash_ends_all_pulls_at_once_and_they_are_asked_for_again(
    nats_server: NatsServer, intake: Intake
) -> None:
    await intake.submit("t1")
    intake.queue.ask(2, expires_s=30)
    intake.queue.ask(3, expires_s=30)
    await until(lambda: intake.deliveries)
    nats_server.kill()
    await until(lambda: len(intake.ends) == 2)
    assert {end.reason for end in intake.ends} == {"disconnected"}
    assert sum(end.unfulfilled for end in intake.ends) == 4
    assert intake.queue.outstanding == 0
    with pytest.raises(NotConnectedError):
        intake.queue.ask(1, expires_s=1)
    nats_server.start()
    await until(lambda: intake.js.connection.is_connected)
    intake.queue.ask(2, expires_s=30)
    await until(lambda: len(intake.deliveries) == 2, what="the lease of the first delivery runs out")
    assert intake.deliveries[1].delivered == 2


async def test_silent_server_ends_a_pull_by_its_deadline_and_late_deliveries_still_arrive(
    nats_server: NatsServer, intake: Intake
) -> None:
    intake.queue.ask(2, expires_s=0.3)
    await intake.js.connection.flush()
    nats_server.freeze()
    try:
        await until(lambda: intake.ends)
        assert intake.ends[0].reason == "silent"
        assert intake.ends[0].unfulfilled == 2
    finally:
        nats_server.thaw()
    await intake.submit("t1")
    intake.queue.ask(1, expires_s=5)
    await until(lambda: intake.deliveries)


async def test_missing_heartbeats_end_a_long_pull_early(nats_server: NatsServer, intake: Intake) -> None:
    loop = asyncio.get_running_loop()
    ended_by_expiry: asyncio.Future[list[str]] = loop.create_future()
    # A timer like the pull's own: the loop keeps their order, however late it runs them.
    loop.call_later(4.0, lambda: ended_by_expiry.set_result([end.reason for end in intake.ends]))
    intake.queue.ask(2, expires_s=4)
    await intake.js.connection.flush()
    nats_server.freeze()
    try:
        assert await ended_by_expiry == ["silent"]
    finally:
        nats_server.thaw()


async def test_stop_ends_the_pulls_and_leaves_the_rest_to_others(intake: Intake) -> None:
    await intake.submit("t1", "t2")
    intake.queue.ask(10, expires_s=30)
    await until(lambda: len(intake.deliveries) == 2)
    await intake.queue.stop()
    assert [(end.unfulfilled, end.reason) for end in intake.ends] == [(8, "stopped")]
    await intake.submit("t3")
    await intake.js.connection.flush()
    assert len(intake.deliveries) == 2
    other = Intake(intake.js, intake.names)
    other.queue.ask(1, expires_s=30)
    await until(lambda: other.deliveries)
    assert other.deliveries[0].data == b"t3"
    assert other.deliveries[0].delivered == 1
    await other.queue.stop()
    await intake.queue.stop()
