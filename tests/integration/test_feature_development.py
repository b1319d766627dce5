"""The feature-development workflow: tests that really run, findings that really lead to the next version.

Goal: every file of the answer was tested; a cancel, and the runner's death, end the tests' process.
Method: the graph in process with real tools, then the workflow through a real runner, also one that is killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from cas_events import Client
from cas_events.agents import register_samples
from cas_events.agents.feature_development.graph import build_feature_development
from cas_events.errors import InvalidCommandError
from tests.harness.own_runner import running
from tests.harness.processes import Process, until_served
from tests.harness.wait import until

SPECS = files("cas_events.agents.feature_development") / "specs"
UNCLEAR = '# Odd\n\n## odd(x: str) -> str\n\n- Lower case.\n- Make it nice.\n- `odd("A")` gives `"a"`\n'


def long_spec(title: str) -> str:
    """A specification whose tests take a while."""
    examples = "\n".join(f"- `f({number})` gives `{number + 1}`" for number in range(1_500))
    return f"# {title}\n\n## f(x: int) -> int\n\n- Add 1.\n{examples}\n"


async def run(**request: Any) -> dict[str, Any]:
    return dict(await build_feature_development().ainvoke(request))  # type: ignore[arg-type]


async def test_findings_lead_to_a_version_that_is_accepted(tmp_path: Path) -> None:
    text = (SPECS / "statistics.md").read_text()
    answer = await run(text=text, write_to=str(tmp_path))
    assert answer["rounds"] == 1, "the first version must fail on the empty list"
    assert answer["verdict"]["accepted"] is True
    assert answer["verdict"]["passed"] == 5
    assert "if not numbers" in answer["files"]["sales_figures.py"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == answer["files"]
    again = await run(text=text, write_to=str(tmp_path))
    assert again["diff"] == "", "the same files are there already"


async def test_nothing_is_written_and_nothing_is_left_unless_asked(tmp_path: Path, monkeypatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.md").write_text(UNCLEAR)
    answer = await run(path="odd.md", max_rounds=1)
    assert answer["verdict"]["accepted"] is False
    assert [finding["kind"] for finding in answer["verdict"]["findings"]] == ["unclear"]
    assert list(scratch.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd.md", "scratch"]


async def test_a_loop_that_cannot_help_ends_before_its_bound() -> None:
    answer = await run(text="# T\n\n## f(x: int) -> int\n\n- Add 1.\n- `f(1)` gives `7`\n", max_rounds=10)
    assert answer["verdict"]["accepted"] is False
    assert answer["rounds"] == 0


@pytest.mark.parametrize(
    ("content", "word"), [(b"", "no function"), (b"\0\1", "binary|no function"), (b"x" * 200_000, "at most")]
)
async def test_what_is_no_specification_fails_with_the_reason(
    tmp_path: Path, content: bytes, word: str
) -> None:
    (tmp_path / "spec.md").write_bytes(content)
    with pytest.raises(InvalidCommandError, match=word):
        await run(path=str(tmp_path / "spec.md"))
    with pytest.raises(InvalidCommandError, match="folder"):
        await run(path=str(tmp_path))
    with pytest.raises(InvalidCommandError, match="write_to"):
        await run(path=str(tmp_path / "spec.md"), write_to=str(tmp_path / "gone"))


@pytest.fixture
async def samples(cas: Client, make_runner) -> AsyncIterator[Client]:
    runner = make_runner()
    register_samples(runner)
    async with running(cas, runner):
        yield cas


async def test_followers_see_every_agent_and_pytests_own_lines(samples: Client) -> None:
    request = {"text": (SPECS / "statistics.md").read_text()}
    async with asyncio.timeout(90):
        events = [event async for event in samples.stream_task("feature-development", request)]
    assert events[-1].type == "cas.task.completed", events[-1].data
    progress = [event.data for event in events if event.type == "cas.progress"]
    assert {data["agent"] for data in progress} == {"analyst", "planner", "developer", "tester", "qa"}
    bar = [data["progress"] for data in progress]
    assert bar == sorted(bar)
    assert bar[-1] == 1.0
    lines = [event.data["message"] for event in events if event.type == "cas.log"]
    assert any("test_average_2 FAILED" in line for line in lines)
    assert any("test_average_2 PASSED" in line for line in lines)
    diffs = [
        event.data["value"]["diff"]
        for event in events
        if event.type == "cas.output" and "diff" in event.data["value"]
    ]
    assert len(diffs) == 2
    assert "+    if not numbers:" in diffs[1]


async def test_the_agents_work_one_after_the_other_as_tasks(samples: Client) -> None:
    work: Any = {"kind": "specification", "text": UNCLEAR}
    async with asyncio.timeout(90):
        for agent in ("analyst", "planner", "developer", "tester", "qa", "developer"):
            result = await samples.execute_task(agent, work)
            assert result.status == "completed", (agent, result.error)
            work = result.output
    assert work["verdict"]["accepted"] is False
    assert work["version"]["round"] == 1
    assert work["version"]["changed"] is False


async def test_a_cancel_ends_the_tests_process(samples: Client) -> None:
    async with asyncio.timeout(90):
        task = await samples.submit_task("feature-development", {"text": long_spec("Cancelled one")})
        await until(lambda: pids_with("test_cancelled_one.py"), timeout_s=60, what="pytest runs")
        await task.cancel("enough", wait=True)
        result = await task.result()
    assert result.status == "cancelled"
    await until(lambda: not pids_with("test_cancelled_one.py"), timeout_s=10, what="pytest is gone")


async def test_the_runners_death_ends_the_tests_process(cas: Client, nats_url: str, deployment: str) -> None:
    worker = Process(
        ["-m", "cas_events.cli", "worker", "cas_events.agents.samples:runner"],
        CAS_NATS_URL=nats_url,
        CAS_DEPLOYMENT=deployment,
    )
    try:
        async with asyncio.timeout(90):
            await until_served(cas, "feature-development")
            await cas.submit_task("feature-development", {"text": long_spec("Killed one")})
            await until(lambda: pids_with("test_killed_one.py"), timeout_s=60, what="pytest runs")
            worker.kill()
            await until(lambda: not pids_with("test_killed_one.py"), timeout_s=10, what="pytest is gone")
    finally:
        worker.end()


def pids_with(word: str) -> list[str]:
    """Processes with a word on their command line."""
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and word.encode() in (entry / "cmdline").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found
