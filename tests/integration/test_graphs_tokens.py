"""What chat models say, published as it comes when it is asked for (issue 4, item 5)."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from cas_events import Client, TaskContext
from cas_events.domain.events import Event
from cas_events.runner.graphs.tokens import TOKENS_EVERY_S, Tokens, wants_tokens
from tests.harness.own_runner import running

SPEECH = "the quick brown fox jumps over the lazy dog"
QUESTION = {"messages": [{"role": "user", "content": "say something"}]}


def model(text: str = SPEECH) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage(text)]))


async def asynchronous(_state: MessagesState) -> dict:
    return {"messages": [await model().ainvoke("hi")]}


def sync(_state: MessagesState) -> dict:
    return {"messages": [model().invoke("hi"), AIMessage("not of a model")]}


def of_one(node: Any) -> StateGraph:
    made = StateGraph(MessagesState)
    made.add_node("writer", node)
    made.add_edge(START, "writer")
    made.add_edge("writer", END)
    return made


async def run(
    cas: Client, make_runner, graph: Any, metadata: dict | None = None, **options: Any
) -> list[Event]:
    runner = make_runner()
    runner.register("chat", graph, max_attempts=1, **options)
    async with running(cas, runner):
        task = await cas.submit_task("chat", QUESTION, metadata=metadata)
        return [event async for event in task.events()]


def tokens(events: list[Event]) -> list[dict]:
    return [event.data["value"] for event in events if event.data.get("kind") == "token"]


@pytest.mark.parametrize("node", [asynchronous, sync])
async def test_tokens_come_when_the_task_asks(cas: Client, make_runner, node: Any) -> None:
    events = await run(cas, make_runner, of_one(node), {"stream_tokens": True})

    said = tokens(events)
    assert "".join(value["text"] for value in said) == SPEECH
    assert {(value["node"], value["agent"]) for value in said} == {("writer", "writer")}
    assert len({value["message_id"] for value in said}) == 1
    assert events[-1].status == "completed"
    assert events[-1].data["output"]["messages"][1]["content"] == SPEECH


@pytest.mark.parametrize(
    ("option", "asked", "expected"),
    [
        (False, None, False),
        (True, None, True),
        (True, False, False),
        (False, True, True),
        (True, "yes", True),
    ],
)
def test_the_task_says_and_else_the_agents_option(option: bool, asked: Any, expected: bool) -> None:
    metadata = {} if asked is None else {"stream_tokens": asked}
    assert wants_tokens(metadata, default=option) is expected


async def test_tokens_are_not_streamed_unless_asked_for(cas: Client, make_runner) -> None:
    """LangGraph's mode `messages` makes every chat model stream, which some cannot and some bill otherwise."""
    assert tokens(await run(cas, make_runner, of_one(asynchronous))) == []


async def test_an_agent_in_a_workflow_is_named(cas: Client, make_runner) -> None:
    agent = create_agent(model(), [], name="marketer")
    said = tokens(await run(cas, make_runner, of_one(agent), tokens=True))

    assert "".join(value["text"] for value in said) == SPEECH
    assert {(value["node"], value["agent"]) for value in said} == {("model", "marketer")}
    assert all(value["path"][0].startswith("writer:") for value in said)


class Recorder:
    """Stands where a context's events go, and says when each came."""

    def __init__(self) -> None:
        self.values: list[tuple[float, dict]] = []

    def output(self, value: Any, *, kind: str) -> Any:
        assert kind == "token"
        self.values.append((time.monotonic(), value))


def collector() -> tuple[Tokens, Recorder]:
    recorder = Recorder()
    context = TaskContext(
        task_id="t",
        agent_id="a",
        attempt=1,
        metadata={},
        make_emitter=lambda: recorder,  # type: ignore[arg-type,return-value] # what tokens need of one
        is_cancelled=lambda: False,
    )
    return Tokens(context), recorder


def chunk(text: str, message_id: str) -> AIMessage:
    return AIMessage(text, id=message_id)


PLACE = {"langgraph_node": "n", "langgraph_checkpoint_ns": "n:1", "ls_model_type": "chat"}


async def test_at_most_one_message_in_thirty_milliseconds() -> None:
    collected, recorder = collector()
    until_s = time.monotonic() + 0.3
    said = 0
    while time.monotonic() < until_s:
        collected.add(chunk(f"{said} ", f"m{said % 3}"), PLACE)
        said += 1
        await asyncio.sleep(0)
    in_time = len(recorder.values)
    collected.flush()

    times = [time_s for time_s, _ in recorder.values[:in_time]]
    assert all(after - before >= TOKENS_EVERY_S for before, after in itertools.pairwise(times))
    assert len(recorder.values) <= in_time + 3  # What each of three answers had left.
    for answer in range(3):
        text = "".join(value["text"] for _, value in recorder.values if value["message_id"] == f"m{answer}")
        assert text.split() == [str(number) for number in range(answer, said, 3)]


async def test_the_first_token_does_not_wait_and_the_last_is_not_lost() -> None:
    collected, recorder = collector()
    collected.add(chunk("first", "m"), PLACE)
    assert [value["text"] for _, value in recorder.values] == ["first"]
    collected.add(chunk(" last", "m"), PLACE)
    collected.flush()
    assert [value["text"] for _, value in recorder.values] == ["first", " last"]


async def test_a_pause_sends_what_waits(cas: Client, make_runner) -> None:
    """A node that goes on after its model has spoken holds nothing back."""
    spoken = asyncio.Event()

    async def slow(_state: MessagesState) -> dict:
        await model().ainvoke("hi")
        await spoken.wait()
        return {}

    runner = make_runner()
    runner.register("chat", of_one(slow), tokens=True)
    async with running(cas, runner):
        task = await cas.submit_task("chat", QUESTION)
        text, ended = "", False
        async for event in task.events():
            text += event.data["value"]["text"] if event.data.get("kind") == "token" else ""
            if text == SPEECH:
                spoken.set()
            ended = event.is_terminal
        assert ended
