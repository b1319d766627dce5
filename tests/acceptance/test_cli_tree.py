"""`cas tree`, as a user types it, against a real server, a real worker and a real projector."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.cas import UNSIGNED_PROJECTOR, Cas
from tests.harness.server import NatsServer

AGENTS = '''
"""A family."""
import asyncio
from cas_events import ChildTaskError, Runner

mine = Runner(grace_s=0.5)

@mine.agent("campaign")
async def campaign(ctx, input):
    texts = await asyncio.gather(*(ctx.call("writer", {"n": n}) for n in range(2)))
    try:
        await ctx.call("printer", {})
    except ChildTaskError as error:
        return {"texts": texts, "printed": str(error)}

@mine.agent("writer")
async def writer(ctx, input):
    return await ctx.call("speller", input)

@mine.agent("speller")
async def speller(ctx, input):
    return {"spelt": input["n"]}

@mine.agent("printer", max_attempts=1)
async def printer(ctx, input):
    raise ValueError("no ink")
'''


@pytest.fixture(scope="module")
def cas(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cas]:
    home = tmp_path_factory.mktemp("home")
    (home / "family.py").write_text(AGENTS)
    cas = Cas(
        {
            "CAS_NATS_URL": nats_server.url,
            "CAS_DEPLOYMENT": f"t{uuid.uuid4().hex[:12]}",
            "CAS_HOME": str(home),
        }
    )
    with (
        cas.process("worker", "family:mine", cwd=home) as worker,
        cas.process(*UNSIGNED_PROJECTOR) as projector,
    ):
        worker.line_with("runner ready")
        projector.line_with("ready")
        answer = cas("run", "campaign", "--task-id", "spring", "--wait-for-runner", "60")
        assert answer.code == 0, answer.err
        # The root's end is the family's last event.
        seq = cas("replay", "--task", "spring", "--json").lines[-1]["seq"]
        assert cas("sql", "SELECT 1", "--wait-for", str(seq)).code == 0
        yield cas


def whole(cas: Cas, task_id: str) -> list[dict[str, Any]]:
    answer = cas("tree", task_id, "--json")
    assert answer.code == 0, answer.err
    return answer.json


def test_the_family_of_a_task_is_shown_from_its_root(cas: Cas) -> None:
    rows = whole(cas, "spring")
    assert [(row["depth"], row["agent_id"], row["status"]) for row in rows] == [
        (0, "campaign", "completed"),
        (1, "writer", "completed"),
        (2, "speller", "completed"),
        (1, "writer", "completed"),
        (2, "speller", "completed"),
        (1, "printer", "failed"),
    ]
    assert rows[2]["parent_id"] == rows[1]["task_id"]
    assert all(row["duration_s"] >= 0 for row in rows)
    # Any of the family will do.
    assert [row["task_id"] for row in whole(cas, rows[4]["task_id"])] == [row["task_id"] for row in rows]


def test_people_get_a_drawing(cas: Cas) -> None:
    rows = whole(cas, "spring")
    lines = cas("tree", rows[2]["task_id"]).out.splitlines()
    leads = ["", "├─ ", "│ └─ ", "├─ ", "│ └─ ", "└─ "]
    assert len(lines) == len(rows)
    for line, lead, row in zip(lines, leads, rows, strict=True):
        assert line.startswith(f"{lead}{row['agent_id']}  {row['status']}  ")
        assert line.endswith(row["task_id"])


def test_a_task_that_nobody_knows(cas: Cas) -> None:
    answer = cas("tree", "never-heard-of")
    assert answer.code == 1
    assert "'never-heard-of' is not in the log" in answer.error
    assert json.loads(cas("sql", "SELECT count(*) AS n FROM cas_tasks", "--json").out) == [{"n": 6}]
    assert Path(cas.environment["CAS_HOME"]).exists()
