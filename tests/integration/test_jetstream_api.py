"""JetStream requests against a real server: what is stored, what is refused and by which error, and what is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from cas_events.errors import (
    ConnectionLostError,
    NotConnectedError,
    NotFoundError,
    PayloadTooLargeError,
    RefusedError,
    StreamFullError,
    StreamUnavailableError,
    WireError,
    WrongLastSequenceError,
)
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection, build_header
from cas_events.jetstream.topology import agent_consumer, ensure_consumer, ensure_streams
from cas_events.wire.subjects import Names
from tests.harness.server import NatsServer
from tests.harness.wait import until, until_async


@pytest.fixture(params=["fast", "stock"])
async def js(request: pytest.FixtureRequest, nats_url: str) -> AsyncIterator[JetStream]:
    async with await Connection.open(
        nats_url, name=request.param, fast=request.param == "fast"
    ) as connection:
        yield JetStream(connection)


@pytest.fixture
async def names(js: JetStream, deployment: str) -> Names:
    await ensure_streams(js, deployment)
    return Names(deployment)


async def test_append_expecting_the_last_sequence_is_a_lock(js: JetStream, names: Names) -> None:
    lock = names.lifecycle("a", "t")
    first = await js.append(lock, b"1", expected_last_seq=0)
    assert (first.stream, first.duplicate) == (names.events, False)
    with pytest.raises(WrongLastSequenceError) as caught:
        await js.append(lock, b"2", expected_last_seq=0)
    assert caught.value.err_code == 10071
    second = await js.append(lock, b"2", expected_last_seq=first.seq)
    assert second.seq == first.seq + 1


async def test_racing_appends_have_one_winner(js: JetStream, names: Names) -> None:
    for n in range(20):
        results = await asyncio.gather(
            *(js.append(names.lifecycle("a", f"t{n}"), b"%d" % i, expected_last_seq=0) for i in range(10)),
            return_exceptions=True,
        )
        assert sum(not isinstance(result, WrongLastSequenceError) for result in results) == 1


async def test_own_header_and_expectation_go_together(js: JetStream, names: Names) -> None:
    lock = names.lifecycle("a", "t")
    await js.append(lock, b"1", expected_last_seq=0, header=build_header({"Cas-Submit": "nonce"}))
    with pytest.raises(WrongLastSequenceError):
        await js.append(lock, b"2", expected_last_seq=0, header=build_header({"Cas-Submit": "other"}))
    stored = await js.last_message(names.events, lock)
    assert stored is not None
    assert stored.header_value("Cas-Submit") == "nonce"
    assert stored.data == b"1"


async def test_second_command_on_a_subject_is_refused_as_full(js: JetStream, names: Names) -> None:
    await js.append(names.execute("a", "t"), b"{}")
    with pytest.raises(StreamFullError) as caught:
        await js.append(names.execute("a", "t"), b"{}")
    assert caught.value.err_code == 10077


@pytest.mark.parametrize("limit", [{"max_bytes": 1000}, {"max_msgs": 2}])
async def test_full_stream_refuses(js: JetStream, deployment: str, limit: dict[str, int]) -> None:
    await js.create_stream(
        {"name": deployment, "subjects": [f"{deployment}.full"], "discard": "new", **limit}
    )
    results = [
        await asyncio.gather(js.append(f"{deployment}.full", b"x" * 100), return_exceptions=True)
        for _ in range(9)
    ]
    assert not isinstance(results[0][0], BaseException)
    assert isinstance(results[-1][0], StreamFullError)


async def test_repeated_message_id_is_said_to_be_a_duplicate(js: JetStream, deployment: str) -> None:
    await js.create_stream({"name": deployment, "subjects": [f"{deployment}.dup"]})
    header = build_header({"Nats-Msg-Id": "same"})
    assert not (await js.append(f"{deployment}.dup", b"1", header=header)).duplicate
    again = await js.append(f"{deployment}.dup", b"2", header=header)
    assert again.duplicate
    assert again.seq == 1


async def test_message_over_the_streams_limit_is_refused(js: JetStream, deployment: str) -> None:
    await js.create_stream({"name": deployment, "subjects": [f"{deployment}.small"], "max_msg_size": 10})
    with pytest.raises(RefusedError) as caught:
        await js.append(f"{deployment}.small", b"x" * 100)
    assert caught.value.err_code == 10054


async def test_payload_over_the_servers_limit_is_not_sent(js: JetStream, names: Names) -> None:
    with pytest.raises(PayloadTooLargeError):
        await js.append(names.lifecycle("a", "t"), b"x" * (1 << 20), expected_last_seq=0)


async def test_append_where_no_stream_listens_is_surely_not_stored(js: JetStream) -> None:
    with pytest.raises(StreamUnavailableError) as caught:
        await js.append("nobody.listens", b"{}")
    assert isinstance(caught.value, NotConnectedError)


async def test_answer_of_somebody_else_is_no_ack(js: JetStream) -> None:
    js.connection.listen("not.a.stream", lambda message: js.connection.publish(message.reply, b"hello"))
    await js.connection.flush()
    with pytest.raises(WireError):
        await js.append("not.a.stream", b"{}")


async def test_unanswered_append_is_ambiguous(nats_server: NatsServer, js: JetStream, names: Names) -> None:
    nats_server.freeze()
    try:
        with pytest.raises(ConnectionLostError):
            await js.append(names.lifecycle("a", "t"), b"1", expected_last_seq=0, timeout_s=0.2)
    finally:
        nats_server.thaw()
    await until(lambda: js.connection.is_connected)

    async def is_stored() -> bool:
        return await js.last_message(names.events, names.lifecycle("a", "t")) is not None

    # What the server has read it stores behind the back of whoever sent it: a flush says nothing about that.
    await until_async(is_stored, what="this one is stored after all")


async def test_leader_reads_find_what_is_there(js: JetStream, names: Names) -> None:
    before = await js.append(names.lifecycle("a", "t1"), b"1")
    after = await js.append(names.lifecycle("b", "t1"), b"", header=build_header({"K": "v"}))
    last = await js.last_message(names.events, names.lifecycle("b", "t1"))
    assert last is not None
    assert (last.stream, last.seq, last.subject, last.data) == (
        names.events,
        after.seq,
        names.lifecycle("b", "t1"),
        b"",
    )
    assert last.header_value("K") == "v"
    assert last.time_ns > 1_700_000_000_000_000_000
    following = await js.next_message(names.events, names.lifecycle("*", "t1"))
    assert following is not None
    assert following.seq == before.seq
    assert await js.next_message(names.events, names.lifecycle("*", "t1"), from_seq=after.seq + 1) is None
    assert await js.message(names.events, before.seq) == following
    assert await js.message(names.events, after.seq + 1) is None
    assert await js.last_message(names.events, names.lifecycle("a", "unknown")) is None


async def test_batched_direct_gets_page_through_a_filter(js: JetStream, names: Names) -> None:
    for n in range(25):
        await js.append(names.event("log", "a", "t"), b"%d" % n)
        await js.append(names.event("log", "b", "t"), b"other")
    seen, from_seq, more = list[bytes](), 1, True
    while more:
        page, more = await js.direct_batch(
            names.events, names.event("log", "a", "*"), from_seq=from_seq, batch=10
        )
        assert len(page) <= 10
        seen += [message.data for message in page]
        from_seq = page[-1].seq + 1
    assert seen == [b"%d" % n for n in range(25)]
    assert await js.direct_batch(names.events, names.event("log", "c", "*")) == ([], False)


async def test_batched_direct_get_is_bounded_in_bytes(js: JetStream, names: Names) -> None:
    for _ in range(10):
        await js.append(names.event("log", "a", "t"), b"x" * 100_000)
    page, more = await js.direct_batch(names.events, names.event("log", "a", "t"), max_bytes=350_000)
    assert more
    assert 1 <= len(page) <= 4


async def test_last_messages_of_several_subjects_come_together(js: JetStream, names: Names) -> None:
    for n in range(3):
        for task in ("t1", "t2"):
            await js.append(names.lifecycle("a", task), b"%d" % n)
    subjects = [names.lifecycle("a", task) for task in ("t1", "t2", "t3")]
    found = await js.direct_last(names.events, subjects)
    assert [(message.subject, message.data) for message in found] == [
        (subjects[0], b"2"),
        (subjects[1], b"2"),
    ]
    single = await js.last_message(names.events, subjects[0])
    assert single is not None
    assert (found[0].seq, found[0].time_ns) == (single.seq, single.time_ns)
    assert await js.direct_last(names.events, [subjects[2]]) == []


async def test_what_does_not_exist_is_not_found(js: JetStream, names: Names) -> None:
    for call in (
        js.stream_info("NOWHERE"),
        js.consumer_info(names.events, "nobody"),
        js.delete_consumer(names.events, "nobody"),
        js.last_message("NOWHERE", "x"),
        js.create_consumer("NOWHERE", {"name": "x"}),
    ):
        with pytest.raises(NotFoundError):
            await call
    with pytest.raises(StreamUnavailableError):
        await js.direct_batch("NOWHERE", ">", timeout_s=2)


async def test_wrong_settings_are_refused_in_the_servers_words(js: JetStream, deployment: str) -> None:
    with pytest.raises(RefusedError, match="unknown field"):
        await js.create_stream({"name": deployment, "no_such_setting": 1})


async def test_stream_and_account_say_how_full_they_are(js: JetStream, names: Names) -> None:
    empty = (await js.stream_info(names.events)).state
    assert (empty.messages, empty.last_seq, empty.first_time_ns) == (0, 0, 0)
    await js.append(names.lifecycle("a", "t"), b"1")
    info = await js.stream_info(names.events)
    assert (info.state.messages, info.state.first_seq, info.state.last_seq) == (1, 1, 1)
    assert info.state.first_time_ns > 1_700_000_000_000_000_000
    assert info.config["deny_purge"] is True
    account = await js.account_info()
    assert account["storage"] > 0
    assert account["limits"]["max_storage"] == -1


async def test_consumer_is_paused_and_resumed(js: JetStream, names: Names, deployment: str) -> None:
    spec = agent_consumer(deployment, "a", 10)
    await ensure_consumer(js, spec)
    await js.pause_consumer(spec.stream, spec.name, "2126-01-01T00:00:00Z")
    assert (await js.consumer_info(spec.stream, spec.name)).paused
    await js.pause_consumer(spec.stream, spec.name, "2001-01-01T00:00:00Z")
    assert not (await js.consumer_info(spec.stream, spec.name)).paused
    await js.delete_consumer(spec.stream, spec.name)
    with pytest.raises(NotFoundError):
        await js.consumer_info(spec.stream, spec.name)
