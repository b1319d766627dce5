"""The security audit with the real tools: what it finds, what it keeps to itself, and what cannot stop it.

Method: small trees with planted weaknesses, the graph run in process under a context that records every event.
"""

import asyncio
import hashlib
import json
import os
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from cas_events.agents.echo import EchoFailedError, echo
from cas_events.agents.process import run_module
from cas_events.agents.security_audit.engineer import engineer
from cas_events.agents.security_audit.graph import build_security_audit
from cas_events.agents.security_audit.scanners import RUFF, Scan, Scanner, scan
from cas_events.agents.security_audit.security import security
from cas_events.agents.tree import list_tree
from cas_events.domain.limits import LOG_BURST, LOG_PER_S
from cas_events.errors import InvalidCommandError, PathNotFoundError, ToolFailedError
from cas_events.runner.context import DONE, Awaitable, TaskContext, task_scope
from tests.harness.patience import count, promised
from tests.harness.wait import until

# The planted secrets, put together here so that this file holds none of them.
PASSWORD = "hunter2" + "secretvalue"
DEFAULT_TOKEN = "tok_super" + "secret_99"
ARGUMENT = "argument" + "hunter3"
AWS_KEY = "AKIA" + "IOSFODNN7EXAMPLE"
URL_PASSWORD = "passw0rd" + "XYZ"
KEY_BODY = "MIIEpAIBAAKCAQEA" + "t3stk3yb0dy"
SECRETS = (PASSWORD, DEFAULT_TOKEN, ARGUMENT, AWS_KEY, URL_PASSWORD, KEY_BODY)

LEAKY = f"""import pickle
password = "{PASSWORD}"
key = "{AWS_KEY}"
def f(x, token="{DEFAULT_TOKEN}"):
    return x is "a"
f("a", token="{ARGUMENT}")
url = "https://user:{URL_PASSWORD}@example.com/x"
if password == "{PASSWORD}":
    pass
settings = {{"password": "{PASSWORD}"}}
"""
PRIVATE_KEY = f"-----BEGIN RSA PRIVATE KEY-----\n{KEY_BODY}\n-----END RSA PRIVATE KEY-----\n"
WEAK = """import pickle
import subprocess


def run(name):
    if name is "x":
        return None
    return subprocess.call("ls " + name, shell=True)
"""


class Recorder:
    """An emitter that keeps what it is given."""

    def __init__(self) -> None:
        self.progressed: list[tuple[float, str]] = []
        self.outputs: list[Any] = []
        self.logs: list[tuple[float, str, str, dict[str, Any]]] = []

    def progress(self, fraction: float, message: str, *, node: str | None, agent: str | None) -> Awaitable:
        self.progressed.append((fraction, message))
        return DONE

    def output(self, value: Any, *, kind: str) -> Awaitable:
        self.outputs.append(value)
        return DONE

    def log(self, level: str, message: str, metadata: Any, *, origin: Any) -> None:
        self.logs.append((time.monotonic(), level, message, dict(metadata)))

    def findings(self) -> list[dict[str, Any]]:
        return [fields for _, _, message, fields in self.logs if message == "finding"]

    def everything(self) -> str:
        return json.dumps([self.progressed, self.outputs, self.logs])


def context(recorder: Recorder) -> TaskContext:
    return TaskContext(
        task_id="t1",
        agent_id="security-audit",
        attempt=1,
        metadata={},
        make_emitter=lambda: recorder,
        is_cancelled=lambda: False,
    )


async def audit(path: Path | str, **limits: int) -> tuple[dict[str, Any], Recorder]:
    recorder = Recorder()
    with task_scope(context(recorder)):
        result = await build_security_audit().ainvoke({"path": str(path), **limits})
    return result, recorder


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "duration_s"}


def fingerprint(root: Path) -> list[tuple[str, int, str]]:
    return sorted(
        (str(path), path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in root.rglob("*")
        if path.is_file()
    )


# --- what it finds and keeps to itself -----------------------------------------------------------------------------


async def test_findings_remediations_and_diffs(tmp_path) -> None:
    (tmp_path / "weak.py").write_text(WEAK)
    before = fingerprint(tmp_path)
    result, recorder = await audit(tmp_path)
    assert fingerprint(tmp_path) == before

    assert result["files"] == {"scanned": 1, "python": 1, "skipped": {}}
    assert result["remediations"][0] == {
        "severity": "high",
        "file": "weak.py",
        "line": 8,
        "title": "subprocess popen with shell equals true",
        "rules": ["B602", "S602"],
        "tools": ["bandit", "ruff"],
        "remedy": result["remediations"][0]["remedy"],
    }
    assert "shell=False" in result["remediations"][0]["remedy"]
    (proposed,) = result["diffs"]
    assert proposed["file"] == "weak.py"
    assert proposed["diff"].startswith("--- a/weak.py\n+++ b/weak.py\n@@ ")
    assert "-import pickle\n" in proposed["diff"]
    assert '+    if name == "x":\n' in proposed["diff"]
    assert recorder.outputs == [{"diffs": result["diffs"]}]

    told = recorder.findings()
    assert len(told) == result["findings"]["total"] == sum(result["findings"]["by_tool"].values())
    assert {value["severity"] for value in told} == {"high", "low"}
    assert {"tool", "rule", "title", "severity", "file", "line"} <= told[0].keys()
    assert json.loads(json.dumps(result)) == result


async def test_a_secret_appears_nowhere_but_by_place_and_kind(tmp_path) -> None:
    (tmp_path / "leaky.py").write_text(LEAKY)
    (tmp_path / "key.pem").write_text(PRIVATE_KEY)
    (tmp_path / "inline.py").write_text(f'import pickle\nKEY = """\n{PRIVATE_KEY}"""\n')
    recorder = Recorder()
    saver = InMemorySaver()
    graph = build_security_audit().copy(update={"checkpointer": saver})
    config = {"configurable": {"thread_id": "t"}}
    chunks = []
    with task_scope(context(recorder)):
        modes = ["values", "updates", "tasks", "custom", "checkpoints"]
        async for chunk in graph.astream({"path": str(tmp_path)}, config, stream_mode=modes, version="v2"):
            chunks.append(chunk)
    stored = [
        pickle.dumps(saver.storage["t"][""]),
        pickle.dumps(dict(saver.blobs)),
        pickle.dumps(dict(saver.writes)),
    ]
    everything = [recorder.everything(), repr(chunks), *(repr(part) for part in stored)]
    hashes = [hashlib.sha1(secret.encode()).hexdigest() for secret in SECRETS]
    for secret in (*SECRETS, *hashes):
        assert not any(secret in text for text in everything)

    places = {(value["file"], value["line"]) for value in recorder.findings()}
    expected = {("leaky.py", line) for line in (2, 3, 4, 6, 7, 8)} | {("key.pem", 1), ("inline.py", 3)}
    assert expected <= places
    result = chunks[-1]["data"]
    assert "leaky.py" in repr(chunks)
    assert graph.get_state(config).values["diffs_withheld"] == 2
    assert graph.get_state(config).values["diffs"] == []
    assert result is not None


async def test_the_same_tree_gives_the_same_result_and_single_agents_agree(tmp_path) -> None:
    for number in range(120):
        (tmp_path / f"m{number}.py").write_text(WEAK if number % 3 else "assert 1\n")
    first, _ = await audit(tmp_path, max_findings=100, max_remediations=20)
    second, _ = await audit(tmp_path, max_findings=100, max_remediations=20)
    assert without_times(first) == without_times(second)
    assert len(first["remediations"]) == 20
    assert first["remediations_truncated"] > 0

    ctx = context(Recorder())
    limits = {"max_findings": 100, "max_remediations": 20}
    report = await security(ctx, {"path": str(tmp_path), **limits})
    alone = await engineer(ctx, json.loads(json.dumps(report)))
    assert without_times(alone) == without_times(first)


async def test_many_files_report_progress_per_batch(tmp_path) -> None:
    files = count(250, 1000)
    for number in range(files):
        folder = tmp_path / f"p{number // 100}"
        folder.mkdir(exist_ok=True)
        (folder / f"m{number}.py").write_text("import os\n\nprint(os.name)\n" * 3 + f"assert {number}\n")
    result, recorder = await audit(tmp_path)
    assert result["files"]["scanned"] == files
    assert result["findings"]["by_tool"] == {"ruff": files, "bandit": files, "detect-secrets": 0}
    assert result["findings"]["total"] == len(recorder.findings())
    assert result["remediations_truncated"] > 0
    fractions = [fraction for fraction, _ in recorder.progressed]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert sum("files scanned" in message for _, message in recorder.progressed) == files // 50
    assert len(json.dumps(result)) < 256 * 1024
    # No line was over the runner's budget, so none was dropped.
    times = [at_s for at_s, *_ in recorder.logs]
    for lines, at_s in enumerate(times, start=1):
        assert lines <= LOG_BURST + LOG_PER_S * (at_s - times[0])


# --- input of every kind -------------------------------------------------------------------------------------------


async def test_an_empty_folder(tmp_path) -> None:
    result, recorder = await audit(tmp_path)
    assert result["files"] == {"scanned": 0, "python": 0, "skipped": {}}
    assert result["remediations"] == result["diffs"] == result["problems"] == []
    assert recorder.progressed[-1][0] == 1.0


async def test_a_single_file_beside_others(tmp_path) -> None:
    (tmp_path / "weak.py").write_text(WEAK)
    (tmp_path / "other.py").write_text(WEAK)
    result, _ = await audit(tmp_path / "weak.py")
    assert result["path"] == str(tmp_path / "weak.py")
    assert {value["file"] for value in result["remediations"]} == {"weak.py"}
    assert len(result["diffs"]) == 1


async def test_broken_files_are_reported_and_not_fatal(tmp_path) -> None:
    (tmp_path / "syntax.py").write_text("def f(:\n")
    (tmp_path / "encoding.py").write_bytes(b"x = '\xff\xfe'\n")
    (tmp_path / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\nx = '\xe9'\nexec(x)\n")
    (tmp_path / "nested.py").write_text("x = " + "(" * 50_000 + ")" * 50_000 + "\n")
    (tmp_path / "minus.py").write_text("x = " + "-" * 50_000 + "1\n")
    (tmp_path / "weak.py").write_text(WEAK)
    result, _ = await audit(tmp_path)
    problems = {value["file"]: value["problem"] for value in result["problems"]}
    assert problems.keys() >= {"syntax.py", "encoding.py", "latin.py", "nested.py", "minus.py"}
    assert problems["syntax.py"] == "syntax"
    assert problems["encoding.py"] == problems["latin.py"] == "encoding"
    assert "weak.py" not in problems
    # bandit knows coding cookies: the finding is there although the other tools passed the file over.
    assert {"weak.py", "latin.py"} <= {value["file"] for value in result["remediations"]}


async def test_odd_names_are_scanned_and_shown_escaped(tmp_path) -> None:
    names = [
        b"with space.py",
        b"new\nline.py",
        b"-rf.py",
        b"--help.py",
        b"back\\slash.py",
        b"byte\xff.py",
        b"\xc3\xa9.py",
    ]
    for name in (*names, b"swagger.py", b"CVS.egg.py"):
        (tmp_path / os.fsdecode(name)).write_text(f"password = '{PASSWORD}'\nexec(password)\n")
    result, recorder = await audit(tmp_path)
    assert result["problems"] == []
    told = {(value["file"], value["tool"]) for value in recorder.findings()}
    shown = {
        *("with space.py", "new\\nline.py", "-rf.py", "--help.py", "back\\slash.py", "byte\\xff.py", "é.py"),
        *("swagger.py", "CVS.egg.py"),
    }
    assert told == {(name, tool) for name in shown for tool in ("ruff", "bandit", "detect-secrets")}


async def test_a_lone_file_with_a_backslash_in_its_name(tmp_path) -> None:
    (tmp_path / "a\\b.env").write_text(f"password = '{PASSWORD}'\n")
    _, recorder = await audit(tmp_path)
    assert [value["tool"] for value in recorder.findings()] == ["detect-secrets"]


async def test_the_audited_tree_is_neither_run_nor_obeyed(tmp_path, monkeypatch) -> None:
    bait = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).write_text('x')\n"
    for name in ("json.py", "ruff.py", "bandit.py", "detect_secrets.py", "sitecustomize.py"):
        (tmp_path / name).write_text(bait)
    (tmp_path / "weak.py").write_text(WEAK)
    (tmp_path / "pyproject.toml").write_text('[tool.ruff.lint]\nignore = ["ALL"]\nexclude = ["*"]\n')
    (tmp_path / ".bandit").write_text("[bandit]\nskips: B602\nexclude: weak.py\n")
    (tmp_path / ".secrets.baseline").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ".")
    result, _ = await audit(".")
    assert not (tmp_path / "ran").exists()
    assert result["remediations"][0]["rules"] == ["B602", "S602"]


@pytest.mark.parametrize("path", ["gone", "file.py/below", "nul\0byte"])
async def test_a_missing_path_is_one_clear_error(tmp_path, path: str) -> None:
    (tmp_path / "file.py").write_text("")
    with pytest.raises(PathNotFoundError, match="cannot read"):
        await audit(f"{tmp_path}/{path}")


async def test_input_without_a_path_is_refused() -> None:
    with pytest.raises(InvalidCommandError, match="path"):
        await security(context(Recorder()), {})
    with pytest.raises(InvalidCommandError, match="input does not fit"):
        await engineer(context(Recorder()), {"path": "."})


# --- tools that misbehave, and being cancelled ---------------------------------------------------------------------


async def test_cancelling_ends_every_subprocess_at_once(tmp_path) -> None:
    body = "".join(
        f"def f{number}(x):\n    assert x\n    return 'value {number}'\n\n\n" for number in range(2000)
    )
    for number in range(100):
        (tmp_path / f"m{number}.py").write_text(body)
    running = asyncio.create_task(audit(tmp_path))
    await until(lambda: _has_busy_worker(_processes_naming(tmp_path)), timeout_s=30)
    started_s = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - started_s < promised(2.0)
    # Far less than a worker needs for a file of this size: it was ended, it did not just find its parent gone.
    await until(lambda: _processes_naming(tmp_path) == [], timeout_s=0.5)


def _has_busy_worker(processes: list[int]) -> bool:
    """Whether a tool has a worker of its own that is deep in a file; only its process group reaches it."""
    return any(_is_worker(process) and _cpu_s(process) > 0.3 for process in processes)


def _is_worker(process: int) -> bool:
    try:
        return os.getpgid(process) != process
    except ProcessLookupError:
        return False


def _cpu_s(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")


def _processes_naming(path: Path) -> list[int]:
    """Processes with the path on their command line, workers of a tool included."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            is_named = entry.name.isdecimal() and os.fsencode(path) in (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if is_named:
            found.append(int(entry.name))
    return found


async def test_a_tool_is_ended_at_its_deadline_and_at_its_output_limit() -> None:
    once = ("-n", "1", "-r", "1")
    with pytest.raises(ToolFailedError, match="timeout"):
        await run_module("timeit", [*once, "-s", "import time", "time.sleep(60)"], timeout_s=0.5)
    with pytest.raises(ToolFailedError, match="output too large"):
        await run_module(
            "timeit", [*once, "while True: print('x' * 9999)"], timeout_s=30, output_bytes_max=10**6
        )


async def test_a_tool_with_unread_output_is_ended_at_once() -> None:
    flood = ["-n", "1", "-r", "1", "while True: print('x' * 99999)"]
    for _ in range(5):
        running = asyncio.create_task(run_module("timeit", flood, timeout_s=30, output_bytes_max=10**9))
        # Its own start takes longer than this, or not: both must end at once.
        await asyncio.wait([running], timeout=0.15)
        started_s = time.monotonic()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert time.monotonic() - started_s < promised(1.0)


def _scripted(tmp_path: Path, script: str) -> Scanner:
    """A scanner of one's own: a script that gets the files as its arguments."""
    path = tmp_path / "tool.py"
    path.write_text(script)
    return Scanner(
        name="ruff",
        module="cProfile",  # runs a script, and is at hand everywhere
        python_only=False,
        args=lambda _root, files: ["-o", os.devnull, str(path), *(file.path for file in files)],
        parse=lambda _root, files, _document: Scan(findings=[], problems=[]) if files else Scan(),
    )


async def test_a_file_that_crashes_a_tool_costs_only_itself(tmp_path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for number in range(9):
        (root / f"m{number}.txt").write_text("x")
    (root / "hostile.txt").write_text("x")
    (root / "garbled.txt").write_text("x")
    scripted = _scripted(
        tmp_path,
        "import os, sys\n"
        "if any('hostile' in name for name in sys.argv): os.abort()\n"
        "print('no json' if any('garbled' in name for name in sys.argv) else '[]')\n",
    )
    tree = list_tree(root, files_max=100, stop=threading.Event())
    result = await scan(scripted, str(root), tree.files)
    assert {(problem.file, problem.problem) for problem in result.problems} == {
        ("hostile.txt", "crashed"),
        ("garbled.txt", "unreadable_output"),
    }


async def test_ruff_is_given_python_only(tmp_path) -> None:
    (tmp_path / "key.pem").write_text(PRIVATE_KEY)
    tree = list_tree(tmp_path, files_max=100, stop=threading.Event())
    assert await scan(RUFF, str(tmp_path), tree.files) == Scan()


# --- echo ----------------------------------------------------------------------------------------------------------


async def test_echo_returns_its_input_and_ticks() -> None:
    recorder = Recorder()
    assert await echo(context(recorder), {"steps": 4, "text": "hi"}) == {"steps": 4, "text": "hi"}
    assert [fraction for fraction, _ in recorder.progressed] == [0.25, 0.5, 0.75, 1.0]
    assert await echo(context(recorder), None) is None


async def test_echo_fails_on_request_and_on_nonsense() -> None:
    with pytest.raises(EchoFailedError):
        await echo(context(Recorder()), {"fail": True})
    with pytest.raises(InvalidCommandError):
        await echo(context(Recorder()), {"steps": "many"})
