"""The ordered reader: every message once and in order, whatever happens to the server, with bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from cas_events.errors import NotFoundError, StreamRewoundError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.publisher import PipelinedPublisher
from cas_events.jetstream.reader import Batch, StreamReader
from tests.harness.patience import promised
from tests.harness.server import NatsServer
from tests.harness.wait import until, until_async


class Log:
    """A stream that tests write to and read back."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.connection = connection
        self.js = JetStream(connection)
        self.name = name

    def reader(self, *, from_seq: int = 1, filters: Sequence[str] = (), **limits: float) -> StreamReader:
        return StreamReader(self.connection, self.name, filters=filters, from_seq=from_seq, **limits)  # type: ignore[arg-type]

    async def write(self, count: int, *, kind: str = "x", start: int = 0, size: int = 0) -> None:
        publisher = PipelinedPublisher(self.connection)
        for n in range(start, start + count):
            await publisher.room()
            publisher.send(f"{self.name}.{kind}", (b"%d" % n).ljust(size))
        assert await publisher.drain(promised(30.0))
        await publisher.close()

    async def last_seq(self) -> int:
        return (await self.js.stream_info(self.name)).state.last_seq


@pytest.fixture(params=["fast", "stock"])
async def log(request: pytest.FixtureRequest, nats_url: str, deployment: str) -> AsyncIterator[Log]:
    fast = request.param == "fast"
    async with await Connection.open(nats_url, name="test", fast=fast) as connection:
        log = Log(connection, deployment)
        await log.js.create_stream({"name": deployment, "subjects": [f"{deployment}.>"]})
        yield log


async def read_all(reader: StreamReader) -> list[StoredMessage]:
    """Until it has caught up."""
    messages: list[StoredMessage] = []
    async for batch in reader.batches():
        messages += batch.messages
        if not batch.pending:
            break
    return messages


async def crash(nats_server: NatsServer, log: Log) -> None:
    """Kill the server, and come back when the connection has."""
    nats_server.kill()
    await until(lambda: not log.connection.is_connected)
    nats_server.start()
    await until(lambda: log.connection.is_connected)


class Following:
    """A reader in the background."""

    def __init__(self, reader: StreamReader) -> None:
        self.reader = reader
        self.batches: list[Batch] = []
        self.task = asyncio.get_running_loop().create_task(self._follow())

    @property
    def messages(self) -> list[StoredMessage]:
        return [message for batch in self.batches for message in batch.messages]

    async def _follow(self) -> None:
        async for batch in self.reader.batches():
            self.batches.append(batch)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.reader.close()


@pytest.fixture
async def follow() -> AsyncIterator[list[Following]]:
    following: list[Following] = []
    yield following
    for one in following:
        await one.stop()


async def test_whole_stream_is_read_in_order(log: Log) -> None:
    await log.write(30_000)
    reader = log.reader()
    messages = await read_all(reader)
    assert [message.seq for message in messages] == list(range(1, 30_001))
    assert [int(message.data) for message in messages] == list(range(30_000))
    assert messages[0].subject == f"{log.name}.x"
    assert messages[0].stream == log.name
    assert messages[0] == await log.js.message(log.name, 1)
    assert (reader.restarts, reader.gap, reader.next_seq) == (0, None, 30_001)


async def test_reading_starts_where_it_is_told_and_takes_what_matches(log: Log) -> None:
    for n in range(20):
        await log.write(1, kind=("a", "b", "c")[n % 3], start=n)
    messages = await read_all(log.reader(from_seq=5, filters=[f"{log.name}.a", f"{log.name}.c"]))
    assert [int(message.data) for message in messages] == [n for n in range(4, 20) if n % 3 != 1]
    assert [int(message.data) for message in await read_all(log.reader(filters=[f"{log.name}.b"]))] == [
        1,
        4,
        7,
        10,
        13,
        16,
        19,
    ]


async def test_empty_stream_and_end_of_stream_are_caught_up(log: Log) -> None:
    assert await asyncio.wait_for(read_all(log.reader()), promised(5.0)) == []
    await log.write(3)
    assert await asyncio.wait_for(read_all(log.reader(from_seq=4)), promised(5.0)) == []
    assert await asyncio.wait_for(read_all(log.reader(filters=[f"{log.name}.nothing"])), promised(5.0)) == []


async def test_live_messages_come_one_by_one_without_waiting_for_more(
    log: Log, follow: list[Following]
) -> None:
    live = Following(log.reader())
    follow.append(live)
    await until(lambda: live.batches)
    for n in range(50):
        await log.write(1, start=n)
        await until(lambda n=n: len(live.messages) == n + 1, timeout_s=1)  # type: ignore[misc]
    assert [batch.pending for batch in live.batches] == [0] * 51


async def test_batches_are_as_large_as_asked_at_most(log: Log) -> None:
    await log.write(1000)
    reader = log.reader(batch=70)
    seen = 0
    async for batch in reader.batches():
        assert 1 <= len(batch.messages) <= 70
        seen += len(batch.messages)
        assert batch.pending == 1000 - seen
        if not batch.pending:
            break
    assert seen == 1000


async def test_slow_taker_bounds_what_is_fetched(log: Log) -> None:
    await log.write(5000, size=500)
    reader = log.reader(max_outstanding_messages=400, batch=100)
    seen: list[int] = []
    async for batch in reader.batches():
        seen += [message.seq for message in batch.messages]
        await log.connection.flush()  # Everything that the server was asked for is here now.
        assert reader.next_seq - 1 - seen[-1] <= 400
        if not batch.pending:
            break
    assert seen == list(range(1, 5001))
    assert reader.restarts == 0


async def test_large_messages_stay_within_the_bytes(log: Log) -> None:
    await log.write(40, size=900_000)
    reader = log.reader(max_outstanding_bytes=4_000_000)
    seen = 0
    async for batch in reader.batches():
        seen += len(batch.messages)
        await log.connection.flush()
        assert sum(len(message.data) for message in batch.messages) <= 4_000_000
        if not batch.pending:
            break
    assert seen == 40
    assert reader.restarts == 0


async def test_crashes_while_reading_cost_nothing_and_repeat_nothing(
    nats_server: NatsServer, log: Log, follow: list[Following]
) -> None:
    live = Following(log.reader())
    follow.append(live)
    await until(lambda: live.batches)
    for round_ in range(3):
        await log.write(500, start=round_ * 500)
        await until(lambda: live.messages, what="it has a consumer")
        await until(lambda: live.reader._consumer)
        await crash(nats_server, log)
    await log.write(500, start=1500)
    last_seq = await log.last_seq()
    await until(lambda: live.messages[-1].seq == last_seq)
    seqs = [message.seq for message in live.messages]
    assert seqs == list(range(1, last_seq + 1))
    assert live.reader.restarts >= 3


async def test_quiet_reader_at_the_end_is_not_sent_back_to_the_start(
    nats_server: NatsServer, log: Log, follow: list[Following]
) -> None:
    """nats-py's ordered consumer replays the whole stream here."""
    await log.write(300)
    live = Following(log.reader(from_seq=301))
    follow.append(live)
    await until(lambda: live.batches)
    await crash(nats_server, log)
    await log.write(1, start=300)
    await until(lambda: live.messages)
    assert [message.seq for message in live.messages] == [301]


async def test_deleted_consumer_is_replaced(log: Log, follow: list[Following]) -> None:
    await log.write(10)
    live = Following(log.reader())
    follow.append(live)
    await until(lambda: len(live.messages) == 10)
    for n in range(3):
        await log.js.delete_consumer(log.name, live.reader._consumer)
        await log.write(1, start=10 + n)
        await until(lambda n=n: len(live.messages) == 11 + n)  # type: ignore[misc]
    assert [int(message.data) for message in live.messages] == list(range(13))


async def test_silent_consumer_is_replaced(nats_server: NatsServer, nats_url: str, deployment: str) -> None:
    """The connection may live while the consumer's leader does not; here the whole server is silent for a while."""
    async with await Connection.open(nats_url, name="test", ping_interval_s=60) as connection:
        log = Log(connection, deployment)
        await log.js.create_stream({"name": deployment, "subjects": [f"{deployment}.>"]})
        live = Following(log.reader(heartbeat_s=0.1))
        await until(lambda: live.batches)
        nats_server.freeze()
        try:
            await until(lambda: not live.reader._consumer, what="missing heartbeats are noticed")
        finally:
            nats_server.thaw()
        await log.write(1)
        await until(lambda: live.messages)
        assert live.reader.restarts >= 1
        await live.stop()


async def test_what_retention_took_is_reported_as_gap(log: Log) -> None:
    await log.write(10)
    await log.js.call(f"STREAM.PURGE.{log.name}", {"seq": 8})
    reader = log.reader(from_seq=3)
    assert [message.seq for message in await read_all(reader)] == [8, 9, 10]
    assert reader.gap == (3, 7)
    await log.js.call(f"STREAM.PURGE.{log.name}")
    reader = log.reader()
    assert await read_all(reader) == []
    assert reader.gap == (1, 10)
    assert reader.next_seq == 11


async def test_log_that_ends_too_early_is_an_error(log: Log) -> None:
    await log.write(3)
    with pytest.raises(StreamRewoundError) as caught:
        await read_all(log.reader(from_seq=10))
    assert (caught.value.last_seq, caught.value.next_seq) == (3, 10)


async def test_missing_stream_is_an_error(connection: Connection) -> None:
    with pytest.raises(NotFoundError):
        await read_all(StreamReader(connection, "NOWHERE"))


async def test_left_reader_leaves_no_consumer_behind(log: Log) -> None:
    await log.write(10)
    async with log.reader() as reader:
        async for _ in reader.batches():
            break

    async def has_none() -> bool:
        return (await log.js.stream_info(log.name)).state.consumer_count == 0

    await until_async(has_none)
