"""Tasks that share a thread: memory from turn to turn, and LangGraph's four words on a busy one (issue 4, item 3)."""

from __future__ import annotations

import asyncio
import operator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from cas_events import Client, JetStreamSaver, Runner
from tests.harness.own_runner import lifecycle, names_of, running
from tests.harness.patience import promised
from tests.harness.processes import settings
from tests.harness.wait import until, until_async

THREAD = "talk 1/ü"


class State(TypedDict, total=False):
    say: str
    said: Annotated[list[str], operator.add]


class Talk:
    """A graph of two nodes; the second one waits while its words are held."""

    def __init__(self) -> None:
        self.held: dict[str, asyncio.Event] = {}
        self.begun: list[str] = []

    async def hear(self, state: State) -> State:
        return {"said": [state["say"]]}

    async def answer(self, state: State) -> State:
        word = state["say"]
        self.begun.append(word)
        if word == "ask":
            return {"said": [interrupt("well?")]}
        if word in self.held:
            await self.held[word].wait()
        return {"said": [f"re {word}"]}

    def graph(self) -> StateGraph:
        builder = StateGraph(State)
        builder.add_node("hear", self.hear)
        builder.add_node("answer", self.answer)
        builder.add_edge(START, "hear")
        builder.add_edge("hear", "answer")
        builder.add_edge("answer", END)
        return builder

    def runner(self, make_runner, **options: Any) -> Runner:
        runner: Runner = make_runner(**options)
        runner.register("talk", self.graph())
        return runner


async def say(cas: Client, word: str, strategy: str | None = None, thread: str = THREAD) -> Any:
    metadata = {"thread_id": thread} | ({"multitask_strategy": strategy} if strategy else {})
    return await cas.submit_task("talk", {"say": word}, task_id=word, metadata=metadata)


async def result(task: Any) -> Any:
    return await asyncio.wait_for(task.result(), promised(30.0))


async def is_settled(cas: Client) -> bool:
    """Whether every command has been looked at: those that wait for their turn are acknowledged."""
    session = cas._session
    info = await session.js.consumer_info(session.names.commands, "agent-talk")
    return info.num_pending == 0 and info.num_ack_pending <= 1


async def test_a_thread_remembers_from_task_to_task(cas: Client, make_runner) -> None:
    talk = Talk()
    async with running(cas, talk.runner(make_runner)):
        first = await result(await say(cas, "one"))
        second = await result(await say(cas, "two"))
        other = await result(await say(cas, "three", thread="another"))

    assert first.output["said"] == ["one", "re one"]
    assert second.output["said"] == ["one", "re one", "two", "re two"]
    assert other.output["said"] == ["three", "re three"]


@pytest.mark.parametrize("form", ["graph", "function"])
async def test_a_thread_may_be_older_than_the_task_that_it_is_named_after(
    cas: Client, make_runner, form: str
) -> None:
    """Such a task begins as if its thread were new, and finds out before any code of the graph has run."""
    begun = []

    @entrypoint()
    async def remembering(input: dict[str, Any], *, previous: Any = None) -> dict[str, Any]:
        begun.append(input["say"])
        return {"said": [*(previous or {"said": []})["said"], input["say"], f"re {input['say']}"]}

    talk = Talk()
    runner = make_runner()
    runner.register("talk", talk.graph() if form == "graph" else remembering)
    async with running(cas, runner):
        await result(await say(cas, "one", thread="two"))
        second = await result(await cas.submit_task("talk", {"say": "two"}, task_id="two"))

    assert second.output["said"] == ["one", "re one", "two", "re two"]
    assert (talk.begun if form == "graph" else begun) == ["one", "two"]


@pytest.mark.parametrize("strategy", [None, "enqueue"])
async def test_enqueue_waits_for_its_turn_in_order_and_holds_no_place(
    cas: Client, make_runner, monkeypatch, strategy: str | None
) -> None:
    monkeypatch.setattr("cas_events.runner.sources.AGENT_PLACES_FLEET", 2)
    talk = Talk()
    talk.held["a"] = asyncio.Event()
    words = ["a", "b", "c", "d", "e"]
    async with running(cas, talk.runner(make_runner)):
        tasks = [await say(cas, "a", strategy)]
        await until(lambda: talk.begun == ["a"], what="the first task runs")
        for word in words[1:]:
            tasks.append(await say(cas, word, strategy))
            await until_async(lambda: is_settled(cas), what="the task waits without a place")
        assert (await result(await say(cas, "f", thread="another"))).status == "completed"
        assert (await (await cas.task("b"))._questions.open()) == []
        talk.held["a"].set()
        results = [await result(task) for task in tasks]

    assert [one.output["said"][-2:] for one in results] == [[word, f"re {word}"] for word in words]
    assert talk.begun == ["a", "f", "b", "c", "d", "e"]
    assert names_of(await lifecycle(cas, "talk", "e")) == ["started", "completed"]


@pytest.mark.parametrize(
    "metadata",
    [{"thread_id": "large", "notes": "x" * 300_000}, {"thread_id": 0}, {"thread_id": 1.5}],
    ids=["as a claim check", "zero", "a fraction"],
)
async def test_whatever_names_the_thread_the_tasks_take_turns_on_it(
    cas: Client, make_runner, metadata: dict[str, Any]
) -> None:
    talk = Talk()
    talk.held["a"] = asyncio.Event()
    async with running(cas, talk.runner(make_runner)):
        first = await cas.submit_task("talk", {"say": "a"}, task_id="a", metadata=metadata)
        await until(lambda: talk.begun == ["a"], what="the first task runs")
        second = await cas.submit_task("talk", {"say": "b"}, task_id="b", metadata=metadata)
        await until_async(lambda: is_settled(cas), what="the second one has been looked at")
        refused = await result(
            await cas.submit_task(
                "talk", {"say": "no"}, task_id="no", metadata=metadata | {"multitask_strategy": "reject"}
            )
        )
        talk.held["a"].set()
        await result(first)
        said = (await result(second)).output["said"]

    assert (refused.status, refused.reason) == ("rejected", "thread_busy")
    assert said == ["a", "re a", "b", "re b"]
    assert names_of(await lifecycle(cas, "talk", "b")) == ["started", "completed"]


async def test_reject_is_rejected_while_the_thread_is_busy(cas: Client, make_runner) -> None:
    talk = Talk()
    async with running(cas, talk.runner(make_runner)):
        await say(cas, "ask")
        await until_async(lambda: is_asked(cas, "ask"), what="the task waits for an answer")
        refused = await result(await say(cas, "no", "reject"))
        [question] = await (await cas.task("ask")).interrupts()
        await cas.resume_task("ask", question.id, "so")
        await result(await cas.task("ask"))
        accepted = await result(await say(cas, "yes", "reject"))

    assert (refused.status, refused.reason) == ("rejected", "thread_busy")
    assert "'ask'" in refused.error["message"] or "ask" in refused.error["message"]
    assert accepted.output["said"] == ["ask", "so", "yes", "re yes"]


async def is_asked(cas: Client, task_id: str) -> bool:
    return bool(await (await cas.task(task_id)).interrupts())


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
@pytest.mark.parametrize("first", ["slow", "ask"])
async def test_interrupt_and_rollback_take_the_thread_over(
    cas: Client, make_runner, strategy: str, first: str
) -> None:
    talk = Talk()
    talk.held["slow"] = asyncio.Event()
    async with running(cas, talk.runner(make_runner)):
        await result(await say(cas, "before"))
        old = await say(cas, first)
        await until(lambda: talk.begun[-1] == first, what="the first task runs")
        if first == "ask":
            await until_async(lambda: is_asked(cas, "ask"), what="the task waits for an answer")
        new = await result(await say(cas, "new", strategy))
        ended = await result(old)

    assert (ended.status, ended.reason) == ("cancelled", "task new took the thread over")
    kept = ["before", "re before"] + ([first] if strategy == "interrupt" else [])
    assert new.output["said"] == [*kept, "new", "re new"]


async def test_a_cancelled_one_leaves_the_line(cas: Client, make_runner) -> None:
    talk = Talk()
    talk.held["a"] = asyncio.Event()
    async with running(cas, talk.runner(make_runner)):
        first = await say(cas, "a")
        await until(lambda: talk.begun == ["a"], what="the first task runs")
        await say(cas, "b")
        await until_async(lambda: is_settled(cas), what="the second waits")
        last = await say(cas, "c")
        await until_async(lambda: is_settled(cas), what="the third waits")
        await cas.cancel_task("b", wait=True)
        talk.held["a"].set()
        await result(first)
        assert (await result(last)).output["said"] == ["a", "re a", "c", "re c"]


async def test_a_strategy_that_there_is_not(cas: Client, make_runner) -> None:
    talk = Talk()
    async with running(cas, talk.runner(make_runner)):
        refused = await result(await say(cas, "x", "barge"))

    assert (refused.status, refused.reason) == ("rejected", "bad_body")
    assert "barge" in refused.error["message"]


@pytest.mark.parametrize(("keep", "private", "shared"), [("all", 4, 8), ("latest", 1, 1), ("none", 0, 1)])
async def test_what_is_kept_of_checkpoints(
    cas: Client, make_runner, nats_server, deployment: str, keep: Any, private: int, shared: int
) -> None:
    runner: Runner = make_runner()
    runner.register("talk", Talk().graph(), keep_checkpoints=keep)
    async with running(cas, runner):
        await result(await cas.submit_task("talk", {"say": "alone"}, task_id="alone"))
        await result(await say(cas, "one"))
        second = await result(await say(cas, "two"))
        async with JetStreamSaver(settings=settings(nats_server.url, deployment)) as saver:
            await until_async(lambda: has(saver, "alone", private), what="the task's own thread")
            await until_async(lambda: has(saver, THREAD, shared), what="the shared thread")
    assert second.output["said"] == ["one", "re one", "two", "re two"]


async def has(saver: JetStreamSaver, thread_id: str, count: int) -> bool:
    config: Any = {"configurable": {"thread_id": thread_id}}
    return len([found async for found in saver.alist(config)]) == count


@dataclass
class Note:
    text: str


class Notes(TypedDict, total=False):
    note: Note
    told: str


async def test_the_types_of_a_graphs_state_survive_a_question(cas: Client, make_runner) -> None:
    """Checkpoints construct the types of the graph's own schema, although they are strict."""

    async def write(_state: Notes) -> Notes:
        return {"note": Note("kept")}

    async def read(state: Notes) -> Notes:
        return {"told": interrupt("well?") + state["note"].text}

    builder = StateGraph(Notes)
    builder.add_node("write", write)
    builder.add_node("read", read)
    builder.add_edge(START, "write")
    builder.add_edge("write", "read")
    builder.add_edge("read", END)
    runner: Runner = make_runner()
    runner.register("notes", builder)
    async with running(cas, runner):
        task = await cas.submit_task("notes", task_id="n")
        await until_async(lambda: is_asked(cas, "n"), what="the question")
        [question] = await task.interrupts()
        await task.resume(question.id, "told ")
        ended = await result(task)
    assert ended.output["told"] == "told kept"
