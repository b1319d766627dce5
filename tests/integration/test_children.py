"""`ctx.call` and `ctx.spawn` (issue 6, item 7): parents and children with a runner in the test's own loop."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph

from cas_events import Client, NonRetryableError, TaskContext, current_task
from cas_events.errors import (
    AgentUnavailableError,
    CallCycleError,
    ChildConflictError,
    ChildTaskError,
    NotInTaskError,
)
from tests.harness.own_runner import lifecycle, names_of, noop, running, send_raw
from tests.harness.patience import promised
from tests.harness.processes import lines
from tests.harness.wait import until, until_async


async def double(_ctx: TaskContext, input: dict) -> dict:
    return {"twice": 2 * input["n"]}


async def failing(_ctx: TaskContext, input: dict) -> dict:
    raise NonRetryableError(input.get("why", "no use"))


async def sleeper(_ctx: TaskContext, input: dict) -> dict:
    await asyncio.sleep(input.get("sleep_s", 60))
    return {"slept": True}


async def all_events(cas: Client, task_id: str) -> list[Any]:
    return [event async for event in cas.replay(task_id=task_id)]


async def children_of(cas: Client, task_id: str) -> list[str]:
    """Ids of the recorded children, in the order of their records."""
    steps = [event for event in await all_events(cas, task_id) if event.type == "cas.step.started"]
    return [event.data["child"]["task_id"] for event in steps if "child" in event.data]


async def test_results_come_up_and_ids_go_down(cas: Client, make_runner) -> None:
    runner = make_runner()

    @runner.agent("top")
    async def top(ctx: TaskContext, input: dict) -> dict:
        middle = await ctx.call("middle", {"n": input["n"]}, metadata={"from": "top"})
        return {"answer": middle["got"]}

    @runner.agent("middle")
    async def middle(ctx: TaskContext, input: dict) -> dict:
        assert ctx.metadata == {"from": "top"}
        return {"got": (await ctx.call("double", input))["twice"]}

    runner.agent("double")(double)
    async with running(cas, runner):
        result = await cas.execute_task("top", {"n": 21}, task_id="root")
        events = {task: await all_events(cas, task) for task in await family(cas, "root")}

    assert result.output == {"answer": 42}
    assert len(events) == 3
    tasks = list(events)
    for task, parent in zip(tasks, [None, *tasks], strict=False):
        assert {event.correlation_id for event in events[task]} == {"root"}
        assert {event.parent_id for event in events[task]} == {parent}
    steps = [event for event in events["root"] if event.type.startswith("cas.step")]
    assert [event.type for event in steps] == ["cas.step.started", "cas.step.completed"]
    assert steps[0].data == {
        "node": "call:middle",
        "path": [],
        "step_id": tasks[1],
        "child": {"agent": "middle", "task_id": tasks[1]},
    }


async def family(cas: Client, root: str) -> list[str]:
    found = [root]
    for task in found:
        found += await children_of(cas, task)
    return found


async def test_a_childs_failure_is_its_parents_to_handle(cas: Client, make_runner) -> None:
    runner = make_runner()
    caught: list[ChildTaskError] = []

    @runner.agent("careful")
    async def careful(ctx: TaskContext, _input: dict) -> dict:
        try:
            await ctx.call("failing", {"why": "broken"})
        except ChildTaskError as error:
            caught.append(error)
        return {"went_on": True}

    @runner.agent("careless")
    async def careless(ctx: TaskContext, _input: dict) -> dict:
        return await ctx.call("failing", {"why": "broken"})

    runner.agent("failing")(failing)
    async with running(cas, runner):
        careful_result = await cas.execute_task("careful")
        careless_result = await cas.execute_task("careless")
        steps = [e for e in await all_events(cas, careless_result.task_id) if e.type == "cas.step.failed"]

    assert careful_result.output == {"went_on": True}
    [error] = caught
    assert (error.agent_id, error.status, error.result.reason) == ("failing", "failed", "error")
    assert "broken" in str(error)
    assert error.task_id in str(error)
    # Trying again would find the same failed child: one attempt.
    assert (careless_result.status, careless_result.attempt) == ("failed", 1)
    assert careless_result.error
    assert careless_result.error["type"] == "ChildTaskError"
    assert [step.data["error"]["message"] for step in steps] == ["broken"]


async def test_a_retried_parent_finds_its_children(cas: Client, make_runner, tmp_path: Path) -> None:
    """In whatever order it calls the second time, and however the members of an input are ordered."""
    ran, runner = tmp_path / "ran", make_runner()

    @runner.agent("counted")
    async def counted(_ctx: TaskContext, input: dict) -> dict:
        with ran.open("a") as file:
            file.write(f"{input['n']}\n")
        return {"run": len(lines(ran))}

    @runner.agent("shaky")
    async def shaky(ctx: TaskContext, _input: dict) -> dict:
        inputs = [{"n": 1, "m": 0}, {"n": 2, "m": 0}, {"n": 2, "m": 0}]
        if ctx.attempt == 2:
            inputs = [{"m": 0, "n": 2}, {"m": 0, "n": 1}, {"m": 0, "n": 2}]
        outputs = await asyncio.gather(*(ctx.call("counted", asked) for asked in inputs))
        named = await ctx.call("counted", {"n": 9}, key="the-last")
        if ctx.attempt == 1:
            error = RuntimeError("once more")
            error.retry_after_s = 0.0  # type: ignore[attr-defined]
            raise error
        return {"runs": sorted(output["run"] for output in outputs), "named": named["run"]}

    async with running(cas, runner):
        result = await cas.execute_task("shaky")
        children = await children_of(cas, result.task_id)

    assert result.output == {"runs": [1, 2, 3], "named": 4}
    assert sorted(lines(ran)) == ["1", "2", "2", "9"]
    assert result.attempt == 2
    assert sorted(children[:4]) == sorted(children[4:])


async def test_a_key_or_id_that_was_used_otherwise_is_refused(cas: Client, make_runner) -> None:
    runner = make_runner()
    problems: list[str] = []

    @runner.agent("parent")
    async def parent(ctx: TaskContext, _input: dict) -> dict:
        first = await ctx.spawn("double", {"n": 1}, key="k")
        again = await ctx.spawn("double", {"n": 1}, key="k")
        assert first.task_id == again.task_id
        for agent, asked, options in [
            ("double", {"n": 2}, {"key": "k"}),
            ("noop", {"n": 1}, {"key": "k"}),
            ("double", {"n": 1}, {"task_id": "taken"}),
        ]:
            try:
                await ctx.call(agent, asked, **options)
            except ChildConflictError as error:
                problems.append(str(error))
        return await first.output()

    runner.agent("double")(double)
    runner.agent("noop")(noop)
    async with running(cas, runner):
        await cas.execute_task("double", {"n": 1}, task_id="taken")
        result = await cas.execute_task("parent")

    assert result.output == {"twice": 2}
    assert [problem.partition("before, ")[2] for problem in problems] == [
        "with another input, for agent 'double'; use another key or task id",
        "for agent 'double' and not for 'noop'; use another key or task id",
        f"by another task than {result.task_id}; use another key or task id",
    ]


async def test_bad_calls_send_nothing(cas: Client, make_runner) -> None:
    runner = make_runner()
    problems: list[str] = []

    @runner.agent("parent")
    async def parent(ctx: TaskContext, _input: dict) -> dict:
        for call in (
            lambda: ctx.call("no dots. please"),
            lambda: ctx.call("noop", {"when": object()}),
            lambda: ctx.call("noop", timeout_s=-1),
            lambda: ctx.call("noop", colour="red"),  # type: ignore[call-arg]
            lambda: ctx.call("nobody", wait_for_runner_s=0.05),
        ):
            try:
                await call()
            except Exception as error:
                problems.append(type(error).__name__)
        return {}

    runner.agent("noop")(noop)
    async with running(cas, runner):
        result = await cas.execute_task("parent")
        assert await children_of(cas, result.task_id) == []
    assert problems == [
        "InvalidNameError",
        "NotJsonError",
        "InvalidCommandError",
        "TypeError",
        AgentUnavailableError.__name__,
    ]
    with pytest.raises(NotInTaskError, match="Client"):
        await current_task().call("noop")


async def test_a_call_up_its_own_line_is_refused_and_nothing_waits_for_ever(
    cas: Client, make_runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One place in the process, and a limit that parents alone fill: waiting must not take what children need."""
    monkeypatch.setattr("cas_events.runner.sources.AGENT_PLACES_FLEET", 2)
    runner = make_runner(places=1)
    cycles: list[list[str]] = []

    @runner.agent("outer")
    async def outer(ctx: TaskContext, input: dict) -> dict:
        if input.get("leaf"):
            return {"leaf": True}
        return await ctx.call("inner", input)

    @runner.agent("inner")
    async def inner(ctx: TaskContext, input: dict) -> dict:
        if input["n"] == "again":
            return await ctx.call("outer", {"leaf": True})
        for agent in ("inner", "outer"):
            try:
                await ctx.call(agent, {"leaf": True})
            except CallCycleError as error:
                cycles.append(error.agent_ids)
        free = await ctx.spawn("outer", {"leaf": True})  # Nobody waits: no cycle.
        with pytest.raises(CallCycleError):
            await free.result()
        return {"n": input["n"]}

    async with running(cas, runner):
        results = await asyncio.wait_for(
            asyncio.gather(*(cas.execute_task("outer", {"n": n}) for n in range(6))), 30
        )
        # A task with a parent that has ended waits for nobody's sake but its own.
        again = await cas.execute_task("inner", {"n": "again"}, parent_id=results[0].task_id)

    assert [result.output for result in results] == [{"n": n} for n in range(6)]
    assert cycles[:2] == [["inner"], ["outer", "inner"]]
    assert again.output == {"leaf": True}


class State(TypedDict, total=False):
    n: int
    a: int
    b: int


async def test_graph_nodes_call_too(cas: Client, make_runner) -> None:
    """From async nodes, from nodes in threads, two of them in parallel."""

    async def asynchronous(state: State) -> State:
        return {"a": (await current_task().call("double", {"n": state["n"]}))["twice"]}

    def threaded(state: State) -> State:
        return {"b": asyncio.run(current_task().call("double", {"n": state["n"]}))["twice"]}

    async def last(state: State) -> State:
        return {"n": (await current_task().call("double", {"n": state["a"] + state["b"]}))["twice"]}

    builder = StateGraph(State)
    for node in (asynchronous, threaded, last):
        builder.add_node(node.__name__, node)
    builder.add_edge(START, "asynchronous")
    builder.add_edge(START, "threaded")
    builder.add_edge(["asynchronous", "threaded"], "last")
    builder.add_edge("last", END)
    runner = make_runner()
    runner.agent("double")(double)
    runner.register("graph", builder)
    async with running(cas, runner):
        result = await cas.execute_task("graph", {"n": 1})
        children = await children_of(cas, result.task_id)

    assert result.output == {"a": 2, "b": 2, "n": 8}
    assert len(set(children)) == 3  # Two nodes that ask the same are two calls.


async def test_cancel_goes_down_three_levels(cas: Client, make_runner) -> None:
    runner = make_runner()
    await_below = {"level1": "level2", "level2": "level3", "level3": "sleeper"}
    for name, below in await_below.items():

        async def level(ctx: TaskContext, input: dict, below: str = below) -> dict:
            await ctx.spawn("sleeper", {"spare": ctx.agent_id})
            return await ctx.call(below, input)

        runner.agent(name)(level)
    runner.agent("sleeper")(sleeper)
    async with running(cas, runner):
        task = await cas.submit_task("level1", {}, task_id="root")
        await until_async(lambda: deep(cas, "root", 7), what="seven run")
        assert await task.cancel("enough", requested_by="me", wait=True) == "requested"
        tasks = await family(cas, "root")
        ends = [(await (await cas.task(child)).result()) for child in tasks[1:]]
    assert {end.status for end in ends} == {"cancelled"}
    assert {end.reason for end in ends if end.task_id in tasks[1:3]} == {"the parent task root was cancelled"}
    assert len(ends) == 6


async def deep(cas: Client, root: str, count: int) -> bool:
    tasks = await family(cas, root)
    return len(tasks) == count and all([await lifecycle_of(cas, task) == ["started"] for task in tasks])


async def lifecycle_of(cas: Client, task_id: str) -> list[str]:
    try:
        return names_of(await lifecycle(cas, (await cas.task(task_id)).agent_id, task_id))
    except LookupError:
        return []


@pytest.mark.parametrize("end", ["completed", "failed", "timeout"])
async def test_what_a_parents_other_ends_mean_for_its_children(cas: Client, make_runner, end: str) -> None:
    runner = make_runner()

    @runner.agent("parent", timeout_s=2.0 if end == "timeout" else None)
    async def parent(ctx: TaskContext, _input: dict) -> dict:
        child = await ctx.spawn("sleeper", {"sleep_s": 60})
        if end == "timeout":
            await child.result()
        if end == "failed":
            raise NonRetryableError("no")
        return {"child": child.task_id}

    runner.agent("sleeper")(sleeper)
    async with running(cas, runner):
        result = await cas.execute_task("parent")
        [child_id] = await children_of(cas, result.task_id)
        child = await cas.task(child_id)
        if end == "completed":
            await until_async(lambda: deep(cas, child_id, 1), what="the child runs on")
            assert await child.cancel(wait=True) == "requested"
            return
        outcome = await asyncio.wait_for(child.result(), promised(10.0))
    assert result.status == "failed"
    assert (outcome.status, outcome.reason) == ("cancelled", f"the parent task {result.task_id} failed")


async def test_a_child_may_be_cancelled_and_bounded_by_its_parent(cas: Client, make_runner) -> None:
    runner = make_runner()

    @runner.agent("parent", idle_timeout_s=1.5)
    async def parent(ctx: TaskContext, _input: dict) -> dict:
        child = await ctx.spawn("sleeper")
        assert await child.cancel("changed my mind", wait=True) == "requested"
        cancelled = await child.result()
        with pytest.raises(ChildTaskError, match="timeout"):
            await ctx.call("sleeper", {"n": 2}, timeout_s=2.0)  # Waiting is not idling.
        # Who stops waiting leaves the child alone: the same call finds it again.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await ctx.call("sleeper", {"sleep_s": 0.3}, key="slow")
        return {
            "cancelled": cancelled.reason,
            "slow": await ctx.call("sleeper", {"sleep_s": 0.3}, key="slow"),
        }

    runner.agent("sleeper")(sleeper)
    async with running(cas, runner):
        result = await cas.execute_task("parent")
    assert result.output == {"cancelled": "changed my mind", "slow": {"slept": True}}


async def test_the_root_is_found_for_commands_that_do_not_name_it(cas: Client, make_runner) -> None:
    """Raw commands and clients that name a parent only, four deep."""
    runner = make_runner()
    runner.agent("noop")(noop)
    async with running(cas, runner):
        await send_raw(cas, "noop", "g0")
        for n in range(1, 4):
            await send_raw(cas, "noop", f"g{n}", b'{"parent_id":"g%d"}' % (n - 1))
        await cas.execute_task("noop", {}, task_id="g4", parent_id="g3")
        await send_raw(cas, "noop", "stray", b'{"parent_id":"never-heard-of"}')
        await send_raw(cas, "noop", "round", b'{"parent_id":"round"}')
        for task_id in ("g1", "g2", "g3", "stray", "round"):
            await (await cas.task(task_id)).result()
        roots = {
            task_id: {(event.parent_id, event.correlation_id) for event in await all_events(cas, task_id)}
            for task_id in ("g0", "g1", "g2", "g3", "g4", "stray", "round")
        }
        names = cas._session.names
        command = await cas._session.js.last_message(names.commands, names.execute("noop", "g4"))
    assert command
    assert b'"correlation_id":"g0"' in command.data
    assert roots == {
        "g0": {(None, "g0")},
        **{f"g{n}": {(f"g{n - 1}", "g0")} for n in range(1, 5)},
        "stray": {("never-heard-of", "never-heard-of")},
        "round": {("round", "round")},
    }


async def test_an_ended_attempt_starts_nothing(cas: Client, make_runner) -> None:
    """Code that swallows its cancel and calls on: what it starts after the end would have nobody to end it."""
    runner = make_runner(grace_s=0.2)
    refused: list[str] = []

    @runner.agent("undead")
    async def undead(ctx: TaskContext, _input: dict) -> dict:
        await ctx.spawn("sleeper")
        while not refused:
            try:
                await asyncio.sleep(0.05)
                if ctx.is_cancelled():
                    await ctx.call("sleeper", {"late": True})
            except asyncio.CancelledError:
                continue
            except Exception as error:
                refused.append(type(error).__name__)
        return {}

    runner.agent("sleeper")(sleeper)
    async with running(cas, runner):
        task = await cas.submit_task("undead")
        await until_async(lambda: deep(cas, task.task_id, 2), what="both run")
        await task.cancel(wait=True)
        [child_id] = await children_of(cas, task.task_id)
        child = await (await cas.task(child_id)).result()
        await until(lambda: refused, what="a refusal")
    assert child.status == "cancelled"
    assert refused == ["AttemptOverError"]


async def test_a_graph_that_is_tried_again_finds_its_children(
    cas: Client, make_runner, tmp_path: Path
) -> None:
    """Node for node: what a node asks in its superstep is its own, although another asks the same."""
    ran, runner = tmp_path / "ran", make_runner()

    @runner.agent("counted")
    async def counted(_ctx: TaskContext, input: dict) -> dict:
        with ran.open("a") as file:
            file.write("ran\n")
        return {"run": len(lines(ran)), **input}

    async def first(_state: State) -> State:
        return {"a": (await current_task().call("counted", {"q": 1}))["run"]}

    def second(_state: State) -> State:
        found = asyncio.run(current_task().call("counted", {"q": 1}))["run"]
        if current_task().attempt == 1:
            error = RuntimeError("once more")
            error.retry_after_s = 0.0  # type: ignore[attr-defined]
            raise error
        return {"b": found}

    builder = StateGraph(State)
    builder.add_node("first", first)
    builder.add_node("second", second)
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    builder.add_edge("second", END)
    runner.register("graph", builder)
    async with running(cas, runner):
        result = await cas.execute_task("graph", {})
        children = await children_of(cas, result.task_id)
    assert (result.status, result.attempt) == ("completed", 2)
    assert (result.output["a"], result.output["b"]) == (1, 2)
    assert lines(ran) == ["ran", "ran"]
    assert len(set(children)) == 2


async def test_a_thread_that_waits_for_a_child_is_let_go(cas: Client, make_runner, tmp_path: Path) -> None:
    ended, runner = tmp_path / "ended", make_runner()

    @runner.agent("threaded")
    def threaded(ctx: TaskContext, _input: dict) -> dict:
        try:
            return asyncio.run(ctx.call("sleeper"))
        finally:
            ended.touch()

    runner.agent("sleeper")(sleeper)
    async with running(cas, runner):
        task = await cas.submit_task("threaded")
        await until_async(lambda: deep(cas, task.task_id, 2), what="both run")
        await task.cancel(wait=True)
        await until(ended.exists, what="the thread's end")
        [child_id] = await children_of(cas, task.task_id)
        assert (await (await cas.task(child_id)).result()).status == "cancelled"


async def test_the_keepers_end_of_a_blocked_parent_goes_down_too(cas: Client, make_runner) -> None:
    """The loop is blocked when the time is over, so the keeper thread ends the task and others look after its children."""
    runner = make_runner(grace_s=0.2)

    @runner.agent("blocking", timeout_s=1.5)
    async def blocking(ctx: TaskContext, _input: dict) -> dict:
        await ctx.spawn("sleeper")
        time.sleep(4.5)
        return {}

    runner.agent("sleeper")(sleeper)
    async with running(cas, runner):
        result = await cas.execute_task("blocking")
        [child_id] = await children_of(cas, result.task_id)
        child = await asyncio.wait_for((await cas.task(child_id)).result(), promised(20.0))
    assert (result.status, result.reason) == ("failed", "timeout")
    assert child.status == "cancelled"
