"""`cas up` as a real process: what it starts, what it says, and that nothing is left of it, however it ends."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cas_events.cli.stack import RUNNER_STOP_S
from tests.harness.cas import Cas, CasProcess
from tests.harness.pids import gone_within, is_alive

GONE_S = 3.0


@pytest.fixture
def cas(tmp_path: Path) -> Cas:
    return Cas({"CAS_HOME": str(tmp_path / "home")})


@contextmanager
def up(cas: Cas, *arguments: str) -> Iterator[tuple[CasProcess, dict[str, Any]]]:
    """`cas up`, once everything answers; with what it said."""
    with cas.process("up", "--json", *arguments) as process:
        said = json.loads(process.line_with('"pids"'))
        assert said["late"] == []
        try:
            yield process, said
        finally:
            process.popen.kill()
            left = [pid for pid in said["pids"].values() if not gone_within(pid, GONE_S)]
            assert left == []


def home_of(cas: Cas) -> Path:
    return Path(cas.environment["CAS_HOME"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_up_serves_other_commands_and_ends_in_order(cas: Cas, number: signal.Signals, code: int) -> None:
    with up(cas) as (process, said):
        assert said["url"].startswith("nats://127.0.0.1:")
        assert json.loads((home_of(cas) / "server.json").read_text()) == {
            "url": said["url"],
            "pid": process.pid,
        }
        ran = cas("run", "echo", '{"steps": 2}', "--json")
        assert (ran.code, ran.lines[-1]["data"]["output"]) == (0, {"steps": 2})
        counted = cas(
            "sql", "SELECT count(*) AS n FROM cas_tasks", "--wait-for", str(ran.lines[-1]["seq"]), "--json"
        )
        assert counted.json == [{"n": 1}]
        process.send(number)
        answer = process.end()
    assert answer.code == code
    assert "Traceback" not in answer.err
    assert [pid for pid in said["pids"].values() if is_alive(pid)] == []
    assert not (home_of(cas) / "server.json").exists()
    assert cas("tasks", "--json").json[0]["status"] == "completed"


def test_nothing_is_left_after_kill_9(cas: Cas) -> None:
    with up(cas) as (process, said):
        process.popen.kill()
        process.end()
        assert all(gone_within(pid, GONE_S) for pid in said["pids"].values())
    assert "run `cas up`" in cas("run", "echo").error
    with up(cas) as (_, said_again):
        assert said_again["url"]


def test_what_dies_is_started_again(cas: Cas) -> None:
    with up(cas) as (process, said):
        for name, service in (("runner", "runner"), ("server", "nats-server")):
            Cas.kill(said["pids"][name])
            process.line_with(f"{service} is back")
        waited = cas("run", "echo", "--wait-for-runner", "60", "--json")
        assert (waited.code, waited.lines[-1]["type"]) == (0, "cas.task.completed")
        process.send(signal.SIGTERM)
        answer = process.end()
    assert answer.code == 0
    told = [json.loads(line)["event"] for line in answer.err.splitlines() if "starting it again" in line]
    assert any(
        line.startswith(f"runner (process {said['pids']['runner']}) ended with signal 9") for line in told
    )
    assert any(line.startswith(f"nats-server (process {said['pids']['server']}) ended") for line in told)


def test_second_signal_ends_a_child_that_hangs(cas: Cas) -> None:
    with up(cas) as (process, said):
        Cas.stop(said["pids"]["runner"])
        process.send(signal.SIGINT)
        assert cas("sql", "SELECT 1").code == 0  # The first one waits for the runner.
        process.send(signal.SIGINT)
        answer = process.end(RUNNER_STOP_S - 1.0)  # Or it was the first one's end.
        assert answer.code == 130
        assert "does not end; killing it" in answer.err
        assert [pid for pid in said["pids"].values() if is_alive(pid)] == []


def test_up_says_what_to_try_and_is_alone_on_its_home_and_port(cas: Cas, tmp_path: Path) -> None:
    with cas.process("up", "--no-projector") as process:
        process.line_with("cas sql")
        with cas.process("up") as second:
            refused = second.end()
        port = json.loads((home_of(cas) / "server.json").read_text())["url"].rpartition(":")[2]
        with Cas({"CAS_HOME": str(tmp_path / "other")}).process("up", "--port", port) as third:
            taken = third.end()
        assert cas("run", "echo", "-q").code == 0
        process.send(signal.SIGINT)
        answer = process.end()
    lines = answer.out.splitlines()
    assert lines[0] == "CAS Events is up; Ctrl-C ends it"
    assert any(line.strip().startswith("server") and "nats://127.0.0.1:" in line for line in lines)
    tries = [line.strip() for line in lines if " cas " in line]
    assert tries[0] == f"""CAS_HOME={home_of(cas)} cas run echo '{{"steps": 5, "delay_s": 0.3}}'"""
    assert (refused.code, refused.out) == (1, "")
    assert f"a server already runs on {home_of(cas) / 'nats'} (process {process.pid})" in refused.error
    assert (taken.code, taken.out) == (1, "")
    assert "nats-server ended at once" in taken.error
