"""`cas resume`, and what the other commands show of a task that asks, against a real server, worker and projector."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.cas import UNSIGNED_PROJECTOR, Cas, CasProcess
from tests.harness.patience import promised
from tests.harness.server import NatsServer

AGENTS = """
from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from cas_events import Runner


class State(TypedDict, total=False):
    questions: list
    answers: list


async def ask(state):
    return {"answers": [interrupt(question) for question in state["questions"]]}


async def left(state):
    return {"answers": [interrupt("left")]}


async def right(state):
    interrupt("right")


graph = StateGraph(State)
graph.add_node("ask", ask)
graph.add_edge(START, "ask")
graph.add_edge("ask", END)

both = StateGraph(State)
for node in (left, right):
    both.add_node(node.__name__, node)
    both.add_edge(START, node.__name__)

mine = Runner(grace_s=0.5)
mine.register("approve", graph)
mine.register("both", both)
"""


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
    folder: Path = tmp_path_factory.mktemp("agents")
    (folder / "asking_agents.py").write_text(AGENTS)
    with cas.process("worker", "asking_agents:mine", cwd=folder) as process:
        process.line_with("runner ready")
        yield process


@pytest.fixture
def task_id() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


def ask(cas: Cas, task_id: str, *questions: str, agent: str = "approve") -> list[dict]:
    """Start a task that asks, and wait for its questions."""
    body = json.dumps({"questions": questions})
    assert cas("run", agent, body, "--detach", "--task-id", task_id, "--wait-for-runner", "60").code == 0
    return cas("resume", task_id, "--wait", "20", "--json").json


def test_an_answer_by_the_name_of_its_question(cas: Cas, worker: CasProcess, task_id: str) -> None:
    [question] = ask(cas, task_id, "publish?")
    assert question["value"] == "publish?"
    assert cas("resume", task_id).out == f'{question["id"]}  "publish?"\n'

    answer = cas("resume", task_id, question["id"], '{"approve": true}')
    assert (answer.code, answer.out) == (0, f"task {task_id}: {question['id']} accepted\n")
    again = cas("resume", task_id, question["id"], "false")
    assert again.code == 1
    assert "has ended" in again.error or "has its answer already" in again.error


def test_an_answer_to_the_only_question(cas: Cas, worker: CasProcess, task_id: str) -> None:
    [question] = ask(cas, task_id, "first", "second")

    answer = cas("resume", task_id, "-", "--json", stdin='"one"')
    assert answer.json == {"task_id": task_id, "interrupt_id": question["id"], "answer": "accepted"}
    [following] = second_question(cas, task_id, question["id"])
    assert cas("resume", task_id, '"two"').out == f"task {task_id}: {following} accepted\n"


def second_question(cas: Cas, task_id: str, first: str) -> list[str]:
    """The next question's name, once the task asks it."""
    names: list[str] = []
    deadline_s = time.monotonic() + promised(20.0)
    while not names and time.monotonic() < deadline_s:
        names = [q["id"] for q in cas("resume", task_id, "--json", "--wait", "5").json if q["id"] != first]
    return names


def test_two_questions_want_a_name(cas: Cas, worker: CasProcess, task_id: str) -> None:
    questions = ask(cas, task_id, agent="both")
    assert {question["value"] for question in questions} == {"left", "right"}

    answer = cas("resume", task_id, "true")
    assert answer.code == 1
    assert "2 questions" in answer.error
    assert all(question["id"] in answer.error for question in questions)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nobody", "x-1", "true"], 1, "not in the log"),
        (["{task}", "x-1", "true"], 1, "does not wait for x-1"),
        (["{task}", "x.1", "true"], 1, "interrupt"),
        (["{task}", "x-1", "perhaps"], 2, "no JSON value"),
    ],
)
def test_what_cannot_be_an_answer(
    cas: Cas, worker: CasProcess, task_id: str, arguments: list[str], code: int, words: str
) -> None:
    ask(cas, task_id, "ok?")

    answer = cas("resume", *(argument.format(task=task_id) for argument in arguments))
    assert answer.code == code
    assert words in answer.err


def test_run_says_how_to_answer_and_goes_on(cas: Cas, worker: CasProcess, task_id: str) -> None:
    with cas.process("run", "approve", '{"questions": ["publish?"]}', "--task-id", task_id) as run:
        command = run.line_with("answer it with:").partition("cas resume ")[2].split()
        assert any('"publish?"' in line for line in run.out)
        assert command[0] == task_id
        assert cas("resume", *command[:2], '"yes"').code == 0
        ended = run.end()

    assert ended.code == 0
    assert '"yes"' in ended.out


def test_the_tables_show_that_it_waits(cas: Cas, worker: CasProcess, task_id: str) -> None:
    with cas.process(*UNSIGNED_PROJECTOR) as projector:
        projector.line_with("ready")
        [question] = ask(cas, task_id, "ok?")
        [asked] = [
            line for line in cas("replay", "--task", task_id, "--json").lines if "interrupted" in line["type"]
        ]
        wait = ("--wait-for", str(asked["seq"]))
        status = f"SELECT status FROM cas_tasks WHERE task_id = '{task_id}'"
        assert cas("sql", status, "--json", *wait).json == [{"status": "interrupted"}]
        assert "interrupted" in cas("tasks").out
        assert question["id"] in cas("replay", "--task", task_id).out
