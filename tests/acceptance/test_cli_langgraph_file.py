"""`cas worker langgraph.json`: a project of the LangGraph ecosystem, served as it is (issue 4, item 1).

Every form of an entry, and of the graph that it names, in real files, a real `cas worker` process, and `cas run`.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cas_events.settings import read_env_file
from tests.harness.cas import Cas, CasProcess
from tests.harness.server import NatsServer

FORMS = """
import contextlib, os
from langchain_core.runnables import RunnableConfig
from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph
from langgraph_sdk.runtime import ServerRuntime
from typing_extensions import TypedDict
from words import word

class State(TypedDict, total=False):
    said: str

def build(said):
    def say(state: State) -> State:
        return {"said": f"{said} {word} {os.environ['GREETING']} {os.environ.get('SECRET', '')}"}
    builder = StateGraph(State)
    builder.add_node("say", say)
    builder.add_edge(START, "say")
    builder.add_edge("say", END)
    return builder

builder = build("builder")
compiled = build("compiled").compile()

def factory():
    return build("factory").compile()

def of_config(config: RunnableConfig):
    assert config["configurable"]["thread_id"]
    return build("config")

async def of_runtime(runtime: ServerRuntime):
    return build("runtime" if runtime.execution_runtime else "shape")

@contextlib.asynccontextmanager
async def managed(config, runtime):
    yield build("managed").compile()

@contextlib.contextmanager
def managed_sync():
    yield build("managed sync")

@entrypoint()
async def functional(input: dict) -> dict:
    return {"said": f"functional {word} {os.environ['GREETING']} "}
"""
FILE = {
    "dependencies": [".", "./lib"],
    "graphs": {
        "builder": "./agents/forms.py:builder",
        "compiled": "agents.forms:compiled",
        "factory": {"path": "./agents/forms.py:factory", "description": "made for each run"},
        "config": "./agents/forms.py:of_config",
        "runtime": "./agents/forms.py:of_runtime",
        "managed": "./agents/forms.py:managed",
        "managed_sync": "./agents/forms.py:managed_sync",
        "functional": "./agents/forms.py:functional",
    },
    "env": ".env",
    "python_version": "3.11",
    "http": {"app": "./no.py:app"},
}
ENV = """
# Comments and blank lines are passed over.
export GREETING="good day"
SECRET='never shown'  # nor is this
CAS_LOG_LEVEL=debug
"""


@pytest.fixture(scope="module")
def cas(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Cas:
    return Cas(
        {
            "CAS_NATS_URL": nats_server.url,
            "CAS_DEPLOYMENT": f"t{uuid.uuid4().hex[:12]}",
            "CAS_HOME": str(tmp_path_factory.mktemp("home")),
            "CAS_LOG_LEVEL": "info",
        }
    )


def project(folder: Path, file: Any, files: dict[str, str] | None = None) -> Path:
    """A project's folder."""
    (folder / "langgraph.json").write_text(file if isinstance(file, str) else json.dumps(file))
    for name, text in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(scope="module")
def worker(cas: Cas, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CasProcess]:
    # The environment wins over the file, as everywhere.
    folder = project(
        tmp_path_factory.mktemp("project"),
        FILE,
        {"agents/forms.py": FORMS, "lib/src/words.py": "word = 'from src'\n", ".env": ENV},
    )
    with cas.process("worker", "langgraph.json", cwd=folder) as process:
        process.line_with("runner ready")
        yield process


@pytest.mark.parametrize("name", FILE["graphs"])
def test_every_form_of_a_graph_is_served(cas: Cas, worker: CasProcess, name: str) -> None:
    answer = cas("run", name, "{}", "--quiet")

    assert answer.code == 0, answer.err
    said = "managed sync" if name == "managed_sync" else name
    secret = "" if name == "functional" else "never shown"
    assert answer.json["said"] == f"{said} from src good day {secret}"


def test_what_is_not_for_a_runner_is_noted(worker: CasProcess) -> None:
    assert "left aside: http, python_version" in worker.line_with("left aside")


def test_values_of_the_environment_are_not_shown(worker: CasProcess) -> None:
    assert not [line for line in (*worker.out, *worker.err) if "never shown" in line]


def test_a_description_is_published(cas: Cas, worker: CasProcess) -> None:
    registered = [
        event
        for event in cas("replay", "--json").lines
        if event["type"] == "cas.agent.registered" and event["agent_id"] == "factory"
    ]
    assert registered[0]["data"]["description"] == "made for each run"


GOOD = {"dependencies": ["."], "graphs": {"x": "./x.py:graph"}}


@pytest.mark.parametrize(
    ("file", "files", "words"),
    [
        ("{", {}, "it is no JSON"),
        ("[]", {}, "it has no graphs"),
        ({"graphs": {}}, {}, "it has no graphs"),
        (GOOD, {}, "no such file; `graphs` of langgraph.json names it"),
        (GOOD, {"x.py": "other = 1\n"}, "graphs.x: ./x.py has no 'graph'; it has other"),
        (GOOD, {"x.py": "graph = 3\n"}, "graphs.x: ./x.py:graph: a int is neither an agent function"),
        (GOOD, {"x.py": "1 / 0\n"}, "graphs.x: importing ./x.py failed: ZeroDivisionError"),
        (GOOD, {"x.py": "import not_there_at_all\n"}, "install it, or add its folder to dependencies"),
        (
            GOOD | {"dependencies": [".", "not-there-at-all>=1"]},
            {"x.py": "import not_there_at_all\n"},
            "install not-there-at-all>=1",
        ),
        ({"graphs": {"x": "not_there.at_all:graph"}}, {}, "graphs.x: importing not_there.at_all failed"),
        ({"graphs": {"x": "./x.py"}}, {}, "graphs.x: write it as"),
        ({"graphs": {"x": {"description": "no path"}}}, {}, "graphs.x: write it as"),
        ({"graphs": {"two words": "./x.py:graph"}}, {}, "graphs.two words: an agent's name is"),
        (GOOD | {"env": ".missing"}, {}, "`env` of langgraph.json names it"),
        (GOOD | {"env": [1]}, {}, "env: write the name of a file, or an object of texts"),
        (GOOD | {"dependencies": ["./missing"]}, {}, "`dependencies` of langgraph.json names it"),
    ],
)
def test_an_error_names_the_entry_and_what_to_do(
    cas: Cas, tmp_path: Path, file: Any, files: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project(tmp_path, file, files))
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        answer = cas("worker", "langgraph.json")
    finally:
        sys.modules.pop("x", None)
    assert answer.code in {1, 2}
    *notes, error = answer.err.splitlines()
    assert all("not installed" in note for note in notes)
    assert words in error.removeprefix("error: ")


def test_no_such_file_is_one_line(cas: Cas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = cas("worker", "langgraph.json")
    assert answer.code == 2
    assert "no such file" in answer.error


def test_a_file_of_variables_is_read_plainly(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(
        "A=1\nexport B = two words # not this\nC=\"x # y\\nz\"\nD='it is'\n#E=1\nnot a line\nF=\n"
    )
    assert read_env_file(file) == {"A": "1", "B": "two words", "C": "x # y\nz", "D": "it is", "F": ""}


ISOLATED = """
import os
from cas_events import Runner

runner = Runner(grace_s=0.5)

@runner.agent("apart", isolation="process")
async def apart(ctx, input):
    return {"pid": os.getpid()}
"""


def test_a_file_of_isolated_agents_is_served(cas: Cas, tmp_path: Path) -> None:
    """The child process has to find the module of a file that the worker loaded by its path."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "our_isolated.py").write_text(ISOLATED)
    with cas.process("worker", "deep/our_isolated.py", cwd=tmp_path) as process:
        process.line_with("runner ready")
        answer = cas("run", "apart", "{}", "--quiet")
        assert answer.code == 0, answer.err
        assert answer.json["pid"] != process.pid
