"""The processes' own logs (issue 6, item 3): on stderr, JSON for programs, readable in a terminal, and without secrets.

The server's URL carries a password in all of these tests; it takes any.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.cas import BIN, TIMEOUT_S, Cas, CasProcess
from tests.harness.server import NatsServer

PASSWORD = "Lovelace-1815-pass"

AGENTS = '''
"""Agents of a user, whose module says what it should not."""
import asyncio, logging, threading
import structlog
from cas_events import Runner

mine = Runner(grace_s=0.5)
log = logging.getLogger("lab")
log.warning("loaded for %s", "nats://ada:PASSWORD@db:4222", extra={"api_key": "PASSWORD", "rows": 3})
structlog.get_logger("lab.structured").warning("loaded, too", login={"password": "PASSWORD"}, name="lab")

def outside():
    local = "PASSWORD"
    try:
        raise RuntimeError("outside of tasks, of " + local[:8])
    except RuntimeError:
        log.exception("a thread fails")

@mine.agent("talker")
async def talker(ctx, input):
    log.warning("said for the task")
    ctx.log.warning("said through the context")
    logging.getLogger("cas_events.test").warning("about the process")
    thread = threading.Thread(target=outside)
    thread.start()
    await asyncio.to_thread(thread.join)
    return {}
'''.replace("PASSWORD", PASSWORD)


@pytest.fixture
def cas(nats_server: NatsServer, tmp_path: Path) -> Cas:
    (tmp_path / "our_agents.py").write_text(AGENTS)
    return Cas(
        {
            "CAS_NATS_URL": nats_server.url.replace("://", f"://ada:{PASSWORD}@"),
            "CAS_DEPLOYMENT": f"t{uuid.uuid4().hex[:12]}",
            "CAS_HOME": str(tmp_path / "home"),
        }
    )


@pytest.fixture
def worker(cas: Cas, tmp_path: Path) -> Iterator[CasProcess]:
    with cas.process("worker", "our_agents:mine", cwd=tmp_path) as process:
        process.line_with("runner ready")
        yield process


def lines_of(process: CasProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.err]


def test_logs_are_json_lines_where_nobody_watches(cas: Cas, worker: CasProcess) -> None:
    assert cas("run", "talker", "--task-id", "talk-1", "-q").code == 0
    worker.line_with("a thread fails")
    lines = {line["event"]: line for line in lines_of(worker)}
    assert all(line["service"] == "runner" for line in lines.values())
    assert all({"timestamp", "level", "logger"} <= set(line) for line in lines.values())
    assert (
        lines["loaded for nats://ada:[redacted:url_password]@db:4222"]
        | {
            "level": "warning",
            "logger": "lab",
            "api_key": "[redacted]",
            "rows": 3,
        }
        == lines["loaded for nats://ada:[redacted:url_password]@db:4222"]
    )
    structured = lines["loaded, too"]
    assert (structured["logger"], structured["login"]) == ("lab.structured", {"password": "[redacted]"})

    # Each line is the task's or the process's, and those about a task name it.
    assert "said for the task" not in lines
    assert "said through the context" not in lines
    ours = lines["about the process"]
    assert (ours["task_id"], ours["agent_id"], ours["attempt"]) == ("talk-1", "talker", 1)
    assert "task_id" not in lines["a thread fails"]
    told = [event["data"]["message"] for event in cas("logs", "talk-1", "--json").lines]
    assert told == ["said for the task", "said through the context"]

    # The frames of an error are told, its local variables are not.
    assert "RuntimeError: outside of tasks" in lines["a thread fails"]["exception"]
    assert PASSWORD not in "\n".join(worker.err)


def test_logs_are_readable_in_a_terminal(cas: Cas, tmp_path: Path) -> None:
    shown = in_a_terminal(cas, tmp_path, "worker", "our_agents:mine", until="runner ready")
    [line] = [line for line in shown.splitlines() if "runner ready" in line]
    assert "[info" in line
    assert not line.startswith("{")
    assert "service=runner" in line.replace(" ", "")
    assert PASSWORD not in shown


def test_the_level_is_the_commands_or_the_environments(cas: Cas, tmp_path: Path) -> None:
    cas.environment["CAS_LOG_LEVEL"] = "error"
    with cas.process("worker", "our_agents:mine", "--log-level", "warning", cwd=tmp_path) as process:
        assert cas("run", "talker", "-q", "--wait-for-runner", "60").code == 0
        process.line_with("a thread fails")
        levels = {line["level"] for line in lines_of(process)}
    assert levels == {"warning", "error"}


def test_a_projector_logs_as_a_runner_does(cas: Cas) -> None:
    with cas.process("projector") as process:
        process.line_with("ready")
        lines = lines_of(process)
    assert {line["service"] for line in lines} == {"projector"}
    assert PASSWORD not in "\n".join(process.err)


@pytest.mark.parametrize("command", ["tasks", "tail", "projector"])
def test_a_server_that_does_not_answer_is_named_without_its_password(cas: Cas, command: str) -> None:
    cas.environment["CAS_NATS_URL"] = f"nats://ada:{PASSWORD}@127.0.0.1:1"
    answer = cas(command)
    assert answer.code != 0
    assert "127.0.0.1:1" in answer.err
    assert PASSWORD not in answer.err + answer.out


def in_a_terminal(cas: Cas, folder: Path, *arguments: str, until: str) -> str:
    """What a `cas` process shows on a terminal until it says something."""
    master, slave = os.openpty()
    popen = subprocess.Popen(
        [str(BIN / "cas"), *arguments],
        env=cas.clean(),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=slave,
    )
    os.close(slave)
    try:
        shown, deadline_s = b"", time.monotonic() + TIMEOUT_S
        while until.encode() not in shown.rpartition(b"\n")[0]:
            rest_s = deadline_s - time.monotonic()
            assert rest_s > 0, f"no {until!r} on the terminal, but {shown!r}"
            if select.select([master], [], [], rest_s)[0]:
                shown += os.read(master, 4096)
        return shown.decode(errors="replace")
    finally:
        popen.kill()
        popen.wait()
        os.close(master)
