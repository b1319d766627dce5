"""`cas doctor` against real servers: well ones, and ones that are wrong in one way each.

Goal: what breaks a promise is found, named and fails the command; what only restricts one does not fail; and the
doctor leaves no trace. Method: a deployment with one fault each on a real nats-server; the healthy ones are a real
`cas worker` and `cas projector`, and a real `cas up`.
"""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection, Message
from cas_events.jetstream.topology import agent_consumer, stream_specs
from cas_events.wire.subjects import Names
from tests.harness.cas import UNSIGNED_PROJECTOR, Answer, Cas
from tests.harness.nats_process import loopback_config, nats_process
from tests.harness.server import NatsServer
from tests.harness.wait import until

DAY_NS = 86_400 * 10**9


@pytest.fixture
def cas(nats_server: NatsServer, deployment: str, tmp_path: Path) -> Cas:
    return cas_for(nats_server.url, deployment, tmp_path)


def cas_for(url: str, deployment: str, home: Path) -> Cas:
    return Cas({"CAS_NATS_URL": url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(home)})


def on_server(cas: Cas, work: Callable[[JetStream], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with await Connection.open(cas.environment["CAS_NATS_URL"], name="test") as connection:
            return await work(JetStream(connection))

    return asyncio.run(run())


def make_streams(cas: Cas, **changes: dict[str, Any]) -> Names:
    """Create the deployment's streams with changes, by the last word of a stream's name; None leaves it out."""
    deployment = cas.environment["CAS_DEPLOYMENT"]

    async def create(js: JetStream) -> None:
        for spec in stream_specs(deployment):
            change = changes.get(spec.name.rpartition("_")[2].lower(), {})
            if change is not None:
                await js.create_stream(spec.config(1) | change)

    on_server(cas, create)
    return Names(deployment)


def check(answer: Answer, name: str) -> dict[str, Any]:
    found = [one for one in answer.json["checks"] if one["name"] == name]
    assert len(found) == 1, [one["name"] for one in answer.json["checks"]]
    return found[0]


def promise(answer: Answer, number: int) -> tuple[str, str]:
    found = answer.json["promises"][number - 1]
    assert found["number"] == number
    return found["verdict"], "; ".join(found["reasons"])


def problems(answer: Answer) -> list[str]:
    return [one["name"] for one in answer.json["checks"] if one["level"] == "problem"]


# --- well


def test_an_empty_server_is_well_and_stays_empty(cas: Cas) -> None:
    answer = cas("doctor", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.json["fine"] is True
    assert "has none yet" in check(answer, "streams")["said"]
    deployment = cas.environment["CAS_DEPLOYMENT"]

    async def streams(js: JetStream) -> list[str]:
        return json.loads(await js.call("STREAM.NAMES"))["streams"] or []

    assert not [name for name in on_server(cas, streams) if deployment.upper() in name]


@pytest.fixture(scope="module")
def whole(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cas]:
    """A deployment with a runner and a projector, and a task that ran."""
    home = tmp_path_factory.mktemp("home")
    cas = cas_for(nats_server.url, f"t{uuid.uuid4().hex[:12]}", home)
    with (
        cas.process("worker", "cas_events.agents.samples:runner") as worker,
        cas.process(*UNSIGNED_PROJECTOR) as projector,
    ):
        worker.line_with("runner ready")
        projector.line_with("ready")
        assert cas("run", "echo", "-q", "--wait-for-runner", "60").code == 0
        yield cas


def last_seqs(cas: Cas) -> list[int]:
    names = Names(cas.environment["CAS_DEPLOYMENT"])

    async def ask(js: JetStream) -> list[int]:
        streams = (names.commands, names.events, names.output, names.timers)
        return [(await js.stream_info(stream)).state.last_seq for stream in streams]

    return on_server(cas, ask)


def test_a_whole_deployment_is_well_and_is_not_touched(whole: Cas) -> None:
    before = last_seqs(whole)
    answer = whole("doctor", "--json")
    assert (answer.code, answer.err, problems(answer)) == (0, "", [])
    assert [standing["number"] for standing in answer.json["promises"]] == list(range(1, 11))
    assert all(standing["verdict"] != "does not hold" for standing in answer.json["promises"])
    assert promise(answer, 2) == ("holds", "")
    assert promise(answer, 10) == ("holds", "")
    assert "echo" in check(answer, "runners")["said"]
    assert check(answer, "runners")["said"].startswith("1 answers")
    assert check(answer, "projector")["level"] == "ok"
    assert check(answer, "clock")["level"] == "ok"
    assert "not visible to a client" in check(answer, "sync_interval")["said"]
    assert "lease 10 s" in check(answer, "consumer agent-echo")["said"]
    assert last_seqs(whole) == before


def test_people_can_read_it(whole: Cas) -> None:
    answer = whole("doctor")
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[0].endswith(f"deployment {whole.environment['CAS_DEPLOYMENT']}")
    assert [line for line in lines if line and not line.startswith(" ")][1:-1] == [
        "Server",
        "Streams",
        "Work",
        "Promises on this server",
    ]
    assert any(line.split() == ["ok", "version", "nats-server", "2.15.1"] for line in lines)
    assert any("consumers" in line and "are as they should be" in line for line in lines)
    assert lines[-1] == "0 problems, 0 warnings"


@pytest.mark.parametrize(("interval", "restriction"), [("1s", "in the last 1s"), ("always", "")])
def test_the_embedded_server_tells_more(tmp_path: Path, interval: str, restriction: str) -> None:
    cas = Cas({"CAS_HOME": str(tmp_path / "home")})
    with cas.process("up", "--json", "--no-projector", "--sync-interval", interval) as process:
        process.line_with('"pids"')
        answer = cas("doctor", "--json")
        process.send(signal.SIGTERM)
        process.end()
    assert answer.code == 0
    assert check(answer, "sync_interval")["said"].startswith(interval)
    assert ("power cut" in promise(answer, 1)[1]) is bool(restriction)
    assert restriction in promise(answer, 1)[1]
    assert "free where the embedded server stores" in check(answer, "disk")["said"]
    assert check(answer, "projector")["level"] == "warning"


# --- wrong


@pytest.mark.parametrize(
    ("changes", "name", "words", "broken"),
    [
        ({"commands": {"discard_new_per_subject": False}}, "COMMANDS", "discard_new_per_subject is", {1, 5}),
        ({"events": {"deny_purge": False}}, "EVENTS", "deny_purge is", {1, 2, 3, 6, 7}),
        (
            {"events": {"storage": "memory", "compression": "none"}},
            "EVENTS",
            "kept in memory",
            {1, 2, 3, 6, 7},
        ),
        ({"events": {"max_msgs_per_subject": 5}}, "EVENTS", "forgets", {1, 2, 3, 6, 7}),
        ({"events": {"max_msg_size": 1000}}, "EVENTS", "max_msg_size is 1000", {1, 2, 3, 6, 7}),
        ({"output": None}, "OUTPUT", "is missing", {6}),
    ],
)
def test_a_streams_settings(
    cas: Cas, changes: dict[str, Any], name: str, words: str, broken: set[int]
) -> None:
    names = make_streams(cas, **changes)
    answer = cas("doctor", "--json")
    stream = f"{names.deployment.upper()}_{name}"
    assert answer.code == 1
    assert answer.json["fine"] is False
    assert problems(answer) == [stream]
    assert words in check(answer, stream)["said"]
    assert {n for n in range(1, 11) if promise(answer, n)[0] == "does not hold"} == broken


@pytest.mark.parametrize(
    ("commands_days", "events_days", "failing", "restricted"),
    [
        (0, 0, [], {}),
        (7, 0, [], {1: "waits longer than 7 days", 5: "7 days"}),
        (7, 30, [], {1: "waits longer than 7 days", 6: "older than 30 days", 7: "what is left"}),
        (7, 5, ["retention of events"], {1: "does not hold"}),
        (0, 30, ["retention of events"], {1: "does not hold"}),
    ],
)
def test_what_must_outlive_what(
    cas: Cas, commands_days: int, events_days: int, failing: list[str], restricted: dict[int, str]
) -> None:
    make_streams(cas, commands={"max_age": commands_days * DAY_NS}, events={"max_age": events_days * DAY_NS})
    answer = cas("doctor", "--json")
    assert (answer.code, problems(answer)) == (int(bool(failing)), failing)
    for number, words in restricted.items():
        assert words in " ".join(promise(answer, number))


def test_events_of_an_agent_without_a_time_limit_cannot_be_said_to_live_long_enough(whole: Cas) -> None:
    names = Names(whole.environment["CAS_DEPLOYMENT"])

    async def limit(js: JetStream, days: int) -> None:
        for stream in (names.commands, names.events):
            config = (await js.stream_info(stream)).config
            age_ns = days * DAY_NS * (2 if stream == names.events else 1)
            await js.call(f"STREAM.UPDATE.{stream}", config | {"max_age": age_ns})

    on_server(whole, lambda js: limit(js, 1))
    answer = whole("doctor", "--json")
    on_server(whole, lambda js: limit(js, 0))
    assert answer.code == 0
    assert "an agent has no time limit" in check(answer, "retention of events")["said"]


def test_a_log_that_is_nearly_full(cas: Cas) -> None:
    names = make_streams(cas, events={"max_bytes": 50_000})

    async def fill(js: JetStream) -> None:
        while (await js.stream_info(names.events)).state.bytes < 46_000:
            await js.append(names.event("log", "a", "t"), b"x" * 1000)

    on_server(cas, fill)
    answer = cas("doctor", "--json")
    room = check(answer, f"room in {names.events}")
    assert (answer.code, room["level"]) == (1, "problem")
    assert "max_bytes: 4" in room["said"]
    assert "start nothing" in promise(answer, 1)[1]


def said_of_nobody(cas: Cas) -> str:
    # The command runs a loop of its own, so it cannot run on the loop that waits for it.
    with ThreadPoolExecutor(1) as pool:
        return check(pool.submit(cas, "doctor", "--json").result(), "agent nobody")["said"]


def test_work_that_nobody_does_is_a_problem(cas: Cas) -> None:
    names = make_streams(cas)

    async def order(js: JetStream) -> None:
        await js.append(names.execute("nobody", "t1"), b"{}")

    on_server(cas, order)
    without = cas("doctor", "--json")
    assert (without.code, problems(without)) == (1, ["agent nobody"])
    assert "never had a runner" in check(without, "agent nobody")["said"]
    assert promise(without, 1)[0] == "holds with a condition"
    with cas.process(*UNSIGNED_PROJECTOR) as projector:
        projector.line_with("ready")
        asyncio.run(until(lambda: "1 of its tasks wait" in said_of_nobody(cas), what="the tables know"))
        assert check(cas("doctor", "--json"), "projector")["level"] == "ok"


def test_consumers(cas: Cas) -> None:
    names = make_streams(cas)
    paused = agent_consumer(names.deployment, "paused", 10.0)
    full = agent_consumer(names.deployment, "full", 10.0, max_ack_pending=1)
    foul = agent_consumer(names.deployment, "foul", 10.0).config() | {"max_deliver": 3}
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()

    async def spoil(js: JetStream) -> None:
        for config in (paused.config(), full.config(), foul):
            await js.create_consumer(names.commands, config)
        await js.pause_consumer(names.commands, paused.name, tomorrow)
        await js.append(names.execute("full", "t1"), b"{}")
        pull = f"$JS.API.CONSUMER.MSG.NEXT.{names.commands}.{full.name}"
        inbox, delivered = js.connection.new_inbox(), list[Message]()
        js.connection.listen(inbox, delivered.append)
        js.connection.publish(pull, b"1", reply=inbox)
        await until(lambda: delivered)

    on_server(cas, spoil)
    answer = cas("doctor", "--json")
    assert answer.code == 1
    assert set(problems(answer)) == {"consumer cancel", "consumer agent-foul", "agent full"}
    assert "paused for another" in check(answer, "consumer agent-paused")["said"]
    assert "is paused" in promise(answer, 4)[1]
    assert "all 1 places" in check(answer, "consumer agent-full")["said"]
    assert "max_deliver is 3" in check(answer, "consumer agent-foul")["said"]
    assert promise(answer, 5)[0] == "does not hold"


# --- servers that are no use


def test_a_server_without_jetstream(deployment: str, tmp_path: Path) -> None:
    with nats_process(tmp_path, config="listen: 127.0.0.1:-1\n") as port:
        answer = cas_for(f"nats://127.0.0.1:{port}", deployment, tmp_path)("doctor", "--json")
    assert (answer.code, problems(answer)) == (1, ["JetStream"])
    assert promise(answer, 1)[0] == "does not hold"
    assert promise(answer, 10)[0] == "holds"


def test_a_small_max_payload(deployment: str, tmp_path: Path) -> None:
    config = loopback_config(tmp_path) + "max_payload: 64KB\n"
    with nats_process(tmp_path, config=config) as port:
        answer = cas_for(f"nats://127.0.0.1:{port}", deployment, tmp_path)("doctor", "--json")
    assert (answer.code, problems(answer)) == (1, ["max_payload"])
    assert promise(answer, 8)[0] == "does not hold"


def test_an_account_with_a_limit(deployment: str, tmp_path: Path) -> None:
    config = loopback_config(tmp_path) + (
        "accounts { A: { jetstream: { max_file: 100MB }, users: [{ user: u, password: p }] } }\n"
    )
    with nats_process(tmp_path, config=config) as port:
        answer = cas_for(f"nats://u:p@127.0.0.1:{port}", deployment, tmp_path)("doctor", "--json")
    assert answer.code == 0
    assert "of 100 MiB used (0%)" in check(answer, "account storage")["said"]
    assert "p@" not in answer.out


def test_no_server_is_one_line(tmp_path: Path) -> None:
    answer = cas_for("nats://127.0.0.1:1", "cas", tmp_path)("doctor")
    assert (answer.code, answer.out) == (1, "")
    assert "127.0.0.1:1" in answer.error
