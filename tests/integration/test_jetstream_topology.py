"""Streams and consumers as PROTOCOL section 1 has them: created by whoever comes first, compared, never changed."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from pathlib import Path

import pytest

from cas_events.errors import NotFoundError, RefusedError, ServerFeatureError, TopologyMismatchError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection, Message
from cas_events.jetstream.topology import (
    ConsumerSpec,
    ack_wait_s,
    agent_consumer,
    cancel_consumer,
    cron_consumer,
    ensure_consumer,
    ensure_streams,
    stream_specs,
    wake_consumer,
)
from cas_events.server import find_binary
from cas_events.wire.subjects import Names
from tests.harness.wait import until


async def test_streams_are_created_as_the_protocol_says(js: JetStream, deployment: str) -> None:
    infos = await ensure_streams(js, deployment)
    names = Names(deployment)
    commands = infos[names.commands].config
    assert commands["max_msgs_per_subject"] == 1
    assert commands["discard_new_per_subject"]
    assert commands["duplicate_window"] == 100_000_000
    events = infos[names.events].config
    assert (events["max_age"], events["max_bytes"]) == (0, -1)
    assert events["republish"] == {"src": f"{deployment}.evt.>", "dest": f"{deployment}.live.evt.>"}
    assert infos[names.output].config["max_age"] == 24 * 3600 * 10**9
    assert infos[names.timers].config["allow_msg_schedules"]
    assert set(infos) == {spec.name for spec in stream_specs(deployment)}
    assert await ensure_streams(js, deployment) == infos


@pytest.mark.parametrize("kind", ["commands", "events"])
async def test_log_can_be_neither_deleted_from_nor_purged(js: JetStream, deployment: str, kind: str) -> None:
    await ensure_streams(js, deployment)
    names = Names(deployment)
    subject = names.execute("a", "t") if kind == "commands" else names.lifecycle("a", "t")
    stream = (await js.append(subject, b"{}")).stream
    with pytest.raises(RefusedError):
        await js.call(f"STREAM.PURGE.{stream}")
    with pytest.raises(RefusedError):
        await js.call(f"STREAM.MSG.DELETE.{stream}", {"seq": 1})
    assert (await js.stream_info(stream)).state.messages == 1


async def test_only_stored_events_are_republished(js: JetStream, deployment: str) -> None:
    await ensure_streams(js, deployment)
    names = Names(deployment)
    live: list[Message] = []
    js.connection.listen(names.live(names.all_events), live.append)
    await js.append(names.lifecycle("a", "t"), b"1", expected_last_seq=0)
    with pytest.raises(RefusedError):
        await js.append(names.lifecycle("a", "t"), b"refused", expected_last_seq=0)
    await js.append(names.event("log", "a", "t"), b"2")
    await until(lambda: len(live) >= 2)
    assert [message.data for message in live] == [b"1", b"2"]
    assert live[0].subject == f"{deployment}.live.evt.task.a.t"
    assert live[0].header_value("Nats-Sequence") == "1"


async def test_racing_creators_all_succeed(nats_url: str, deployment: str) -> None:
    async def create() -> int:
        async with await Connection.open(nats_url, name="racer") as connection:
            return len(await ensure_streams(JetStream(connection), deployment))

    assert await asyncio.gather(*(create() for _ in range(8))) == [6] * 8


async def test_other_settings_are_listed_and_left_alone(js: JetStream, deployment: str) -> None:
    spec = stream_specs(deployment)[0]
    other = {**spec.config(1), "deny_purge": False, "duplicate_window": 200_000_000, "max_msgs": 7}
    await js.create_stream(other)
    with pytest.raises(TopologyMismatchError) as caught:
        await ensure_streams(js, deployment)
    assert caught.value.name == f"stream {spec.name}"
    assert caught.value.differences == [
        "duplicate_window is 200000000, not 100000000",
        "deny_purge is False, not True",
    ]
    assert (await js.stream_info(spec.name)).config["duplicate_window"] == 200_000_000


async def test_settings_that_the_protocol_does_not_name_are_the_operators(
    js: JetStream, deployment: str
) -> None:
    spec = stream_specs(deployment)[1]
    await js.create_stream(
        {**spec.config(1), "max_bytes": 1 << 30, "compression": "s2", "description": "mine"}
    )
    infos = await ensure_streams(js, deployment)
    assert infos[spec.name].config["max_bytes"] == 1 << 30


async def test_consumers_are_created_once(js: JetStream, deployment: str) -> None:
    await ensure_streams(js, deployment)
    specs = (
        agent_consumer(deployment, "a", 10),
        cancel_consumer(deployment, 15),
        wake_consumer(deployment, "a", 10),
        cron_consumer(deployment, 10),
    )
    for spec in specs:
        info = await ensure_consumer(js, spec)
        assert info.config["ack_policy"] == "explicit"
        assert info.config["max_deliver"] == -1
        assert info.config["max_ack_pending"] == spec.max_ack_pending
        assert ack_wait_s(info) == spec.ack_wait_s
        assert await ensure_consumer(js, spec) == info
    assert [spec.name for spec in specs] == ["agent-a", "cancel", "wake-a", "cron"]


async def test_consumer_with_another_lease_is_adopted_with_a_warning(
    js: JetStream, deployment: str, caplog: pytest.LogCaptureFixture
) -> None:
    await ensure_streams(js, deployment)
    await ensure_consumer(js, agent_consumer(deployment, "a", 30))
    with caplog.at_level(logging.WARNING):
        info = await ensure_consumer(js, agent_consumer(deployment, "a", 10, max_ack_pending=5))
    assert ack_wait_s(info) == 30
    assert "ack_wait" in caplog.text
    assert "max_ack_pending" in caplog.text
    assert (await js.consumer_info(info.stream_name, info.name)).config["max_ack_pending"] == 1000


async def test_consumer_with_other_filters_is_an_error(js: JetStream, deployment: str) -> None:
    await ensure_streams(js, deployment)
    names = Names(deployment)
    await ensure_consumer(js, ConsumerSpec(names.commands, "agent-a", (names.execute("b", "*"),), 10, 1000))
    with pytest.raises(TopologyMismatchError, match="filters"):
        await ensure_consumer(js, agent_consumer(deployment, "a", 10))


async def test_consumer_of_a_missing_stream_is_not_found(js: JetStream, deployment: str) -> None:
    with pytest.raises(NotFoundError):
        await ensure_consumer(js, agent_consumer(deployment, "a", 10))


async def test_server_without_jetstream_is_said_to_lack_it(tmp_path: Path, deployment: str) -> None:
    command = [find_binary(), "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ports = await until(
            lambda: [path for path in tmp_path.glob("*.ports") if path.read_text().endswith("}")]
        )
        url = ports[0].read_text().partition('"nats":["')[2].partition('"')[0]
        async with await Connection.open(url, name="test") as connection:
            with pytest.raises(ServerFeatureError, match="JetStream"):
                await ensure_streams(JetStream(connection), deployment)
    finally:
        process.kill()
        process.wait()
