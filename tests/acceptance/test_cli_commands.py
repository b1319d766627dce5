"""Each command against a real server, a real `cas worker` and a real `cas projector`, as a user types it.

The three stay up for the whole module; a test has task ids of its own. What is asked of the tables waits for the
event that it needs.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from tests.harness.cas import BIN, TIMEOUT_S, UNSIGNED_PROJECTOR, Answer, Cas, CasProcess
from tests.harness.server import NatsServer

AGENTS = '''
"""Agents of a user."""
import asyncio
from cas_events import Runner

mine = Runner(grace_s=0.5)

@mine.agent("greeter", log_level="debug")
async def greeter(ctx, input):
    ctx.log.debug("thinking")
    ctx.log.info("greeting", name=input.get("name"))
    ctx.log.warning("nearly done", escape="\\x1b[31m")
    await ctx.progress(0.5, "half")
    return {"greeting": f"hello {input.get('name')}"}

@mine.agent("sleeper")
async def sleeper(ctx, input):
    ctx.log.info("sleeping")
    await asyncio.sleep(60)

@mine.agent("failing", max_attempts=1)
async def failing(ctx, input):
    raise ValueError("no\\nluck")
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
    with cas.process(*UNSIGNED_PROJECTOR) as process:
        process.line_with("ready")
        yield process


@pytest.fixture
def task_id() -> str:
    return f"t-{uuid.uuid4().hex[:8]}"


def settle(cas: Cas, answer: Answer) -> None:
    """Wait until the tables hold a task's end."""
    ready = cas("sql", "SELECT 1", "--wait-for", str(answer.lines[-1]["seq"]))
    assert (ready.code, ready.err) == (0, "")


# --- run -----------------------------------------------------------------------------------------------------------


def test_run_shows_logs_progress_and_the_output(cas: Cas, worker: CasProcess, task_id: str) -> None:
    answer = cas("run", "greeter", '{"name": "Ada"}', "--task-id", task_id)
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[0] == f"task {task_id}"
    assert any("info     greeting name=Ada" in line for line in lines)
    assert any("50% half" in line for line in lines)
    assert '  "greeting": "hello Ada"' in lines
    assert any(re.fullmatch(r"completed in \d.*", line) for line in lines)
    assert "\x1b" not in answer.out


def test_run_as_json_ends_with_the_terminal_event(cas: Cas, worker: CasProcess, task_id: str) -> None:
    answer = cas("run", "greeter", "-", "--task-id", task_id, "--json", stdin='{"name": "Ben"}')
    assert (answer.code, answer.err) == (0, "")
    types = [event["type"] for event in answer.lines]
    assert types[0] == "cas.task.started"
    assert types[-1] == "cas.task.completed"
    assert types.count("cas.log") == 3
    assert answer.lines[-1]["data"]["output"] == {"greeting": "hello Ben"}
    assert {event["task_id"] for event in answer.lines} == {task_id}


def test_run_quietly_prints_only_the_output(cas: Cas, worker: CasProcess, tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text('{"name": "Eve"}')
    answer = cas("run", "greeter", "--input-file", str(file), "--quiet")
    assert (answer.code, answer.json) == (0, {"greeting": "hello Eve"})


def test_detached_run_prints_the_id_and_goes_on(cas: Cas, worker: CasProcess) -> None:
    detached = cas("run", "greeter", "{}", "--detach")
    assert (detached.code, detached.err) == (0, "")
    [task_id] = detached.out.split()
    followed = cas("logs", task_id, "--follow", "--json")
    assert [event["data"]["message"] for event in followed.lines] == ["thinking", "greeting", "nearly done"]
    assert cas("run", "greeter", "--detach", "--json").json["agent_id"] == "greeter"


def test_run_of_a_failing_task_exits_1_with_one_line(cas: Cas, worker: CasProcess, task_id: str) -> None:
    answer = cas("run", "failing", "--task-id", task_id)
    assert answer.code == 1
    assert (
        answer.error == f"task {task_id} failed: ValueError: no luck (attempts_exhausted)"
        or answer.error.startswith(f"task {task_id} failed: ValueError: no luck")
    )
    as_json = cas("run", "failing", "--json")
    assert as_json.code == 1
    assert as_json.lines[-1]["type"] == "cas.task.failed"


def test_task_id_is_taken_once(cas: Cas, worker: CasProcess, task_id: str) -> None:
    assert cas("run", "greeter", "--task-id", task_id, "-q").code == 0
    again = cas("run", "greeter", "--task-id", task_id)
    assert again.code == 1
    assert "already used" in again.error


def test_agent_without_a_runner_is_an_error_that_names_the_option(cas: Cas, worker: CasProcess) -> None:
    answer = cas("run", "nobody", "--wait-for-runner", "0.2")
    assert answer.code == 1
    assert "no live runner serves agent 'nobody'" in answer.error
    assert "--wait-for-runner" in answer.error


@pytest.mark.parametrize("name", ["a b", "x" * 65, "a.b"])
def test_what_is_no_token_is_refused_before_sending(cas: Cas, name: str) -> None:
    assert "is not valid" in cas("run", name).error
    assert "is not valid" in cas("run", "greeter", "--task-id", name).error
    assert "is not valid" in cas("cancel", name).error


def test_interrupted_run_says_that_the_task_goes_on(cas: Cas, worker: CasProcess, task_id: str) -> None:
    with cas.process("run", "sleeper", "--task-id", task_id) as process:
        process.line_with("sleeping")
        process.send(signal.SIGINT)
        answer = process.end()
    assert answer.code == 130
    assert answer.err == f"task {task_id} goes on; end it with `cas cancel {task_id}`"
    cancelled = cas("cancel", task_id, "--wait", "--reason", "enough", "--json")
    assert cancelled.json == {"task_id": task_id, "answer": "requested", "status": "cancelled"}


# --- cancel ---------------------------------------------------------------------------------------------------------


def test_cancel_of_an_unknown_task_is_an_error(cas: Cas, worker: CasProcess) -> None:
    answer = cas("cancel", "never-heard-of")
    assert answer.code == 1
    assert "'never-heard-of' is not in the log" in answer.error


def test_cancel_of_a_finished_task_leaves_it_as_it_is(cas: Cas, worker: CasProcess, task_id: str) -> None:
    assert cas("run", "greeter", "--task-id", task_id, "-q").code == 0
    answer = cas("cancel", task_id)
    assert (answer.code, answer.out) == (0, f"task {task_id}: already finished, completed\n")


def test_run_that_is_cancelled_by_somebody_exits_1(cas: Cas, worker: CasProcess, task_id: str) -> None:
    with cas.process("run", "sleeper", "--task-id", task_id, "--json") as process:
        process.line_with('"cas.log"')
        assert cas("cancel", task_id, "--reason", "not needed").code == 0
        answer = process.end()
    assert answer.code == 1
    assert answer.lines[-1]["type"] == "cas.task.cancelled"
    assert answer.error == f"task {task_id} cancelled: not needed"


# --- the log ----------------------------------------------------------------------------------------------------------


def test_logs_from_a_level_on(cas: Cas, worker: CasProcess, task_id: str) -> None:
    assert cas("run", "greeter", "--task-id", task_id, "-q").code == 0
    everything = cas("logs", task_id)
    assert len(everything.out.splitlines()) == 3
    warnings = cas("logs", task_id, "--level", "warning")
    [line] = warnings.out.splitlines()
    assert line.endswith("warning  nearly done escape=\\x1b[31m")
    assert [event["data"]["level"] for event in cas("logs", task_id, "--json").lines] == [
        "debug",
        "info",
        "warning",
    ]
    assert cas("logs", "never-heard-of").code == 1


def test_logs_that_a_regular_expression_finds(cas: Cas, worker: CasProcess, task_id: str) -> None:
    assert cas("run", "greeter", '{"name": "Ada"}', "--task-id", task_id, "-q").code == 0

    def found(*arguments: str) -> list[str]:
        return [event["data"]["message"] for event in cas("logs", task_id, "--json", *arguments).lines]

    assert found("--grep", "^greet") == ["greeting"]
    assert found("--grep", "(?i)NEARLY|thinking") == ["thinking", "nearly done"]
    assert found("--grep", "name=Ada") == ["greeting"]
    assert found("--grep", "n", "--level", "warning", "--follow") == ["nearly done"]
    assert found("--grep", "nowhere") == []


@pytest.mark.parametrize("pattern", ["(", "[a", "*", "a{99999999999999999999}", "(?P<x"])
def test_a_bad_regular_expression_is_one_line(cas: Cas, pattern: str) -> None:
    answer = cas("logs", "some-task", "--grep", pattern)
    assert answer.code == 2
    assert "--grep" in answer.error
    assert f"{pattern!r} is no regular expression" in answer.error


def test_replay_is_the_stored_log(cas: Cas, worker: CasProcess, task_id: str) -> None:
    ran = cas("run", "greeter", "--task-id", task_id, "--json")
    assert cas("replay", "--task", task_id, "--json").lines == ran.lines
    middle = ran.lines[2]["seq"]
    assert cas("replay", "--task", task_id, "--from", str(middle), "--json").lines == ran.lines[2:]
    by_agent = cas("replay", "--agent", "greeter", "--json").lines
    assert {event["agent_id"] for event in by_agent} == {"greeter"}
    assert [event["seq"] for event in by_agent] == sorted(event["seq"] for event in by_agent)
    table = cas("replay", "--task", task_id).out.splitlines()
    assert len(table) == 1 + len(ran.lines)
    assert "task.completed" in table[-1]


def test_replay_into_a_closed_pipe_ends_quietly(cas: Cas, worker: CasProcess) -> None:
    for _ in range(3):  # More than a pipe holds, so that it is still writing when nobody reads any more.
        assert cas("run", "greeter", json.dumps({"name": "x" * 60_000}), "-q").code == 0
    command = [str(BIN / "cas"), "replay", "--json"]
    with subprocess.Popen(
        command, env=cas.clean(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(TIMEOUT_S) == 141


def test_tail_shows_what_is_stored_from_now_on(cas: Cas, worker: CasProcess, task_id: str) -> None:
    before = cas("replay", "--json").lines[-1]["seq"]
    with cas.process("tail", "--agent", "greeter", "--json") as process:
        cas_ready(cas, process)
        assert cas("run", "greeter", "--task-id", task_id, "-q").code == 0
        process.line_with(f'"cas.task.completed","task_id":"{task_id}"')
        process.send(signal.SIGINT)
        answer = process.end()
    assert (answer.code, answer.err) == (130, "")
    assert answer.lines[0]["seq"] > before
    assert next(event["type"] for event in answer.lines if event["task_id"] == task_id) == "cas.task.started"


def cas_ready(cas: Cas, process: CasProcess) -> None:
    """Start tasks until the tail shows one: then it listens."""
    for _ in range(50):
        assert cas("run", "greeter", "-q").code == 0
        if process.out:
            return
    raise AssertionError(f"the tail shows nothing: {process.err}")


# --- the tables -------------------------------------------------------------------------------------------------------


def test_tasks_are_listed_and_filtered(
    cas: Cas, worker: CasProcess, projector: CasProcess, task_id: str
) -> None:
    settle(cas, cas("run", "greeter", "--task-id", task_id, "--json"))
    table = cas("tasks", "--limit", "1000")
    assert (table.code, table.err) == (0, "")
    row = next(line for line in table.out.splitlines() if line.startswith(task_id))
    assert row.split()[1:5] == ["greeter", "completed", "50%", "1"]
    newest = cas("tasks", "--agent", "greeter", "--status", "completed", "--limit", "1", "--json")
    [task] = newest.json
    assert (task["task_id"], task["served"]) == (task_id, None)
    assert cas("tasks", "--agent", "unheard", "--json").json == []
    assert "--limit is 1" in cas("tasks", "--limit", "1").err


def test_queued_task_that_nobody_serves_is_shown_so(
    cas: Cas, worker: CasProcess, projector: CasProcess, task_id: str
) -> None:
    publish(cas, f"execute.orphan.{task_id}", b"{}")
    cas_shows(cas, task_id)
    row = next(line for line in cas("tasks").out.splitlines() if line.startswith(task_id))
    assert "queued (unserved)" in row
    [task] = cas("tasks", "--agent", "orphan", "--json").json
    assert (task["status"], task["served"]) == ("queued", False)
    assert cas("cancel", task_id, "--wait", "--json").json["status"] == "cancelled"


def publish(cas: Cas, subject: str, body: bytes) -> None:
    """Store a command as any NATS client does."""

    async def append() -> None:
        async with await Connection.open(cas.environment["CAS_NATS_URL"], name="raw") as connection:
            await JetStream(connection).append(f"{cas.environment['CAS_DEPLOYMENT']}.cmd.{subject}", body)

    asyncio.run(append())


def cas_shows(cas: Cas, task_id: str) -> None:
    """Ask until the tables have a task; each question takes its time."""
    for _ in range(200):
        if task_id in cas("tasks", "--json").out:
            return
    raise AssertionError(f"{task_id} does not appear")


def test_sql_answers_as_table_and_json(
    cas: Cas, worker: CasProcess, projector: CasProcess, task_id: str
) -> None:
    settle(cas, cas("run", "greeter", "--task-id", task_id, "--json"))
    question = "SELECT task_id, status, attempt FROM cas_tasks WHERE task_id = ?"
    assert cas("sql", question, "--param", task_id, "--json").json == [
        {"task_id": task_id, "status": "completed", "attempt": 1}
    ]
    header, row = cas("sql", "-", "-p", task_id, stdin=question).out.splitlines()
    assert header.split() == ["task_id", "status", "attempt"]
    assert row.split() == [task_id, "completed", "1"]
    assert cas("sql", "SELECT 1 AS n WHERE false").out == "(no rows)\n"
    assert cas("sql", "SELECT 1 AS n WHERE false", "--json").json == []
    assert cas("sql", "SELECT ? + 1 AS n, ? AS s", "-p", "41", "-p", "x y", "--json").json == [
        {"n": 42, "s": "x y"}
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "SELEC 1",
        "DELETE FROM cas_tasks",
        "SELECT 1; SELECT 2",
        "SELECT * FROM read_csv('x')",
        "",
        "SELECT nope",
    ],
)
def test_sql_that_is_refused_is_one_line(cas: Cas, projector: CasProcess, statement: str) -> None:
    answer = cas("sql", statement)
    assert (answer.code, answer.out) == (1, "")
    assert answer.error


# --- the processes ----------------------------------------------------------------------------------------------------


def test_without_a_projector_its_file_answers(cas: Cas, tmp_path: Path, task_id: str) -> None:
    own = {"CAS_DEPLOYMENT": f"t{uuid.uuid4().hex[:12]}", "CAS_HOME": str(tmp_path / "home")}
    alone = Cas(cas.environment | own)
    missing = alone("tasks")
    assert missing.code == 1
    assert "no projector" in missing.error
    with alone.process(*UNSIGNED_PROJECTOR) as process:
        process.line_with("ready")
        publish(alone, f"execute.orphan.{task_id}", b"{}")
        cas_shows(alone, task_id)
        process.send(signal.SIGTERM)
        assert process.end().code == 0
    without_server = Cas({name: value for name, value in alone.environment.items() if name != "CAS_NATS_URL"})
    for place, served in ((alone, False), (without_server, None)):
        tasks = place("tasks", "--json")
        [task] = tasks.json
        assert (tasks.code, task["status"], task["served"]) == (0, "queued", served)
        assert "no projector runs; read from" in tasks.err
        count = place("sql", "SELECT count(*) AS n FROM cas_commands", "--json")
        assert (count.code, count.json) == (0, [{"n": 1}])


def test_second_projector_on_a_file_is_refused_in_one_line(cas: Cas, projector: CasProcess) -> None:
    answer = cas("projector")
    assert answer.code == 1
    assert f"in use by process {projector.pid}" in answer.err.splitlines()[-1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_worker_hands_over_and_ends(
    cas: Cas, tmp_path: Path, task_id: str, number: signal.Signals, code: int
) -> None:
    alone = Cas(cas.environment | {"CAS_DEPLOYMENT": f"t{uuid.uuid4().hex[:12]}"})
    (tmp_path / "our_agents.py").write_text(AGENTS)
    with alone.process("worker", "our_agents.py:mine", cwd=tmp_path) as process:
        process.line_with("runner ready")
        assert alone("run", "sleeper", "--detach", "--task-id", task_id).code == 0
        process.line_with("runner ready")
        wait_for_event(alone, task_id, "cas.log")
        process.send(number)
        answer = process.end()
    assert answer.code == code
    assert "Traceback" not in answer.err
    events = alone("replay", "--task", task_id, "--json").lines
    assert (events[-1]["type"], events[-1]["data"]["error"]["type"]) == ("cas.task.retrying", "handover")


def wait_for_event(cas: Cas, task_id: str, type_: str) -> None:
    for _ in range(200):
        if type_ in cas("replay", "--task", task_id, "--json").out:
            return
    raise AssertionError(f"no {type_} of {task_id}")


def test_log_of_a_process_is_json_lines_when_nobody_watches(cas: Cas, worker: CasProcess) -> None:
    [line] = [json.loads(line) for line in worker.err if "runner ready" in line]
    assert (line["level"], line["service"]) == ("info", "runner")
    assert line["logger"] == "cas_events.runner.worker"


# --- what starts later, or again and again: all of it far in the future --------------------------------------------------


def test_a_delayed_task_is_listed_with_its_due_time_and_cancelled(
    cas: Cas, worker: CasProcess, projector: CasProcess
) -> None:
    before = datetime.now(UTC)
    begun = cas("run", "greeter", "--delay", "86400", "--detach", "--task-id", "tomorrow")
    after = datetime.now(UTC)
    at = cas(
        "run", "greeter", "--not-before", "2126-01-01T00:00:00+01:00", "--detach", "--task-id", "much-later"
    )
    assert [begun.code, at.code] == [0, 0], begun.err + at.err
    # What is done next puts both commands into the tables: they are older than its event.
    settle(cas, cas("run", "greeter", "--json"))

    rows = {row["task_id"]: row for row in cas("tasks", "--status", "queued", "--json").json}
    due = datetime.fromisoformat(rows["tomorrow"]["not_before"])
    assert before <= due - timedelta(days=1) <= after
    assert rows["much-later"]["not_before"] == "2126-01-01T00:00:00+01:00"
    local = datetime.fromisoformat("2126-01-01T00:00:00+01:00").astimezone()
    assert f"queued, due {local:%Y-%m-%d %H:%M:%S}" in " ".join(cas("tasks").out.split())

    for task in ("tomorrow", "much-later"):
        assert cas("cancel", task, "--wait").out == f"task {task}: requested, cancelled\n"


def test_a_schedule_is_added_listed_paused_resumed_and_cancelled(cas: Cas, worker: CasProcess) -> None:
    said = (
        "nightly",
        "greeter",
        "0 2 1 1 *",
        '{"name": "Ada"}',
        "--time-zone",
        "Europe/Berlin",
        "--by",
        "Eve",
    )
    made = cas("schedules", "add", *said, "--missed", "skip", "--metadata", '{"team": "a"}', "--json")
    assert (made.code, made.err) == (0, "")
    assert (made.json["name"], made.json["input"], made.json["missed"]) == (
        "nightly",
        {"name": "Ada"},
        "skip",
    )
    assert (made.json["created_by"], made.json["metadata"]) == ("Eve", {"team": "a"})
    due = datetime.fromisoformat(made.json["next_due"])
    assert (due.month, due.day, due.hour) == (1, 1, 1), "two o'clock in Berlin is one in UTC"

    assert cas("schedules", "--json").json == cas("schedules", "list", "--json").json == [made.json]
    shown = cas("schedules").out
    assert "nightly" in shown
    assert f"{due.astimezone():%Y-%m-%d %H:%M:%S}" in shown

    assert cas("schedules", "pause", "nightly").out == "schedule nightly: paused\n"
    assert cas("schedules", "--json").json[0]["is_paused"] is True
    again = cas("schedules", "pause", "nightly", "--json")
    assert again.json == {"name": "nightly", "answer": "already_paused"}
    assert cas("schedules", "resume", "nightly").out == "schedule nightly: resumed\n"
    assert cas("schedules", "cancel", "nightly").out == "schedule nightly: cancelled\n"
    assert cas("schedules", "--json").json == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("run", "greeter", "--delay", "-1"), "--delay"),
        (("run", "greeter", "--delay", "inf"), "not_before"),
        (("run", "greeter", "--not-before", "tomorrow"), "not_before"),
        (("run", "greeter", "--not-before", "2026-11-22T09:00:00"), "not_before"),
        (("run", "greeter", "--delay", "1", "--not-before", "2126-01-01T00:00:00Z"), "--delay"),
        (("schedules", "add", "x", "greeter", "61 * * * *"), "cron '61 * * * *' has the minute '61'"),
        (("schedules", "add", "x", "greeter", "@daily", "--time-zone", "Mars/Base"), "time_zone 'Mars/Base'"),
        (("schedules", "add", "x", "greeter", "@daily", "--missed", "twice"), "missed 'twice'"),
        (("schedules", "add", "x", "greeter", "@daily", "--missed-after", "-1"), "missed_after_s"),
        (("schedules", "add", "x", "greeter", "@daily", "[]"), "JSON"),
        (("schedules", "add", "x", "greeter", "@daily", "--metadata", "5"), "--metadata"),
        (("schedules", "add", "x", "greeter", "@daily", "--timeout", "-1"), "timeout_s"),
        (("schedules", "add", "no token", "greeter", "@daily"), "schedule 'no token'"),
        (("schedules", "add", "x", "nobody", "@daily"), "agent 'nobody'"),
        (("schedules", "pause", "nothing"), "no schedule 'nothing'"),
        (("schedules", "cancel", "nothing"), "no schedule 'nothing'"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_in_one_line(
    cas: Cas, worker: CasProcess, arguments: tuple[str, ...], named: str
) -> None:
    answer = cas(*arguments)

    assert answer.code != 0
    assert named in answer.error
    assert cas("schedules", "--json").json == []
