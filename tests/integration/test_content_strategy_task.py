"""The content-strategy workflow and its agents as tasks: through a real server, a real runner and the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cas_events import Client, Task
from cas_events.agents import register_samples
from tests.harness.own_runner import running


@pytest.fixture
async def samples(cas: Client, make_runner) -> AsyncIterator[Client]:
    runner = make_runner()
    register_samples(runner)
    async with running(cas, runner):
        yield cas


async def test_every_agents_progress_reaches_the_workflows_followers(samples: Client, tmp_path: Path) -> None:
    (tmp_path / "bread.md").write_text("# Bread\n\nFlour and water make bread. Wait a day.\n")
    request = {"path": str(tmp_path / "bread.md"), "auto_approve": True}
    async with asyncio.timeout(60):
        events = [event async for event in samples.stream_task("content-strategy", request)]
    assert events[-1].type == "cas.task.completed", events[-1].data
    assert events[-1].data["output"]["strategy"]["status"] == "planned"
    progress = [event.data for event in events if event.type == "cas.progress"]
    assert {"analyst", "marketer"} <= {data["agent"] for data in progress}
    bar = [data["progress"] for data in progress]
    assert bar == sorted(bar)
    assert bar[-1] == 1.0
    outputs = [event.data["value"] for event in events if event.type == "cas.output"]
    assert any("analysis" in value for value in outputs)
    assert any("draft" in value for value in outputs)


async def test_the_analysts_answer_is_the_marketers_question(samples: Client) -> None:
    async with asyncio.timeout(60):
        analysed = await samples.execute_task("analyst", {"text": "# Bread\n\nFlour and water make bread."})
        assert analysed.status == "completed", analysed.error
        planned = await samples.execute_task("marketer", analysed.output)
    assert planned.status == "completed", planned.error
    assert planned.output["brief"]["topic"] == "Bread"
    assert len(planned.output["plan"]["headlines"]) >= 3


@pytest.mark.parametrize(
    ("request_", "error"),
    [({"path": "gone.md"}, "PathNotFoundError"), ({"max_files": 0, "text": "x"}, "InvalidCommandError")],
)
async def test_what_cannot_be_mended_is_not_tried_again(samples: Client, request_: dict, error: str) -> None:
    async with asyncio.timeout(60):
        events = [event async for event in samples.stream_task("content-strategy", request_)]
    assert [event.type for event in events if event.type.startswith("cas.task.")] == [
        "cas.task.started",
        "cas.task.failed",
    ]
    assert events[-1].data["error"]["type"] == error


async def test_a_person_is_asked_and_the_answer_decides(samples: Client) -> None:
    async with asyncio.timeout(90):
        asked = await samples.submit_task(
            "content-strategy", {"text": "# Bread\n\nFlour and water make bread."}
        )
        question = await next_question(asked)
        assert question["value"]["brief"]["topic"] == "Bread"
        assert await asked.resume(question["id"], {"approve": "perhaps"}) == "accepted"
        again = await next_question(asked, after=question["seq"])
        assert again["id"] != question["id"], "an answer that is none leaves the question open"
        assert await asked.resume(again["id"], {"approve": False, "notes": "audience: bakers"}) == "accepted"
        result = await asked.result()
    assert result.status == "completed", result.error
    assert result.output["strategy"]["brief"]["audience"] == "bakers"


async def next_question(task: Task, *, after: int = 0) -> dict[str, Any]:
    """The next question that the task asks, with the sequence of the event that asks it."""
    async for event in task.events(after=after):
        if event.type == "cas.task.interrupted":
            [question] = event.data["interrupts"]
            return {**question, "seq": event.seq}
    raise AssertionError("the task ended without a question")
