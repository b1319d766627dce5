"""Bad input (promise 9): the client raises before it sends; sent raw, it becomes an event with the reason and the raw
bytes, and the next task runs.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator

import pytest

from cas_events import (
    AgentUnavailableError,
    Client,
    DuplicateTaskError,
    InvalidCommandError,
    NotJsonError,
)
from cas_events.domain.events import Event
from cas_events.errors import (
    CasEventsError,
    InvalidNameError,
    PayloadTooLargeError,
    RefusedError,
    ServerUnreachableError,
)
from cas_events.uuid7 import uuid7
from tests.harness.patience import promised
from tests.harness.processes import RunnerProcess, serving, settings, until_served
from tests.harness.wait import until_async

DEPLOYMENT = "bad"


@pytest.fixture(scope="module")
def runner(nats_server) -> Iterator[RunnerProcess]:
    process = RunnerProcess(nats_server.url, DEPLOYMENT, lease_s=2, grace_s=1)
    yield process
    process.end()


@pytest.fixture
async def cas(nats_server, runner: RunnerProcess) -> AsyncIterator[Client]:
    async with Client(settings=settings(nats_server.url, DEPLOYMENT)) as client:
        await until_served(client, "echo")
        yield client


async def send_raw(cas: Client, body: bytes, agent: str = "echo", task_id: str | None = None) -> str:
    task_id = task_id or uuid7()
    await cas._session.js.append(cas._session.names.execute(agent, task_id), body)
    return task_id


async def events_of(cas: Client, task_id: str, agent: str = "echo") -> list[Event]:
    """Everything stored about one agent's use of an id, once it has ended."""
    names, js = cas._session.names, cas._session.js

    async def ended() -> bool:
        last = await js.last_message(names.events, names.lifecycle(agent, task_id))
        return (last is not None and b"cas.task.rejected" in last.data) or (
            last is not None and b"completed" in last.data
        )

    await until_async(ended, what=f"the end of {task_id}")
    return [event async for event in cas.replay(task_id=task_id, agent=agent)]


# --- the client raises before it sends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"input": {"x": float("nan")}}, NotJsonError),
        ({"input": {"x": float("inf")}}, NotJsonError),
        ({"input": {"x": object()}}, NotJsonError),
        ({"input": {"x": "\ud800"}}, NotJsonError),
        ({"timeout_s": -1}, InvalidCommandError),
        ({"timeout_s": "soon"}, InvalidCommandError),
        ({"max_attempts": 0}, InvalidCommandError),
        ({"parent_id": "no token"}, InvalidCommandError),
        ({"not_before": "tomorrow"}, InvalidCommandError),
        ({"not_before": -1}, InvalidCommandError),
        ({"task_id": ""}, InvalidNameError),
        ({"task_id": "a.b"}, InvalidNameError),
        ({"task_id": "a b"}, InvalidNameError),
        ({"task_id": "*"}, InvalidNameError),
        ({"task_id": "x" * 65}, InvalidNameError),
        ({"task_id": "ä"}, InvalidNameError),
    ],
)
async def test_the_client_raises_before_sending(cas: Client, options: dict, error: type[Exception]) -> None:
    names, js = cas._session.names, cas._session.js
    before = (await js.stream_info(names.commands)).state.last_seq

    with pytest.raises(error):
        await cas.execute_task("echo", **options)

    assert (await js.stream_info(names.commands)).state.last_seq == before


async def test_endless_nesting_is_refused(cas: Client) -> None:
    nested: dict = {}
    for _ in range(5_000):
        nested = {"a": nested}

    with pytest.raises(NotJsonError):
        await cas.execute_task("echo", {"deep": nested})


@pytest.mark.parametrize("agent", ["", "a.b", "*", ">", "a b", "x" * 65])
async def test_an_agent_that_is_no_token(cas: Client, agent: str) -> None:
    with pytest.raises(InvalidNameError):
        await cas.execute_task(agent, {})


async def test_the_limit_of_claim_checks_is_named(cas: Client) -> None:
    with pytest.raises(PayloadTooLargeError) as caught:
        await cas.execute_task("echo", {"text": "x" * (64 * 1024 * 1024 + 1)})

    assert "67108864" in str(caught.value)


# --- sent raw --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"not json", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"", "not JSON"),
        (b"[1]", "array"),
        (b"17", "number"),
        (b'{"input":"text"}', "input"),
        (b'{"timeout_s":"5"}', "timeout_s"),
        (b'{"input":{"x":NaN}}', "not JSON"),
        (b'{"input":{"x":Infinity}}', "not JSON"),
        (b"[" * 50_000, "nested"),
        (b'{"input":' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}", "nested"),
        (b'{"input":{"$ref":"x","bytes":1,"sha256":"x"}}', "claim check"),
    ],
)
async def test_raw_bad_input_is_rejected_with_reason_and_bytes(cas: Client, body: bytes, detail: str) -> None:
    task_id = await send_raw(cas, body)

    (rejected,) = await events_of(cas, task_id)

    assert rejected.type == "cas.task.rejected"
    assert (rejected.attempt, rejected.index) == (1, 0)
    assert rejected.data["reason"] in {"bad_body", "bad_claim_check"}
    assert detail in rejected.data["detail"]
    assert base64.b64decode(rejected.data["raw"]) == body
    assert (await cas.execute_task("echo", {"next": 1})).status == "completed"


async def test_a_large_raw_body_is_rejected_by_claim_check(cas: Client) -> None:
    body = b"x" * 900_000
    task_id = await send_raw(cas, body)

    (rejected,) = await events_of(cas, task_id)

    blob = await cas._session.blobs.get(rejected.data["raw"]["sha256"], max_bytes=10**7)
    assert base64.b64decode(json.loads(blob)) == body


async def test_a_claim_check_that_leads_nowhere_is_rejected(cas: Client) -> None:
    missing = "0" * 64
    body = json.dumps({"input": {"$ref": missing, "bytes": 5, "sha256": missing}}).encode()
    task_id = await send_raw(cas, body)

    events = await events_of(cas, task_id)

    assert [event.type for event in events] == ["cas.task.started", "cas.task.rejected"]
    assert events[1].data["reason"] == "bad_claim_check"


async def test_an_id_of_another_agents_task(cas: Client) -> None:
    first = await cas.execute_task("echo", {"n": 1}, task_id="taken")

    with pytest.raises(DuplicateTaskError):
        await cas.submit_task("noop", task_id="taken")
    await send_raw(cas, b"{}", agent="noop", task_id="taken")
    rejected = (await events_of(cas, "taken", agent="noop"))[-1]

    assert rejected.type == "cas.task.rejected"
    assert rejected.data["reason"] == "duplicate_task"
    assert rejected.attempt == 0
    assert rejected.index == rejected.data["command_seq"]
    assert (await (await cas.task("taken")).result()).output == first.output


async def test_the_server_refuses_a_second_execute_and_what_is_no_subject(cas: Client) -> None:
    names, js = cas._session.names, cas._session.js
    task_id = await send_raw(cas, b"{}")

    with pytest.raises(RefusedError) as caught:
        await js.append(names.execute("echo", task_id), b"{}")
    with pytest.raises(CasEventsError):
        await js.append(names.execute("echo", "a.b"), b"{}", timeout_s=1)
    with pytest.raises(CasEventsError):
        await js.append(names.execute("echo", "a b"), b"{}", timeout_s=1)

    assert caught.value.err_code == 10077


async def test_an_id_that_is_no_token_leaves_a_trace_and_stops_nothing(cas: Client) -> None:
    names, js = cas._session.names, cas._session.js
    ack = await js.append(f"{names.deployment}.cmd.execute.echo.a/b", b"{}")

    async def is_said() -> bool:
        last = await js.last_message(names.events, names.agent_event("echo"))
        return last is not None and b"command_ignored" in last.data and b"a/b" in last.data

    await until_async(is_said, what=f"command_ignored for {ack.seq}")
    assert (await cas.execute_task("echo")).status == "completed"


async def test_a_resume_that_answers_nothing_is_said(cas: Client) -> None:
    names, js = cas._session.names, cas._session.js
    result = await cas.execute_task("echo")
    await js.append(names.resume("echo", uuid7(), "i-1"), b"not json")

    async def is_said() -> bool:
        last = await js.last_message(names.events, names.agent_event("echo"))
        return last is not None and b"no such task" in last.data

    await until_async(is_said, what="command_ignored")
    assert result.status == "completed"


@pytest.mark.parametrize("garbage", [b"garbage", b"{}", b"[" * 10_000, b'{"specversion":"1.0"}'])
async def test_garbage_on_a_lifecycle_subject_stops_nobody(cas: Client, garbage: bytes) -> None:
    names, js = cas._session.names, cas._session.js
    task_id = uuid7()
    await js.append(names.lifecycle("echo", task_id), garbage)
    await send_raw(cas, b"{}", task_id=task_id)

    task = await cas.task(task_id)
    async with asyncio.timeout(promised(15.0)):
        assert (await task.result()).status == "completed"
        assert [event async for event in task.events()][-1].is_terminal


async def test_a_body_over_the_payload_limit_is_refused_by_the_server(cas: Client) -> None:
    with pytest.raises(PayloadTooLargeError):
        await send_raw(cas, b"x" * (1024 * 1024 + 1))


# --- nobody there ----------------------------------------------------------------------------------------------------------------


async def test_sent_raw_to_an_unserved_agent_it_waits_and_then_runs(nats_server, deployment: str) -> None:
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        await send_raw(client, b'{"input":{"n":1}}', task_id="waits")
        with pytest.raises(AgentUnavailableError):
            await client.execute_task("echo")
        assert await client.is_served("echo") is False
        async with serving(nats_server.url, deployment, "echo"):
            result = await (await client.task("waits")).result()

    assert result.output["echo"] == {"n": 1}


async def test_no_server_is_one_clear_error_with_the_url() -> None:
    url = "nats://127.0.0.1:9"

    with pytest.raises(ServerUnreachableError) as caught:
        async with Client(url):
            pass

    assert url in str(caught.value)
    assert "\n" not in str(caught.value)
