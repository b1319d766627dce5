"""A connection, with our parser and with nats-py's: what it sends and hears, and what it does when the server is away."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats.micro
import pytest

from cas_events.errors import (
    ConnectionLostError,
    InvalidSubjectError,
    NoRespondersError,
    NotConnectedError,
    PayloadTooLargeError,
    ServerUnreachableError,
)
from cas_events.jetstream.connection import Connection, Message, build_header
from cas_events.jetstream.links import supports_fast_link
from cas_events.server import find_binary
from tests.harness.patience import promised
from tests.harness.server import NatsServer
from tests.harness.wait import until, until_async

PING_INTERVAL_S = 0.8


@pytest.fixture(params=["fast", "stock"])
async def link(request: pytest.FixtureRequest, nats_url: str) -> AsyncIterator[Connection]:
    """A connection of each kind, quick to find a silent server."""
    fast = request.param == "fast"
    connection = await Connection.open(
        nats_url, name=request.param, fast=fast, ping_interval_s=PING_INTERVAL_S
    )
    async with connection:
        yield connection


@pytest.fixture
async def peer(nats_url: str) -> AsyncIterator[Connection]:
    """Another client, which answers on `echo.*`."""
    async with await Connection.open(nats_url, name="peer", ping_interval_s=PING_INTERVAL_S) as peer:
        peer.listen(
            "echo.*", lambda message: peer.publish(message.reply, message.data, header=message.header)
        )
        await peer.flush()
        yield peer


async def answers(connection: Connection) -> None:
    """Wait until both sides are connected again and the peer answers."""
    await until(lambda: connection.is_connected, what="the connection is up")
    deadline_s = time.monotonic() + promised(10.0)
    while True:
        try:
            await connection.request("echo.ready", timeout_s=1)
        except (NoRespondersError, ConnectionLostError, NotConnectedError):
            assert time.monotonic() < deadline_s, "the peer does not come back"
            await asyncio.wait([asyncio.ensure_future(until(lambda: connection.is_connected))])
        else:
            return


async def test_pinned_nats_py_takes_the_fast_link(connection: Connection) -> None:
    assert supports_fast_link(connection.nc)
    assert connection.received_at_s is not None


async def test_answers_come_to_their_requests_with_headers_and_empty_payloads(
    link: Connection, peer: Connection
) -> None:
    requests = [link.request("echo.a", b"%d" % n, header=build_header({"N": str(n)})) for n in range(500)]
    for n, answer in enumerate(await asyncio.gather(*requests)):
        assert answer.data == b"%d" % n
        assert answer.header_value("N") == str(n)
    assert (await link.request("echo.a")).data == b""


async def test_request_to_nobody_fails_at_once(link: Connection) -> None:
    started_s = time.monotonic()
    with pytest.raises(NoRespondersError, match=r"nobody\.here"):
        await link.request("nobody.here", timeout_s=30)
    assert time.monotonic() - started_s < promised(5.0)


async def test_requests_have_deadlines_of_their_own(link: Connection, peer: Connection) -> None:
    peer.listen("deaf", lambda _: None)
    await peer.flush()
    late = link.request("deaf", timeout_s=60)
    started_s = time.monotonic()
    with pytest.raises(ConnectionLostError, match="in time"):
        await link.request("deaf", timeout_s=0.1)
    assert 0.09 < time.monotonic() - started_s < promised(5.0)
    assert not late.done()


async def test_subscription_delivers_until_it_ends(link: Connection, peer: Connection) -> None:
    heard: list[Message] = []
    subscription = await link.subscribe("news.*", heard.append)
    await link.flush()
    peer.publish("news.one", b"1", reply="r", header=build_header({"A": "b"}))
    await until(lambda: heard)
    assert (heard[0].subject, heard[0].reply, heard[0].data) == ("news.one", "r", b"1")
    assert heard[0].header_value("A") == "b"
    subscription.unsubscribe()
    subscription.unsubscribe()
    await link.flush()
    peer.publish("news.two", b"2")
    await peer.flush()
    await link.flush()
    assert len(heard) == 1


async def test_queue_group_shares_messages(link: Connection, peer: Connection) -> None:
    heard: list[list[Message]] = [[], []]
    for one in heard:
        link.listen("work", one.append, queue="group")
    await link.flush()
    for _ in range(100):
        peer.publish("work")
    await until(lambda: len(heard[0]) + len(heard[1]) >= 100)
    await link.flush()
    assert len(heard[0]) + len(heard[1]) == 100


async def test_raising_handler_is_logged_and_the_next_message_comes(
    link: Connection, peer: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Message] = []

    def fail_once(message: Message) -> None:
        heard.append(message)
        if len(heard) == 1:
            raise RuntimeError("planned")

    link.listen("fragile", fail_once)
    await link.flush()
    peer.publish("fragile")
    peer.publish("fragile")
    await until(lambda: len(heard) == 2)
    assert "planned" in caplog.text
    assert link.is_connected


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPING", "a\tb", "x" * 1025])
async def test_subject_that_breaks_the_protocol_is_refused(connection: Connection, subject: str) -> None:
    with pytest.raises(InvalidSubjectError):
        connection.publish(subject)
    with pytest.raises(InvalidSubjectError):
        connection.listen(subject, lambda _: None)
    with pytest.raises(InvalidSubjectError):
        connection.request(subject)


async def test_payload_over_the_servers_limit_is_refused_before_sending(link: Connection) -> None:
    header = build_header({"A": "b"})
    with pytest.raises(PayloadTooLargeError) as caught:
        link.publish("big", b"x" * link.max_payload_bytes, header=header)
    assert caught.value.limit_bytes == link.max_payload_bytes == 1 << 20
    link.publish("big", b"x" * (link.max_payload_bytes - len(header)), header=header)
    await link.flush()
    assert link.is_connected


async def test_crash_fails_what_is_in_flight_at_once_and_subscriptions_come_back(
    nats_server: NatsServer, link: Connection, peer: Connection
) -> None:
    events: list[str] = []
    link.on_disconnect(lambda: events.append("down"))
    remove = link.on_reconnect(lambda: events.append("up"))
    heard: list[Message] = []
    ended = link.listen("again.ended", heard.append)
    link.listen("again.*", heard.append)
    peer.listen("deaf", lambda _: None)
    await peer.flush()
    await link.flush()
    in_flight = link.request("deaf", timeout_s=60)
    await peer.flush()
    nats_server.kill()
    with pytest.raises(ConnectionLostError, match="went down"):
        await asyncio.wait_for(in_flight, promised(2.0))
    assert not link.is_connected
    assert link.connected_since_s is None
    for call in (link.publish, link.request):
        with pytest.raises(NotConnectedError):
            call("echo.a")
    with pytest.raises(NotConnectedError):
        await link.flush()
    ended.unsubscribe()
    late = link.listen("late", heard.append)
    nats_server.start()
    await answers(link)
    assert events == ["down", "up"] * (len(events) // 2)  # Once, on a machine that is not far too slow.
    assert link.connected_since_s is not None
    link.publish("again.one")
    link.publish("again.ended")
    link.publish("late")
    await until(lambda: len(heard) == 3)
    assert [message.subject for message in heard] == ["again.one", "again.ended", "late"]
    late.unsubscribe()
    remove()


async def test_black_hole_is_found_and_left(
    nats_server: NatsServer, link: Connection, peer: Connection
) -> None:
    peer.listen("deaf", lambda _: None)
    await peer.flush()
    in_flight = link.request("deaf", b"x" * 900_000, timeout_s=60)
    await link.flush()
    nats_server.freeze()
    try:
        # More than the sockets take, so that bytes stay behind in the buffer.
        for _ in range(20):
            link.publish("deaf", b"x" * 900_000)
        with pytest.raises(ConnectionLostError, match="went down"):
            await asyncio.wait_for(in_flight, promised(6 * PING_INTERVAL_S))
        assert not link.is_connected
    finally:
        nats_server.thaw()
    await answers(link)


async def test_dead_read_loop_of_nats_py_is_replaced(link: Connection, peer: Connection) -> None:
    """As after an exception inside it: nats-py itself goes on believing that it is connected."""
    downs: list[None] = []
    link.on_disconnect(lambda: downs.append(None))
    read_loop = link.nc._reading_task
    assert read_loop is not None
    read_loop.cancel()
    await until(lambda: downs, what="the watchdog notices")
    await answers(link)


async def test_reconnecting_that_ended_is_started_again(
    nats_server: NatsServer, link: Connection, peer: Connection
) -> None:
    nats_server.kill()
    await until(lambda: not link.is_connected)
    attempt = await until(lambda: link.nc._reconnection_task)
    attempt.cancel()
    await until(attempt.done)
    nats_server.start()
    await answers(link)


async def test_error_of_the_server_leads_to_a_reconnect_not_to_an_end(
    link: Connection, peer: Connection
) -> None:
    """nats-py would close for good when the server reports a protocol error."""
    transport = link.nc._transport
    assert transport is not None
    downs: list[None] = []
    link.on_disconnect(lambda: downs.append(None))
    transport.write(b"NO SUCH OPERATION\r\n")
    await until(lambda: downs)
    await answers(link)


@pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning"
)  # nats-py's own, from Python 3.12 on
async def test_micro_service_of_nats_py_runs_over_the_connection(link: Connection, peer: Connection) -> None:
    async def shout(request: nats.micro.Request) -> None:
        await request.respond(request.data.upper())

    service = await nats.micro.add_service(link.nc, name="shouts", version="1.0.0")
    await service.add_endpoint(name="shout", handler=shout)

    async def answer() -> bytes:
        try:
            return (await peer.request("shout", b"hello")).data
        except NoRespondersError:  # nats-py's flush() can overtake its own subscription.
            return b""

    assert await until_async(answer) == b"HELLO"
    assert b"shouts" in (await peer.request("$SRV.PING")).data
    await service.stop()


async def test_no_server_is_one_error_with_the_url_and_without_credentials(tmp_path: Path) -> None:
    started_s = time.monotonic()
    with pytest.raises(ServerUnreachableError) as caught:
        await Connection.open("nats://bob:hunter2@127.0.0.1:1,nats://127.0.0.1:2", name="test")
    assert "nats://127.0.0.1:1,nats://127.0.0.1:2" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started_s < promised(4.0)


async def test_credentials_of_the_url_are_used_and_never_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with server_with_password(tmp_path, "bob", "p@ss") as address:
        async with await Connection.open(f"nats://bob:p%40ss@{address}", name="test") as connection:
            await connection.flush()
        # The server hangs up right behind its words, so they can be lost on the way.
        with pytest.raises(
            ServerUnreachableError, match=r"Authorization Violation|reset|Broken pipe"
        ) as caught:
            await Connection.open(f"nats://bob:hunter2@{address}", name="test")
    for secret in ("hunter2", "p@ss", "p%40ss"):
        assert secret not in f"{caught.value} {caplog.text}"


@asynccontextmanager
async def server_with_password(folder: Path, user: str, password: str) -> AsyncIterator[str]:
    """A server without JetStream that asks who is there; yields its address."""
    command = [find_binary(), "-a", "127.0.0.1", "-p", "-1", "--user", user, "--pass", password]
    process = subprocess.Popen([*command, "--ports_file_dir", str(folder)], stderr=subprocess.DEVNULL)
    try:
        ports = await until(
            lambda: [path for path in folder.glob("*.ports") if path.read_text().endswith("}")]
        )
        yield json.loads(ports[0].read_text())["nats"][0].removeprefix("nats://")
    finally:
        process.kill()
        process.wait()


async def test_one_of_several_servers_is_enough(nats_url: str) -> None:
    async with await Connection.open(f"nats://127.0.0.1:1,{nats_url}", name="test") as connection:
        await connection.flush()


async def test_server_that_accepts_and_says_nothing_is_unreachable_in_time() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        started_s = time.monotonic()
        with pytest.raises(ServerUnreachableError):
            await Connection.open(f"nats://127.0.0.1:{port}", name="test", connect_timeout_s=0.3)
        assert time.monotonic() - started_s < promised(3.0)


async def test_close_ends_everything_and_twice_is_once(
    nats_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = asyncio.all_tasks()
    connection = await Connection.open(nats_url, name="test")
    heard: list[Message] = []
    connection.listen("last.words", heard.append)
    await connection.flush()
    connection.publish("last.words", b"farewell")
    with caplog.at_level(logging.WARNING):
        await connection.close()
        await connection.close()
    assert heard, "what was published before is handed to the server"
    assert not caplog.records
    assert not connection.is_connected
    with pytest.raises(NotConnectedError):
        connection.publish("x")
    await until(lambda: asyncio.all_tasks() <= before, what="no task is left")


async def test_close_of_a_black_holed_connection_is_bounded(nats_server: NatsServer, nats_url: str) -> None:
    connection = await Connection.open(nats_url, name="test")
    nats_server.freeze()
    try:
        for _ in range(20):
            connection.publish("deaf", b"x" * 900_000)
        await asyncio.wait_for(connection.close(), promised(6.0))
    finally:
        nats_server.thaw()


async def test_write_buffer_is_visible_while_the_peer_does_not_read(
    nats_server: NatsServer, nats_url: str
) -> None:
    async with await Connection.open(nats_url, name="test") as connection:
        assert connection.write_buffer_bytes == 0
        nats_server.freeze()
        try:
            for _ in range(20):
                connection.publish("deaf", b"x" * 900_000)
            assert connection.write_buffer_bytes > 5_000_000
        finally:
            nats_server.thaw()
        await connection.flush()
        assert connection.write_buffer_bytes == 0
