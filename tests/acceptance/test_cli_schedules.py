"""What starts later, as a user types it: `cas run --delay`, and what `cas tasks` says of it.

Everything is far in the future, so nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.harness.cas import Cas, CasProcess
from tests.harness.server import NatsServer

AGENTS = '''
"""Agents of a user."""
from cas_events import Runner

mine = Runner(grace_s=0.5)

@mine.agent("echo")
async def echo(ctx, input):
    return input
'''


@pytest.fixture(scope="module")
def cas(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Cas:
    return Cas(
        {
            "CAS_NATS_URL": nats_server.url,
            "CAS_DEPLOYMENT": f"t{uuid.uuid4().hex[:12]}",
            "CAS_HOME": str(tmp_path_factory.mktemp("home")),
        }
    )


@pytest.fixture(scope="module")
def worker(cas: Cas, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CasProcess]:
    folder = tmp_path_factory.mktemp("agents")
    (folder / "our_agents.py").write_text(AGENTS)
    with cas.process("worker", "our_agents:mine", cwd=folder) as process:
        process.line_with("runner ready")
        yield process


@pytest.fixture(scope="module")
def projector(cas: Cas) -> Iterator[CasProcess]:
    with cas.process("projector") as process:
        process.line_with("ready")
        yield process


def test_a_delayed_task_is_listed_with_its_due_time_and_cancelled(
    cas: Cas, worker: CasProcess, projector: CasProcess
) -> None:
    before = datetime.now(UTC)
    begun = cas("run", "echo", "--delay", "86400", "--detach", "--task-id", "tomorrow")
    after = datetime.now(UTC)
    at = cas(
        "run", "echo", "--not-before", "2126-01-01T00:00:00+01:00", "--detach", "--task-id", "much-later"
    )
    assert [begun.code, at.code] == [0, 0], begun.err + at.err
    # What is done next puts both commands into the tables: they are older than its event.
    now = cas("run", "echo", '{"x": 1}', "--json")
    assert cas("sql", "SELECT 1", "--wait-for", str(now.lines[-1]["seq"])).code == 0

    rows = {row["task_id"]: row for row in cas("tasks", "--status", "queued", "--json").json}
    assert set(rows) == {"tomorrow", "much-later"}
    due = datetime.fromisoformat(rows["tomorrow"]["not_before"])
    assert before + timedelta(days=1) <= due <= after + timedelta(days=1, microseconds=1)
    assert rows["much-later"]["not_before"] == "2126-01-01T00:00:00+01:00"
    shown = cas("tasks").out
    local = datetime.fromisoformat("2126-01-01T00:00:00+01:00").astimezone()
    assert f"queued, due {local:%Y-%m-%d %H:%M:%S}" in " ".join(shown.split())

    ended = cas("cancel", "much-later", "--wait")
    assert ended.out == "task much-later: requested, cancelled\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--delay", "-1"), "--delay"),
        (("--delay", "nan"), "--delay"),
        (("--delay", "inf"), "not_before"),
        (("--not-before", "tomorrow"), "not_before"),
        (("--not-before", "2026-11-22T09:00:00"), "not_before"),
        (("--delay", "1", "--not-before", "2126-01-01T00:00:00Z"), "--delay"),
    ],
)
def test_a_start_that_is_none_is_refused_in_one_line(
    cas: Cas, arguments: tuple[str, ...], named: str
) -> None:
    answer = cas("run", "echo", *arguments)

    assert answer.code != 0
    assert named in answer.error
