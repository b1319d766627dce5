"""The pipelined publisher: every message has an outcome, and every stored one is in the stream at least once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from cas_events.errors import InvalidSubjectError, PayloadTooLargeError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.publisher import PipelinedPublisher, PublishOutcome
from cas_events.jetstream.reader import StreamReader
from tests.harness.patience import promised
from tests.harness.server import NatsServer
from tests.harness.wait import until


class Sender:
    """A publisher and the outcomes of what it sent."""

    def __init__(self, connection: Connection, name: str, **settings: float) -> None:
        self.connection = connection
        self.js = JetStream(connection)
        self.name = name
        self.publisher = PipelinedPublisher(connection, **settings)  # type: ignore[arg-type]
        self.outcomes: dict[int, PublishOutcome] = {}

    def send(self, n: int, subject: str = "") -> None:
        def done(outcome: PublishOutcome) -> None:
            assert n not in self.outcomes, "one outcome each"
            self.outcomes[n] = outcome

        self.publisher.send(subject or f"{self.name}.x", b"%d" % n, done)

    async def stored(self) -> Counter[int]:
        found: Counter[int] = Counter()
        async for batch in StreamReader(self.connection, self.name).batches():
            found.update(int(message.data) for message in batch.messages)
            if not batch.pending:
                break
        return found


@pytest.fixture(params=["fast", "stock"])
async def sender(request: pytest.FixtureRequest, nats_url: str, deployment: str) -> AsyncIterator[Sender]:
    fast = request.param == "fast"
    async with await Connection.open(nats_url, name="test", fast=fast) as connection:
        sender = Sender(connection, deployment, timeout_s=1)
        await sender.js.create_stream({"name": deployment, "subjects": [f"{deployment}.>"]})
        yield sender
        await sender.publisher.close(timeout_s=0.1)


async def test_everything_is_stored_once_and_in_order(sender: Sender) -> None:
    for n in range(20_000):
        await sender.publisher.room()
        sender.send(n)
    assert await sender.publisher.drain(promised(30.0))
    assert [sender.outcomes[n].seq for n in range(20_000)] == list(range(1, 20_001))
    assert all(outcome.is_stored for outcome in sender.outcomes.values())
    assert sender.publisher.resent == 0


async def test_window_is_a_window(sender: Sender) -> None:
    publisher = PipelinedPublisher(sender.connection, window=10, window_bytes=100_000)
    sent = 0
    while publisher.try_send(f"{sender.name}.x", b"1"):
        sent += 1
    assert (sent, publisher.in_flight, publisher.has_room) == (10, 10, False)
    await publisher.room()
    assert await publisher.drain(promised(5.0))
    publisher.send(f"{sender.name}.x", b"x" * 100_000)
    assert not publisher.has_room, "the bytes are a window, too"
    await publisher.close()


async def test_far_beyond_the_window_is_refused_at_once(sender: Sender) -> None:
    publisher = PipelinedPublisher(sender.connection, window=10)
    outcomes: list[PublishOutcome] = []
    for _ in range(100):
        publisher.send(f"{sender.name}.x", b"1", outcomes.append)
    assert [outcome.reason for outcome in outcomes] == ["overload"] * 60
    assert await publisher.drain(promised(5.0))
    assert sum(outcome.is_stored for outcome in outcomes) == 40
    await publisher.close()


async def test_refusal_has_its_code(sender: Sender) -> None:
    full = f"{sender.name}-full"
    await sender.js.create_stream({"name": full, "subjects": [full], "max_msgs": 1, "discard": "new"})
    for n in range(3):
        sender.send(n, full)
    assert await sender.publisher.drain(promised(5.0))
    assert [(outcome.is_stored, outcome.err_code) for _, outcome in sorted(sender.outcomes.items())] == [
        (True, 0),
        (False, 10077),
        (False, 10077),
    ]


async def test_bad_message_is_the_callers_error(sender: Sender) -> None:
    with pytest.raises(PayloadTooLargeError):
        sender.publisher.send(f"{sender.name}.x", b"x" * (2 << 20))
    with pytest.raises(InvalidSubjectError):
        sender.publisher.send("a b", b"x")
    assert sender.publisher.in_flight == 0


async def test_raising_callback_keeps_nothing_from_the_others(sender: Sender) -> None:
    def fail(outcome: PublishOutcome) -> None:
        raise RuntimeError(outcome)

    sender.publisher.send(f"{sender.name}.x", b"0", fail)
    sender.send(1)
    assert await sender.publisher.drain(promised(5.0))
    assert sender.outcomes[1].is_stored


async def test_crashes_under_load_lose_nothing(nats_server: NatsServer, sender: Sender) -> None:
    async def produce() -> None:
        for n in range(15_000):
            await sender.publisher.room()
            sender.send(n)
            if n % 50 == 0:
                await asyncio.sleep(0)

    producing = asyncio.create_task(produce())
    for at in (2000, 7000, 11_000):
        await until(lambda at=at: len(sender.outcomes) > at)  # type: ignore[misc]
        nats_server.restart()
    await asyncio.wait_for(producing, promised(30.0))
    assert await sender.publisher.drain(20)
    assert all(outcome.is_stored for outcome in sender.outcomes.values())
    found = await sender.stored()
    assert found.keys() == set(range(15_000))
    assert sender.publisher.resent > 0


async def test_unanswered_message_goes_out_again(
    nats_server: NatsServer, nats_url: str, deployment: str
) -> None:
    async with await Connection.open(nats_url, name="test", ping_interval_s=60) as connection:
        sender = Sender(connection, deployment, timeout_s=0.5)
        await sender.js.create_stream({"name": deployment, "subjects": [f"{deployment}.>"]})
        nats_server.freeze()
        try:
            sender.send(1)
            await until(lambda: sender.publisher.resent)
        finally:
            nats_server.thaw()
        assert await sender.publisher.drain(promised(5.0))
        assert sender.outcomes[1].is_stored
        assert (await sender.stored())[1] >= 1
        await sender.publisher.close()


async def test_message_that_nobody_stores_is_given_up(connection: Connection, deployment: str) -> None:
    sender = Sender(connection, deployment, timeout_s=0.25, give_up_s=2)
    sender.send(1, "no.stream.here")
    assert await sender.publisher.drain(promised(5.0))
    assert sender.outcomes[1] == PublishOutcome(reason="unknown")
    assert sender.publisher.resent > 0
    await sender.publisher.close()


async def test_stream_that_comes_late_gets_the_message(connection: Connection, deployment: str) -> None:
    sender = Sender(connection, deployment, timeout_s=0.25)
    sender.send(1)
    await until(lambda: sender.publisher.resent)
    await sender.js.create_stream({"name": deployment, "subjects": [f"{deployment}.>"]})
    assert await sender.publisher.drain(promised(5.0))
    assert sender.outcomes[1].is_stored
    await sender.publisher.close()


async def test_sent_while_down_goes_out_at_the_reconnect(nats_server: NatsServer, sender: Sender) -> None:
    nats_server.kill()
    await until(lambda: not sender.connection.is_connected)
    for n in range(5):
        sender.send(n)
    assert not await sender.publisher.drain(0.05)
    nats_server.start()
    assert await sender.publisher.drain(promised(10.0))
    assert all(outcome.is_stored for outcome in sender.outcomes.values())


async def test_close_tells_what_is_not_known(nats_server: NatsServer, sender: Sender) -> None:
    nats_server.kill()
    await until(lambda: not sender.connection.is_connected)
    sender.send(1)
    await sender.publisher.close(timeout_s=0.05)
    await sender.publisher.close()
    assert sender.outcomes[1].reason == "unknown"
    nats_server.start()
    await until(lambda: sender.connection.is_connected)
