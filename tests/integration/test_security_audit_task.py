"""The security audit as a task: through a real server, a real runner and the client.

Goal: what an audit stores is what it says, no secret reaches the log, and a cancel ends the scanners.
Method: a runner and a client in this process, the server's streams read back raw.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cas_events import Client, Runner
from cas_events.agents import register_samples
from cas_events.jetstream.api import JetStream
from cas_events.settings import Settings
from cas_events.wire.subjects import Names
from tests.harness.patience import promised
from tests.harness.wait import until

PASSWORD = "hunter2" + "secretvalue"
WEAK = f'import subprocess\npassword = "{PASSWORD}"\nsubprocess.call("ls " + password, shell=True)\n'


@pytest.fixture
def task_settings(nats_url: str, deployment: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(nats_url=nats_url, deployment=deployment, home=tmp_path_factory.mktemp("home"))


@pytest.fixture
async def cas(task_settings: Settings) -> AsyncIterator[Client]:
    runner = Runner(settings=task_settings)
    register_samples(runner)
    running = asyncio.create_task(runner.run(handle_signals=False))
    async with asyncio.timeout(promised(20.0)):
        await runner.ready.wait()
    async with Client(settings=task_settings) as client:
        yield client
    runner.stop()
    async with asyncio.timeout(promised(20.0)):
        await running


async def test_an_audit_is_followed_and_stores_no_secret(cas: Client, tmp_path: Path) -> None:
    (tmp_path / "weak.py").write_text(WEAK)
    async with asyncio.timeout(promised(60.0)):
        events = [event async for event in cas.stream_task("security-audit", {"path": str(tmp_path)})]
    assert events[-1].type == "cas.task.completed", events[-1].data
    output = events[-1].data["output"]
    findings = [
        event.data for event in events if event.type == "cas.log" and event.data["message"] == "finding"
    ]
    assert len(findings) == output["findings"]["total"] > 0
    assert {"ruff", "bandit", "detect-secrets"} == {value["metadata"]["tool"] for value in findings}
    bar = [event.data["progress"] for event in events if event.type == "cas.progress"]
    assert bar == sorted(bar)
    assert bar[-1] == 1.0
    assert {event.data.get("node") for event in events if event.type == "cas.progress"} == {
        "security",
        "engineer",
    }
    assert PASSWORD not in json.dumps([event.data for event in events])


async def test_nothing_in_any_stream_holds_the_secret(
    cas: Client, js: JetStream, deployment: str, tmp_path: Path
) -> None:
    (tmp_path / "weak.py").write_text(WEAK)
    async with asyncio.timeout(promised(60.0)):
        result = await cas.execute_task("security-audit", {"path": str(tmp_path)})
        assert result.status == "completed"
        names = Names(deployment)
        stored = [await _everything(js, stream) for stream in (names.commands, names.events, names.output)]
    assert all(b"security-audit" in text for text in stored)
    assert b"hardcoded password" in stored[1]
    assert not any(PASSWORD.encode() in text for text in stored)


async def _everything(js: JetStream, stream: str) -> bytes:
    """All messages of a stream; read one by one, for on disk the server compresses them."""
    state = (await js.stream_info(stream)).state
    messages = [await js.message(stream, seq) for seq in range(state.first_seq, state.last_seq + 1)]
    return b"".join(message.subject.encode() + message.data for message in messages if message is not None)


async def test_a_missing_path_fails_once_with_the_path(cas: Client, tmp_path: Path) -> None:
    async with asyncio.timeout(promised(60.0)):
        events = [
            event async for event in cas.stream_task("security-audit", {"path": str(tmp_path / "gone")})
        ]
    assert [event.type for event in events if event.type.startswith("cas.task.")] == [
        "cas.task.started",
        "cas.task.failed",
    ]
    error = events[-1].data["error"]
    assert error["type"] == "PathNotFoundError"
    assert str(tmp_path / "gone") in error["message"]


async def test_a_cancel_ends_the_scanners(cas: Client, tmp_path: Path) -> None:
    body = "".join(f"def f{number}(x):\n    assert x\n\n\n" for number in range(15_000))
    for number in range(20):
        (tmp_path / f"m{number}.py").write_text(body)
    async with asyncio.timeout(promised(60.0)):
        task = await cas.submit_task("security-audit", {"path": str(tmp_path)})
        await until(lambda: _is_scanning(tmp_path), timeout_s=20, what="scanners run")
        await task.cancel("enough", wait=True)
        result = await task.result()
    assert result.status == "cancelled"
    await until(lambda: not _is_scanning(tmp_path), timeout_s=1, what="scanners are gone")


def _is_scanning(path: Path) -> bool:
    """Whether a process has the path on its command line."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and str(path).encode() in (entry / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False
