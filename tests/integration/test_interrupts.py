"""Human in the loop: a graph asks, lets go of its place, and is answered (issue 4, item 4; PROTOCOL sections 5 and 7).

Method: real server, runners in the test's own loop, graphs whose nodes say when they run. The log is the judge.
"""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph._internal._constants import CONFIG_KEY_STRICT_RESUME
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel

from cas_events import Client, Interrupt, Runner, current_task
from cas_events.domain.events import Event
from cas_events.domain.retry import RetryPolicy
from cas_events.runner.graphs.threads import STRICT_RESUME
from tests.harness.own_runner import lifecycle, names_of, running
from tests.harness.patience import promised
from tests.harness.wait import until_async

ASKED = ["started", "interrupted"]
ANSWERED = ["resumed", "started"]


class State(TypedDict, total=False):
    text: str
    said: Annotated[list[Any], operator.add]


class Verdict(BaseModel):
    approve: bool


def graph(**nodes: Any) -> StateGraph:
    """The nodes one after the other; those of one list beside each other."""
    builder = StateGraph(State)
    before: Any = START
    for name, node in nodes.items():
        group = {f"{name}{n}": one for n, one in enumerate(node)} if isinstance(node, list) else {name: node}
        for key, one in group.items():
            builder.add_node(key, one)
            builder.add_edge(before, key)
        before = list(group) if len(group) > 1 else next(iter(group))
    builder.add_edge(before, END)
    return builder


def asking(*questions: Any, schema: Any = None) -> Any:
    """A node that asks, one question after the other, and says what it was told."""

    async def node(state: State) -> State:
        told = [interrupt(question, response_schema=schema) for question in questions]
        return {"said": [t.model_dump() if isinstance(t, BaseModel) else t for t in told]}

    return node


async def working(state: State) -> State:
    current_task().log.info("worked", attempt=current_task().attempt)
    return {"said": [f"worked {state.get('text', '')}"]}


async def asked(cas: Client, task_id: str, count: int = 1) -> list[Interrupt]:
    """The open questions of a task, once there are as many."""
    task = await cas.task(task_id)

    async def are_open() -> list[Interrupt]:
        found = await task.interrupts()
        return found if len(found) == count else []

    return await until_async(are_open, timeout_s=20, what=f"{task_id} asks {count} questions")


async def result_of(cas: Client, task_id: str) -> Any:
    return await asyncio.wait_for((await cas.task(task_id)).result(), promised(20.0))


async def raw_answer(cas: Client, agent: str, task_id: str, interrupt_id: str, body: bytes) -> None:
    """As any NATS client answers."""
    session = cas._session
    await session.js.append(session.names.resume(agent, task_id, interrupt_id), body)


async def test_a_question_frees_the_runner_and_its_answer_goes_on(cas: Client, make_runner) -> None:
    runner: Runner = make_runner()
    runner.register("approve", graph(work=working, ask=asking({"publish": "draft"}), after=working))

    async with running(cas, runner):
        task = await cas.submit_task("approve", {"text": "x"}, task_id="a1")
        [question] = await asked(cas, "a1")
        assert (question.value, question.schema) == ({"publish": "draft"}, None)
        assert await cas.resume_task("a1", question.id, "yes") == "accepted"
        result = await asyncio.wait_for(task.result(), promised(20.0))

    assert result.status == "completed"
    assert result.output == {"text": "x", "said": ["worked x", "yes", "worked x"]}
    told = await lifecycle(cas, "approve", "a1")
    assert names_of(told) == [*ASKED, *ANSWERED, "completed"]
    assert [(e.attempt, e.index) for e in told[2:4]] == [(2, 0), (2, 1)]
    assert told[2].data["interrupt_id"] == question.id
    assert told[2].data["value"] == "yes"
    assert told[3].data["resumed"] is True
    assert [e.data["tries"] for e in told] == [1] * 5
    assert await logs(cas, "a1") == [{"attempt": 1}, {"attempt": 2}]


async def logs(cas: Client, task_id: str) -> list[Any]:
    return [e.data["metadata"] async for e in cas.replay(task_id=task_id) if e.type == "cas.log"]


async def test_a_waiting_task_holds_no_place(cas: Client, make_runner, monkeypatch) -> None:
    """The fleet has one place for the agent."""
    monkeypatch.setattr("cas_events.runner.sources.AGENT_PLACES_FLEET", 1)
    runner: Runner = make_runner(places=1)
    runner.register("approve", graph(ask=asking("ok?")))

    async with running(cas, runner):
        for n in range(3):
            await cas.submit_task("approve", task_id=f"t{n}")
        open_ = [(await asked(cas, f"t{n}"))[0].id for n in range(3)]
        assert len(set(open_)) == 3
        for n in reversed(range(3)):
            await cas.resume_task(f"t{n}", open_[n], n)
            assert (await result_of(cas, f"t{n}")).output["said"] == [n]


async def test_an_answer_is_taken_by_another_runner_later(cas: Client, make_runner) -> None:
    def make() -> Runner:
        runner: Runner = make_runner()
        runner.register("approve", graph(work=working, ask=asking("ok?")))
        return runner

    async with running(cas, make()):
        await cas.submit_task("approve", task_id="later")
        [question] = await asked(cas, "later")
    assert await cas.resume_task("later", question.id, True) == "accepted"
    async with running(cas, make()):
        result = await result_of(cas, "later")

    assert result.output["said"] == ["worked ", True]
    assert await logs(cas, "later") == [{"attempt": 1}]


async def test_parallel_questions_are_answered_one_by_one(cas: Client, make_runner) -> None:
    runner: Runner = make_runner()
    runner.register("panel", graph(ask=[asking("a"), asking("b"), asking("c")], after=working))

    async with running(cas, runner):
        await cas.submit_task("panel", task_id="p")
        first = {i.value: i.id for i in await asked(cas, "p", 3)}
        await cas.resume_task("p", first["b"], "B")
        rest = {i.value: i.id for i in await asked(cas, "p", 2)}
        assert rest == {"a": first["a"], "c": first["c"]}
        # Both at once: one of them is stored while the other's attempt runs.
        answers = [cas.resume_task("p", rest[name], name.upper()) for name in "ca"]
        assert await asyncio.gather(*answers) == ["accepted", "accepted"]
        result = await result_of(cas, "p")

    assert result.output["said"] == ["A", "B", "C", "worked "]
    assert names_of(await lifecycle(cas, "panel", "p")) == [
        *[*ASKED, *ANSWERED[:1]] * 3,
        "started",
        "completed",
    ]


async def test_a_repeated_answer_never_reaches_the_next_question(cas: Client, make_runner) -> None:
    runner: Runner = make_runner()
    runner.register("two", graph(ask=asking("first", "second")))

    async with running(cas, runner):
        await cas.submit_task("two", task_id="q")
        [first] = await asked(cas, "q")
        assert await cas.resume_task("q", first.id, 1) == "accepted"

        async def moved_on() -> str:
            [question] = await asked(cas, "q")
            return question.id if question.id != first.id else ""

        second = await until_async(moved_on, what="the second question")
        assert await cas.resume_task("q", first.id, 99) == "already_answered"
        assert await cas.resume_task("q", "never-1", 99) == "not_waiting"
        await raw_answer(cas, "two", "q", "never-1", b'{"value": 99}')
        assert await cas.resume_task("q", second, 2) == "accepted"
        result = await result_of(cas, "q")
        assert await cas.resume_task("q", second, 3) == "already_finished"
        ignored = await until_async(lambda: ignored_commands(cas, "two"), what="the trace of the odd answer")

    assert result.output["said"] == [1, 2]
    assert [e.data["reason"] for e in ignored] == ["the task does not wait for this interrupt"]


async def ignored_commands(cas: Client, agent: str) -> list[Event]:
    return [e async for e in cas.replay(agent=agent) if e.type == "cas.agent.command_ignored"]


async def test_an_invalid_answer_leaves_it_interrupted_with_the_reason(cas: Client, make_runner) -> None:
    runner: Runner = make_runner()
    runner.register("strict", graph(ask=[asking("publish?", schema=Verdict), asking("other")]))

    async with running(cas, runner):
        await cas.submit_task("strict", task_id="s")
        first = {i.value: i for i in await asked(cas, "s", 2)}
        schema = first["publish?"].schema
        assert schema["properties"]["approve"]["type"] == "boolean"
        await cas.resume_task("s", first["publish?"].id, {"approve": "perhaps"})

        async def asks_again() -> dict[str, str]:
            found = {i.value: i.id for i in await asked(cas, "s", 2)}
            return found if found["publish?"] != first["publish?"].id else {}

        second = await until_async(asks_again, what="the question under a fresh name")
        assert second["publish?"] == first["publish?"].id.replace("-1", "-2")
        assert second["other"] == first["other"].id
        await raw_answer(cas, "strict", "s", second["publish?"], b"\xff no json")
        third = await until_async(
            lambda: changed(cas, "s", second["publish?"]), what="the question under a third name"
        )
        assert third["publish?"] == first["publish?"].id.replace("-1", "-3")
        await cas.resume_task("s", third["publish?"], {"approve": True})
        await cas.resume_task("s", third["other"], "fine")
        result = await result_of(cas, "s")
        ignored = await ignored_commands(cas, "strict")

    assert result.output["said"] == [{"approve": True}, "fine"]
    problems = [
        e.data["error"]
        for e in await lifecycle(cas, "strict", "s")
        if e.type.endswith("ed") and "error" in e.data
    ]
    assert problems[0]["type"] == "ValidationError"
    assert problems[1]["type"] == "InvalidAnswerError"
    assert len(ignored) == 1


async def changed(cas: Client, task_id: str, old: str) -> dict[str, str]:
    found = {i.value: i.id for i in await (await cas.task(task_id)).interrupts()}
    return found if found and old not in found.values() else {}


async def test_an_answer_that_was_stored_first_is_found_by_the_question(cas: Client, make_runner) -> None:
    """The ids of parallel questions are known before the second is listed anew; its answer's delivery is long gone."""
    gate = asyncio.Event()

    async def slow(state: State) -> State:
        told = interrupt("slow")
        await gate.wait()
        return {"said": [told]}

    runner: Runner = make_runner()
    runner.register("panel", graph(ask=[slow, asking("b")]))

    async with running(cas, runner):
        await cas.submit_task("panel", task_id="e")
        names = {i.value: i.id for i in await asked(cas, "e", 2)}
        await cas.resume_task("e", names["slow"], "S")
        await until_async(lambda: has(cas, "panel", "e", "resumed"), what="the first answer is taken")
        await cas.resume_task("e", names["b"], "B")
        await until_async(
            lambda: only_one_open(cas, "panel"), timeout_s=20, what="the second answer is put off"
        )
        gate.set()
        result = await result_of(cas, "e")

    assert result.output["said"] == ["S", "B"]
    told = await lifecycle(cas, "panel", "e")
    assert names_of(told) == [*ASKED, *ANSWERED, "interrupted", *ANSWERED, "completed"]
    assert told[5].data["command_seq"] == told[2].data["command_seq"]


async def has(cas: Client, agent: str, task_id: str, name: str) -> bool:
    return name in names_of(await lifecycle(cas, agent, task_id))


async def only_one_open(cas: Client, agent: str) -> bool:
    """Whether the delivery of the second answer was acknowledged."""
    session = cas._session
    info = await session.js.consumer_info(session.names.commands, f"agent-{agent}")
    return info.num_pending == 0 and info.num_ack_pending == 1


async def test_cancel_of_a_waiting_task_is_at_once(cas: Client, make_runner) -> None:
    runner: Runner = make_runner()
    runner.register("approve", graph(ask=asking("ok?")))

    async with running(cas, runner):
        await cas.submit_task("approve", task_id="c")
        [question] = await asked(cas, "c")
        await cas.cancel_task("c", reason="no", wait=True)
        assert await cas.resume_task("c", question.id, True) == "already_finished"

    assert names_of(await lifecycle(cas, "approve", "c")) == [*ASKED, "cancelled"]


async def test_a_cancel_wins_over_a_stored_answer(cas: Client, make_runner) -> None:
    def make() -> Runner:
        runner: Runner = make_runner()
        runner.register("approve", graph(ask=asking("ok?")))
        return runner

    async with running(cas, make()):
        task = await cas.submit_task("approve", task_id="both")
        [question] = await asked(cas, "both")
    assert await cas.cancel_task("both") == "requested"
    assert await cas.resume_task("both", question.id, True) == "accepted"
    async with running(cas, make()):
        result = await asyncio.wait_for(task.result(), promised(20.0))

    assert result.status == "cancelled"
    assert names_of(await lifecycle(cas, "approve", "both")) == [*ASKED, "cancelled"]


async def test_execute_waits_through_a_question_and_stream_shows_it(cas: Client, make_runner) -> None:
    runner: Runner = make_runner()
    runner.register("approve", graph(ask=asking("ok?")))

    async with running(cas, runner):
        async with asyncio.timeout(promised(30.0)):
            seen = []
            async for event in cas.stream_task("approve", task_id="s"):
                seen.append(event)
                if event.type == "cas.task.interrupted":
                    await cas.resume_task("s", event.data["interrupts"][0]["id"], 7)
            executed = asyncio.create_task(cas.execute_task("approve", task_id="e"))
            await until_async(lambda: has(cas, "approve", "e", "interrupted"), what="the question")
            assert not executed.done()
            [question] = await asked(cas, "e")
            await cas.resume_task("e", question.id, 7)
            result = await executed

    assert result.output["said"] == [7]
    assert [n for n in names_of(seen) if n in {"interrupted", "resumed"}] == ["interrupted", "resumed"]


@pytest.mark.parametrize("default", [False, True])
async def test_a_question_may_have_a_time_limit(cas: Client, make_runner, default: bool) -> None:
    runner: Runner = make_runner()
    options = {"interrupt_default": {"approve": False}} if default else {}
    runner.register("timed", graph(ask=asking("ok?")), interrupt_timeout_s=0.3, **options)

    async with running(cas, runner):
        result = await asyncio.wait_for(cas.execute_task("timed", task_id="t"), promised(20.0))

    if default:
        assert result.output["said"] == [{"approve": False}]
    else:
        assert (result.status, result.reason) == ("failed", "timeout")
        assert result.error["type"] == "InterruptTimeoutError"


async def test_large_questions_and_answers(cas: Client, make_runner) -> None:
    runner: Runner = make_runner()
    runner.register("large", graph(ask=asking({"draft": "x" * 400_000})))

    async with running(cas, runner):
        await cas.submit_task("large", task_id="l")
        [question] = await asked(cas, "l")
        assert len(question.value["draft"]) == 400_000
        await cas.resume_task("l", question.id, "y" * 500_000)
        result = await result_of(cas, "l")

    assert result.output["said"] == ["y" * 500_000]


async def test_a_question_that_has_no_json_form_fails_the_task(cas: Client, make_runner) -> None:
    runner: Runner = make_runner()
    runner.register("odd", graph(ask=asking({"what": float("nan")})))

    async with running(cas, runner):
        result = await asyncio.wait_for(cas.execute_task("odd"), promised(20.0))

    assert (result.status, result.reason, result.error["type"]) == ("failed", "error", "NotJsonError")


async def test_steps_and_telemetry_of_an_asking_node(cas: Client, make_runner) -> None:
    """A node that asks has not completed; answered, it starts once more, in the next attempt."""

    def ask(_state: State) -> State:
        current_task().log.info("asking", attempt=current_task().attempt)
        return {"said": [interrupt("ok?")]}

    runner: Runner = make_runner()
    runner.register("steps", graph(work=working, ask=ask))

    async with running(cas, runner):
        await cas.submit_task("steps", task_id="t")
        [question] = await asked(cas, "t")
        await cas.resume_task("t", question.id, 1)
        await result_of(cas, "t")
        told = [event async for event in cas.replay(task_id="t")]

    steps = [(e.attempt, e.data["node"], names_of([e])[0]) for e in told if e.type.startswith("cas.step.")]
    assert sorted(steps) == sorted(
        [
            (1, "work", "started"),
            (1, "work", "completed"),
            (1, "ask", "started"),
            (2, "ask", "started"),
            (2, "ask", "completed"),
        ]
    )
    asking_logs = [e for e in told if e.data.get("message") == "asking"]
    assert [(e.attempt, e.data["metadata"]["attempt"]) for e in asking_logs] == [(1, 1), (2, 2)]


def test_the_private_key_of_strict_resumes_is_langgraphs() -> None:
    assert STRICT_RESUME == CONFIG_KEY_STRICT_RESUME


async def test_many_questions_are_listed_a_part_at_a_time(cas: Client, make_runner) -> None:
    runner: Runner = make_runner()
    runner.register("many", graph(ask=[asking("v" * 2_000) for _ in range(120)]))

    async with running(cas, runner):
        await cas.submit_task("many", task_id="m")
        await asked(cas, "m", 120)
        await cas.cancel_task("m", wait=True)


@pytest.mark.parametrize("options", [{"interrupt_before": ["after"]}, {"interrupt_after": ["work"]}])
async def test_a_static_breakpoint_is_a_question_and_no_end(cas: Client, make_runner, options: Any) -> None:
    runner: Runner = make_runner()
    runner.register("stops", graph(work=working, after=working).compile(**options))

    async with running(cas, runner):
        await cas.submit_task("stops", task_id="b")
        [question] = await asked(cas, "b")
        await cas.resume_task("b", question.id, None)
        result = await result_of(cas, "b")

    assert question.value == {"breakpoint": ["after"]}
    assert result.output["said"] == ["worked ", "worked "]
    assert names_of(await lifecycle(cas, "stops", "b")) == [*ASKED, *ANSWERED, "completed"]
    assert await logs(cas, "b") == [{"attempt": 1}, {"attempt": 2}]


async def test_a_retry_after_an_answer_does_not_ask_again(cas: Client, make_runner) -> None:
    """The node that was told fails once; the answer is the log's and its checkpoint's."""

    async def moody(_state: State) -> State:
        told = interrupt("ok?")
        if current_task().attempt == 2:
            raise ValueError("once")
        return {"said": [told]}

    runner: Runner = make_runner()
    runner.register("moody", graph(ask=moody), retry=RetryPolicy(base_s=0.01))

    async with running(cas, runner):
        await cas.submit_task("moody", task_id="m")
        [question] = await asked(cas, "m")
        await cas.resume_task("m", question.id, "yes")
        result = await result_of(cas, "m")

    assert result.output["said"] == ["yes"]
    told = await lifecycle(cas, "moody", "m")
    assert names_of(told) == [*ASKED, *ANSWERED, "retrying", "started", "completed"]
    assert [event.data["tries"] for event in told] == [1, 1, 1, 1, 1, 2, 2]
