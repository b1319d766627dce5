"""A client in JavaScript with nothing but a NATS library starts, follows, cancels and replays tasks.

Goal: the contract of docs/protocol-for-clients.md holds for a program that shares no code with us. Method: a real
server, `tests/node/client.mjs` as a process, and the sample runner as a process. Every event that JavaScript read is
checked here, as the bytes that it got, by JSON Schema and by the official `cloudevents` package.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from cas_events import Client
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.topology import ensure_streams
from tests.harness import node, own_runner
from tests.harness.contract import TASK_LIFECYCLE_TYPES, check_event
from tests.harness.node import Line, node_client, run_client
from tests.harness.processes import settings
from tests.harness.server import NatsServer

pytestmark = pytest.mark.node

CAS = Path(sys.executable).parent / "cas"
SAMPLES = "cas_events.agents.samples:runner"
STOP_TIMEOUT_S = 30.0

REFUSED = 3  # the client's exit code when the server refused


@pytest.fixture(scope="session", autouse=True)
def _installed() -> None:
    node.install()


@pytest.fixture(autouse=True)
async def _streams(js: JetStream) -> None:
    await ensure_streams(js, "cas")


@pytest.fixture(scope="module")
def runner(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The sample runner, as its operator starts it, once it has run a task."""
    home = tmp_path_factory.mktemp("home")
    log = home / "runner.log"
    environment = os.environ | {"CAS_NATS_URL": nats_server.url, "CAS_HOME": str(home)}
    command = [str(CAS), "worker", SAMPLES]
    with (
        log.open("wb") as out,
        subprocess.Popen(command, env=environment, cwd=home, stdout=out, stderr=out) as process,
    ):
        try:
            wait_until_it_works(process, nats_server.url, log)
            yield
            assert process.poll() is None, log.read_text()[-3000:]
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)


def wait_until_it_works(runner_process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Run a task with the JavaScript client; fail at once when the runner ends meanwhile."""
    command = [str(node.BIN / "node"), "client.mjs", "run", "echo", "js-warm-up", "{}"]
    environment = os.environ | {"NATS_URL": url}
    exit_code = REFUSED  # which it is until the runner has created the streams
    while exit_code == REFUSED:
        with subprocess.Popen(command, cwd=node.FOLDER, env=environment, stdout=subprocess.DEVNULL) as client:
            exit_code = wait_while_alive(client, runner_process, log)
    assert exit_code == 0, f"no task was run: {log.read_text()[-3000:]}"


def wait_while_alive(client: subprocess.Popen[bytes], other: subprocess.Popen[bytes], log: Path) -> int:
    """The client's exit code, provided that the other process lives as long."""
    while True:
        try:
            return client.wait(0.1)
        except subprocess.TimeoutExpired:
            if other.poll() is not None:
                client.kill()
                raise AssertionError(f"`cas worker` ended: {log.read_text()[-3000:]}") from None


def checked(lines: list[Line]) -> list[dict[str, Any]]:
    """The events that the client printed, each checked, with nothing else among the lines."""
    for line in lines:
        event = check_event(line["raw"].encode())
        assert line["subject"].rpartition(".")[2] == event.get_subject()
        assert line["seq"] > 0
    return [json.loads(line["raw"]) for line in lines]


def in_order(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(events, key=lambda event: (event["attempt"], event["index"]))


async def test_server_stores_one_execute_per_task_id(nats_url: str) -> None:
    first = await run_client(nats_url, "start", "nobody", "js-once", '{"input": {}}')
    assert first.exit_code == 0, first.errors
    assert first.lines == [
        {"ack": {"stream": "CAS_COMMANDS", "seq": first.lines[0]["ack"]["seq"], "duplicate": False}}
    ]
    again = await run_client(nats_url, "start", "nobody", "js-once", '{"input": {"other": 1}}')
    assert again.exit_code == REFUSED
    assert again.lines[0]["refused"]["err_code"] == 10077


async def test_server_stores_one_cancel_per_task_id(nats_url: str) -> None:
    assert (await run_client(nats_url, "cancel", "js-cancel-once")).exit_code == 0
    again = await run_client(nats_url, "cancel", "js-cancel-once")
    assert (again.exit_code, again.lines[0]["refused"]["err_code"]) == (REFUSED, 10077)


@pytest.mark.parametrize("task", ["a.b", "a.b.c", "a b"])
async def test_id_that_is_no_token_is_not_stored(nats_url: str, task: str) -> None:
    refused = await run_client(nats_url, "start", "nobody", task)
    assert refused.exit_code != 0
    assert not any("ack" in line for line in refused.lines)


@pytest.mark.usefixtures("runner")
async def test_task_is_started_followed_and_replayed(nats_url: str) -> None:
    body = json.dumps({"input": {"text": "grüße", "steps": 3, "none": None}, "metadata": {"from": "js"}})
    live = await run_client(nats_url, "run", "echo", "js-run", body)
    assert live.exit_code == 0, live.errors
    following, started, *lines = live.lines
    assert following == {"following": "cas.live.evt.*.echo.js-run"}
    assert started["ack"]["stream"] == "CAS_COMMANDS"

    events = checked(lines)
    assert [line["seq"] for line in lines] == sorted({line["seq"] for line in lines})
    lifecycle = [event["type"] for event in events if event["type"] in TASK_LIFECYCLE_TYPES]
    assert lifecycle == ["cas.task.started", "cas.task.completed"]
    assert {"cas.progress", "cas.log"} <= {event["type"] for event in events}
    assert {event["data"]["command_seq"] for event in (events[0], events[-1])} == {started["ack"]["seq"]}
    assert events[-1]["data"]["output"]["text"] == "grüße"
    assert len({event["index"] for event in events}) == len(events)

    replayed = await run_client(nats_url, "replay", "echo", "js-run")
    assert (replayed.exit_code, replayed.lines) == (0, lines)
    tail = await run_client(nats_url, "replay", "echo", "js-run", str(lines[-1]["seq"]))
    assert tail.lines == lines[-1:]

    again = await run_client(nats_url, "start", "echo", "js-run", body)
    assert (again.exit_code, again.lines[0]["refused"]["err_code"]) == (REFUSED, 10077)


@pytest.mark.usefixtures("runner")
async def test_running_task_is_cancelled(nats_url: str) -> None:
    body = json.dumps({"input": {"steps": 600, "delay_s": 0.1}})
    async with node_client(nats_url, "run", "echo", "js-cancel", body) as client:
        lines = [await client.line(), await client.line()]
        while "cas.progress" not in lines[-1].get("raw", ""):
            lines.append(await client.line())
        cancel = await run_client(
            nats_url, "cancel", "js-cancel", '{"reason": "enough", "requested_by": "js"}'
        )
        assert cancel.exit_code == 0, cancel.errors
        rest = await client.finish()
    assert rest.exit_code == 0, rest.errors
    last = checked([*lines[2:], *rest.lines])[-1]
    assert last["type"] == "cas.task.cancelled"
    assert (last["data"]["reason"], last["data"]["requested_by"]) == ("enough", "js")
    assert last["data"]["started"] is True


class State(TypedDict, total=False):
    told: Any


async def ask(_state: State) -> State:
    return {"told": interrupt({"publish": "draft"})}


async def test_a_question_is_answered(nats_url: str) -> None:
    """A graph asks; JavaScript sees the question in the live events and answers it."""
    builder = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    agents = own_runner.make_runner(nats_url, "cas")
    agents.register("approve", builder)
    async with Client(settings=settings(nats_url, "cas")) as cas, own_runner.running(cas, agents):
        async with node_client(nats_url, "run", "approve", "js-ask", "{}") as client:
            lines = [await client.line(), await client.line()]
            while "cas.task.interrupted" not in lines[-1].get("raw", ""):
                lines.append(await client.line())
            [question] = json.loads(lines[-1]["raw"])["data"]["interrupts"]
            answer = ("answer", "approve", "js-ask", question["id"], '{"value": {"approve": "ja"}}')
            stored = await run_client(nats_url, *answer)
            assert stored.exit_code == 0, stored.errors
            rest = await client.finish()
        again = await run_client(nats_url, *answer)
    assert question["value"] == {"publish": "draft"}
    assert (again.exit_code, again.lines[0]["refused"]["err_code"]) == (REFUSED, 10077)
    events = checked([*lines[2:], *rest.lines])
    lifecycle = [event["type"] for event in events if event["type"] in TASK_LIFECYCLE_TYPES]
    assert lifecycle == [
        f"cas.task.{n}" for n in ("started", "interrupted", "resumed", "started", "completed")
    ]
    assert events[-1]["data"]["output"] == {"told": {"approve": "ja"}}


@pytest.mark.usefixtures("runner")
async def test_task_cancelled_before_it_was_started_never_runs(nats_url: str) -> None:
    assert (await run_client(nats_url, "cancel", "js-early", '{"reason": "changed my mind"}')).exit_code == 0
    result = await run_client(nats_url, "run", "echo", "js-early", "{}")
    assert result.exit_code == 0, result.errors
    events = in_order(checked(result.lines[2:]))
    assert events[-1]["type"] == "cas.task.cancelled"
    assert not {"cas.progress", "cas.log", "cas.task.completed"} & {event["type"] for event in events}


@pytest.mark.usefixtures("runner")
@pytest.mark.parametrize(
    ("task", "body"),
    [
        ("js-bad-text", "not JSON"),
        ("js-bad-list", "[1]"),
        ("js-bad-nan", '{"input": {"x": NaN}}'),
        ("js-bad-empty", ""),
    ],
)
async def test_bad_body_is_rejected_with_its_bytes(nats_url: str, task: str, body: str) -> None:
    result = await run_client(nats_url, "run", "echo", task, body)
    assert result.exit_code == 0, result.errors
    [event] = checked(result.lines[2:])
    assert event["type"] == "cas.task.rejected"
    assert event["data"]["reason"] == "bad_body"
    assert base64.b64decode(event["data"]["raw"]) == body.encode()


@pytest.mark.usefixtures("runner")
async def test_id_of_another_agents_task_is_rejected(nats_url: str) -> None:
    first = await run_client(nats_url, "run", "echo", "js-same", "{}")
    assert first.lines[-1]["subject"] == "cas.evt.task.echo.js-same"
    second = await run_client(nats_url, "run", "security", "js-same", '{"input": {"path": "."}}')
    # A claim may go out beside the look at the id's first use, so `started` may come first; no user code runs.
    *before, event = checked(second.lines[2:])
    assert {other["type"] for other in before} <= {"cas.task.started"}
    assert (event["type"], event["data"]["reason"], event["attempt"]) == (
        "cas.task.rejected",
        "duplicate_task",
        0,
    )
    assert event["index"] == second.lines[1]["ack"]["seq"]
