"""Arguments, exit codes and one-line errors, as far as no server is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cas_events.cli.loading import load_runner
from cas_events.cli.problems import RunnerNotLoadedError
from cas_events.cli.start import read_input
from cas_events.errors import PathNotFoundError
from tests.harness.cas import Cas

COMMANDS = (
    "up",
    "worker",
    "projector",
    "run",
    "cancel",
    "tasks",
    "tree",
    "logs",
    "tail",
    "replay",
    "sql",
    "audit",
)
UNUSED_URL = "nats://127.0.0.1:1"


@pytest.fixture
def cas(tmp_path: Path) -> Cas:
    return Cas({"CAS_HOME": str(tmp_path / "home")})


def test_help_names_every_command(cas: Cas) -> None:
    answer = cas("--help")
    assert answer.code == 0
    assert all(f" {command} " in answer.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(cas: Cas, command: str) -> None:
    answer = cas(command, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert f"Usage: cas {command}" in answer.out


def test_help_imports_nothing_heavy() -> None:
    heavy = ["nats", "duckdb", "langgraph", "structlog", "cas_events.client"]
    code = f"import sys; from cas_events.cli import entry; entry.run(['--help']); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_without_a_command_there_is_help_and_exit_2(cas: Cas) -> None:
    answer = cas()
    assert answer.code == 2
    assert "Usage: cas" in answer.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fly"], "No such command 'fly'"),
        (["run"], "Missing argument 'AGENT'"),
        (["run", "echo", "--fast"], "No such option"),
        (["run", "echo", "{"], "is no JSON object"),
        (["run", "echo", "[1]"], "is no JSON object"),
        (["run", "echo", '{"x": NaN}'], "is no JSON object"),
        (["run", "echo", "{}", "--timeout", "soon"], "--timeout"),
        (["run", "echo", "--input-file", "not/there.json"], "not/there.json"),
        (["logs", "t1", "--level", "loud"], "none of debug"),
        (["tasks", "--status", "sleeping"], "none of queued"),
        (["tasks", "--limit", "0"], "--limit"),
        (["replay", "--from", "0"], "--from"),
        (["worker", "no/such/file.py:runner"], "no/such/file.py"),
        (["projector", "--log-level", "loud"], "none of debug"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(cas: Cas, arguments: list[str], words: str) -> None:
    if arguments[0] == "worker":
        cas.environment["CAS_NATS_URL"] = UNUSED_URL
    answer = cas(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.error


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            ["run", "echo"],
            ["run", "echo", "--detach"],
            ["cancel", "t1"],
            ["tasks"],
            ["logs", "t1"],
            ["tail"],
        ),
        *(["replay"], ["sql", "SELECT 1"], ["worker", "cas_events.agents.samples:runner"], ["projector"]),
    ],
    ids=lambda arguments: arguments[0],
)
def test_without_a_server_every_command_says_what_to_do(cas: Cas, arguments: list[str]) -> None:
    answer = cas(*arguments)
    assert (answer.code, answer.out) == (1, "")
    assert "run `cas up`" in answer.error


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            ["run", "echo"],
            ["cancel", "t1"],
            ["tasks"],
            ["logs", "t1"],
            ["tail"],
            ["replay"],
            ["sql", "SELECT 1"],
        ),
        *(["worker", "cas_events.agents.samples:runner"], ["projector"]),
    ],
    ids=lambda arguments: arguments[0],
)
def test_unreachable_server_is_one_line_with_its_url(cas: Cas, arguments: list[str]) -> None:
    cas.environment["CAS_NATS_URL"] = UNUSED_URL
    answer = cas(*arguments)
    assert answer.code == 1
    assert f"no NATS server answers at {UNUSED_URL}" in answer.err.splitlines()[-1]
    assert "Traceback" not in answer.err


def test_unexpected_error_has_no_trace_unless_asked_for(cas: Cas) -> None:
    cas.environment["CAS_REPLICAS"] = "many"
    answer = cas("tasks")
    assert answer.code == 1
    assert "CAS_DEBUG=1" in answer.error
    cas.environment["CAS_DEBUG"] = "1"
    assert "Traceback" in cas("tasks").err


def test_bad_deployment_name_is_a_line(cas: Cas) -> None:
    cas.environment["CAS_DEPLOYMENT"] = "Bad Name"
    assert "deployment 'Bad Name' is not valid" in cas("tasks").error


def test_bad_log_level_of_the_environment_is_a_line(cas: Cas) -> None:
    cas.environment["CAS_LOG_LEVEL"] = "loud"
    assert "CAS_LOG_LEVEL" in cas("tasks").error


# --- the input of a task -------------------------------------------------------------------------------------------


def test_input_comes_from_an_argument_a_file_or_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text('{"from": "file"}')
    assert read_input('{"a": [1, "é"]}', None) == {"a": [1, "é"]}
    assert read_input(None, file) == {"from": "file"}
    assert read_input(None, None) == {}


def test_input_is_given_once(cas: Cas, tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text("{}")
    answer = cas("run", "echo", "{}", "--input-file", str(file))
    assert answer.code == 2
    assert "not both" in answer.error


# --- the runner of a worker ------------------------------------------------------------------------------------------

MODULE = """
from cas_events import Runner
mine = Runner()
class box:
    inner = Runner()
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to import from; what is imported from it is forgotten."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    monkeypatch.setattr(sys, "modules", sys.modules)
    (tmp_path / "my_agents.py").write_text(MODULE)
    (tmp_path / "my_broken.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "my_failing.py").write_text("raise RuntimeError('two\\nlines')\n")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    "target", ["my_agents:mine", "my_agents.py:mine", "./my_agents.py:mine", "my_agents:box.inner"]
)
def test_runner_is_found_in_a_module_or_file(folder: Path, target: str) -> None:
    assert type(load_runner(target, folder)).__name__ == "Runner"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("my_agents:theirs", "has no 'theirs'; it has mine"),
        ("my_agents", "has no 'runner'"),
        ("my_agents:number", "is a int, not a cas_events.Runner"),
        ("my_missing:runner", "no module 'my_missing'"),
        (
            "my_broken:runner",
            "importing my_broken failed: ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        ),
        ("my_failing:runner", "importing my_failing failed: RuntimeError: two"),
        ("my_failing.py:runner", "importing my_failing.py failed: RuntimeError"),
        ("not a module", "MODULE:RUNNER"),
        (":runner", "MODULE:RUNNER"),
    ],
)
def test_what_is_no_runner_is_said_clearly(folder: Path, target: str, words: str) -> None:
    with pytest.raises(RunnerNotLoadedError, match=words):
        load_runner(target, folder)


def test_missing_file_is_a_missing_path(folder: Path) -> None:
    with pytest.raises(PathNotFoundError, match=r"gone\.py"):
        load_runner("gone.py:runner", folder)
