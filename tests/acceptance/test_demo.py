"""`scripts/demo` as a newcomer runs it: real processes, real scanners, a home of its own, and nothing left after.

One home for the module: a second demo finds the history of the first.
"""

from __future__ import annotations

import re
import shlex
import signal
from pathlib import Path

import pytest

from tests.harness.cas import Answer, Cas, running
from tests.harness.patience import promised
from tests.harness.pids import gone_within, is_alive

ROOT = Path(__file__).parents[2]
DEMO = str(ROOT / "scripts" / "demo")
SECRET = "AKIA" + "QWERTYUIOPASDFGH"
PASSWORD = "hunter2" + "-of-the-demo"
SHELL = f"""
import subprocess

password = "{PASSWORD}"
aws_key = "{SECRET}"


def run(command):
    subprocess.call(command, shell=True)
"""


@pytest.fixture(scope="module")
def cas(tmp_path_factory: pytest.TempPathFactory) -> Cas:
    return Cas({"CAS_HOME": str(tmp_path_factory.mktemp("demo") / "home")})


def demo(cas: Cas, *arguments: str) -> Answer:
    with running([DEMO, *arguments], cas.clean(), cwd=ROOT) as process:
        answer = process.end(promised(30.0))
    assert [pid for pid in pids_in(answer.out) if is_alive(pid)] == []
    return answer


def pids_in(text: str) -> list[int]:
    """The processes that the demo says it started."""
    return [
        int(pid) for pid in re.findall(r"^(?:server|runner|projector) +process (\d+)", text, re.MULTILINE)
    ]


def test_tree_with_findings_and_broken_files(cas: Cas, tmp_path: Path) -> None:
    tree = tmp_path / "a tree"
    tree.mkdir()
    (tree / "shell.py").write_text(SHELL)
    (tree / "syntax.py").write_text("def broken(:\n")
    (tree / "latin.py").write_bytes(b"name = '\xe9\xff'\n")
    (tree / "notes.txt").write_text("nothing here\n")
    answer = demo(cas, str(tree))
    assert (answer.code, answer.err) == (0, "")
    assert len(pids_in(answer.out)) == 3
    assert "shell.py:9" in answer.out
    assert "syntax.py  cannot be looked through" in answer.out
    assert "high" in section(answer.out, "Findings of this audit by severity")
    assert section(answer.out, "Tasks by status").splitlines()[-1].split() == ["completed", "1"]
    assert {"security", "engineer"} <= set(section(answer.out, "Slowest steps").split())
    kept = "".join(path.read_text("utf-8", "replace") for path in stored(cas))
    for secret in (SECRET, PASSWORD):
        assert secret not in answer.out
        assert secret not in kept


def stored(cas: Cas) -> list[Path]:
    return [path for path in Path(cas.environment["CAS_HOME"]).rglob("*") if path.is_file()]


def section(text: str, title: str) -> str:
    """What stands under a heading."""
    return next(part for part in text.split("\n\n") if part.startswith(title))


def test_empty_folder_in_a_second_demo_and_the_printed_commands(cas: Cas, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    answer = demo(cas, str(empty))
    assert (answer.code, answer.err) == (0, "")
    assert "0 scanned" in answer.out
    assert "(no rows)" in section(answer.out, "Findings of this audit by severity")
    printed = [line.strip() for line in answer.out.splitlines() if line.startswith("  CAS_HOME=")]
    assert len(printed) == 6
    tasks, sql, up, logs, replay, run = (command(cas, line) for line in printed)
    assert len(cas(*tasks, "--json").json) >= 1
    assert cas(*sql).code == 0
    with cas.process(*up) as process:
        process.line_with("Try")
        assert cas(*logs).code == 0
        assert "task.completed" in cas(*replay).out
        assert cas(*run, "--json").lines[-1]["type"] == "cas.task.completed"
        process.send(signal.SIGINT)
        assert process.end().code == 130


def command(cas: Cas, line: str) -> list[str]:
    """The arguments of a printed command line, of which the rest is checked."""
    home, program, *arguments = shlex.split(line, comments=True)
    assert home == f"CAS_HOME={cas.environment['CAS_HOME']}"
    assert (ROOT / program).is_file()
    return arguments


def test_single_file(cas: Cas, tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_text("import subprocess\nsubprocess.call('ls', shell=True)\n")
    answer = demo(cas, str(file))
    assert (answer.code, answer.err) == (0, "")
    assert "1 scanned, 1 of them Python" in answer.out


@pytest.mark.parametrize("arguments", [["does/not/exist"], ["--fast"], ["a", "b"]])
def test_missing_path_or_wrong_usage_starts_nothing(tmp_path: Path, arguments: list[str]) -> None:
    cas = Cas({"CAS_HOME": str(tmp_path / "home")})
    answer = demo(cas, *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.error
    assert not (tmp_path / "home").exists()


def test_interrupted_demo_leaves_no_process_and_no_running_task(cas: Cas) -> None:
    with running([DEMO, str(ROOT / "tests")], cas.clean(), cwd=ROOT) as process:
        process.line_with("files listed")
        process.send(signal.SIGINT)
        answer = process.end()
    assert answer.code == 130
    assert all(gone_within(pid, 3.0) for pid in pids_in(answer.out))
    [task_id] = re.findall(r", task (\S+)", answer.out)
    with cas.process("up") as process:
        process.line_with("Try")
        # Its cancel is in the log; if nobody carried it out before the end, the runner that is up now does.
        cancelled = cas("cancel", task_id, "--wait", "--json").json
        assert cancelled["status"] == "cancelled"
        assert cancelled["answer"] != "requested", "it was asked for already"
