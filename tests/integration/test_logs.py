"""What agents log, by whichever logger and from wherever they run, is their task's (issue 6, item 3)."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from typing import Any, TypedDict

import pytest
import structlog
from langgraph.graph import END, START, StateGraph

from cas_events import Client, Redaction, TaskContext, TelemetryLimits
from cas_events.domain.events import Event
from cas_events.runner.task_logger import level_name
from tests.harness.log_agents import leaker_apart, talker_apart
from tests.harness.own_runner import running

log = logging.getLogger("lab.instruments")
PASSWORD = "hunter2-and-more"
CARD = "4111 1111 1111 1111"


async def lines_of(cas: Client, task_id: str) -> list[dict[str, Any]]:
    """`data` of each stored line of a task that has ended."""
    return [event.data async for event in cas.replay(task_id=task_id, type="cas.log")]


async def said(cas: Client, agent_id: str, input_: dict | None = None) -> list[dict[str, Any]]:
    """Run a task to its end, and what it logged."""
    task = await cas.submit_task(agent_id, input_ or {})
    await task.result()
    return await lines_of(cas, task.task_id)


def words(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(line["level"], line["message"]) for line in lines]


# --- whose a line is -----------------------------------------------------------------------------------------------------


async def test_stdlib_loggers_speak_for_the_task_from_everywhere(cas: Client, make_runner) -> None:
    runner = make_runner()

    @runner.agent("async")
    async def async_(_ctx: TaskContext, _input: dict) -> dict:
        log.info("in a coroutine %d", 1, extra={"sample": "A"})
        await asyncio.to_thread(log.warning, "in a thread")
        await asyncio.get_running_loop().run_in_executor(None, log.error, "in the executor")
        carried = contextvars.copy_context()
        thread = threading.Thread(
            target=carried.run, args=(log.critical, "in a thread that carries the task")
        )
        thread.start()
        await asyncio.to_thread(thread.join)
        await asyncio.create_task(_later())
        return {}

    async def _later() -> None:
        log.info("in a task of its own")

    @runner.agent("sync")
    def sync(_ctx: TaskContext, _input: dict) -> dict:
        log.info("in sync code")
        return {}

    async with running(cas, runner):
        lines = await said(cas, "async")
        assert words(lines) == [
            ("info", "in a coroutine 1"),
            ("warning", "in a thread"),
            ("error", "in the executor"),
            ("critical", "in a thread that carries the task"),
            ("info", "in a task of its own"),
        ]
        assert lines[0]["metadata"] == {"logger": "lab.instruments", "sample": "A"}
        assert words(await said(cas, "sync")) == [("info", "in sync code")]


class State(TypedDict, total=False):
    done: bool


async def test_stdlib_loggers_in_nodes_name_the_node(cas: Client, make_runner) -> None:
    async def one(_state: State) -> State:
        log.info("in an async node")
        return {}

    def two(_state: State) -> State:
        log.info("in a sync node")
        return {"done": True}

    builder = StateGraph(State)
    builder.add_node("one", one)
    builder.add_node("two", two)
    builder.add_edge(START, "one")
    builder.add_edge("one", "two")
    builder.add_edge("two", END)
    runner = make_runner()
    runner.register("graph", builder)
    async with running(cas, runner):
        lines = await said(cas, "graph")
    assert [(line["message"], line["node"]) for line in lines] == [
        ("in an async node", "one"),
        ("in a sync node", "two"),
    ]


async def test_an_isolated_process_logs_for_its_one_task(cas: Client, make_runner) -> None:
    runner = make_runner()
    runner.agent("apart", isolation="process")(talker_apart)
    async with running(cas, runner):
        lines = await said(cas, "apart")
    assert words(lines) == [
        ("info", "from the context"),
        ("info", "from the standard library"),
        ("info", "from structlog"),
        ("warning", "from a bare thread"),
    ]
    assert lines[1]["metadata"] == {"logger": "lab.apart"}
    assert lines[2]["metadata"]["color"] == "red"


async def test_errors_and_bound_fields_are_in_the_line(cas: Client, make_runner) -> None:
    runner = make_runner()

    @runner.agent("failing")
    async def failing(ctx: TaskContext, _input: dict) -> dict:
        structlog.contextvars.bind_contextvars(request="r-1")
        try:
            {}["no such sample"]
        except KeyError:
            log.exception("by the standard library")
            ctx.log.bind(sample="A").exception("by structlog")
        log.info("%d is no number", "one")
        return {}

    async with running(cas, runner):
        task = await cas.submit_task("failing", {})
        await task.result()
        events = [event async for event in cas.replay(task_id=task.task_id, type="cas.log")]
    assert {(event.task_id, event.agent_id, event.attempt) for event in events} == {
        (task.task_id, "failing", 1)
    }
    stdlib, bound, unfit = [event.data for event in events]
    for line in (stdlib, bound):
        assert line["level"] == "error"
        assert line["metadata"]["request"] == "r-1"
        assert line["metadata"]["exception"].endswith("KeyError: 'no such sample'")
    assert bound["metadata"]["sample"] == "A"
    assert "is no number" in unfit["message"]


async def test_what_is_nobodys_or_the_packages_own_stays_in_the_process(
    cas: Client, make_runner, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner()

    @runner.agent("agent")
    async def agent(_ctx: TaskContext, _input: dict) -> dict:
        logging.getLogger("cas_events.runner.test").warning("about the process")
        logging.getLogger("nats.test").warning("about the connection")
        thread = threading.Thread(target=log.warning, args=("of nobody's",))
        thread.start()
        await asyncio.to_thread(thread.join)
        return {}

    async with running(cas, runner):
        assert await said(cas, "agent") == []
    names = {"cas_events.runner.test", "nats.test", "lab.instruments"}
    assert [record.message for record in caplog.records if record.name in names] == [
        "about the process",
        "about the connection",
        "of nobody's",
    ]


async def test_what_logs_itself_does_not_go_in_circles(cas: Client, make_runner) -> None:
    class Talkative:
        def __repr__(self) -> str:
            log.info("looked at")
            return "Talkative()"

    runner = make_runner()

    @runner.agent("agent")
    async def agent(_ctx: TaskContext, _input: dict) -> dict:
        log.info("an object", extra={"object": Talkative()})
        return {}

    async with running(cas, runner):
        [line] = await said(cas, "agent")
    assert line["metadata"]["object"] == "Talkative()"


# --- levels ----------------------------------------------------------------------------------------------------------------


async def test_each_agent_has_a_level(cas: Client, make_runner) -> None:
    runner = make_runner()

    async def talk(ctx: TaskContext, _input: dict) -> dict:
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(ctx.log, level)(f"ctx {level}")
            getattr(log, level)(f"log {level}")
        return {}

    runner.agent("plain")(talk)
    runner.agent("quiet", log_level="error")(talk)
    runner.register("talkative", talk, log_level="debug")
    async with running(cas, runner):
        for agent_id, count in (("plain", 8), ("quiet", 4), ("talkative", 10)):
            lines = await said(cas, agent_id)
            assert len(lines) == count, (agent_id, words(lines))
            assert all(line["message"].endswith(line["level"]) for line in lines)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (1, "debug"),
        (10, "debug"),
        (19, "debug"),
        (20, "info"),
        (35, "warning"),
        (45, "error"),
        (90, "critical"),
    ],
)
def test_levels_between_the_known_ones_belong_to_the_lower(number: int, name: str) -> None:
    assert level_name(number) == name


async def test_a_level_that_is_none_is_refused(make_runner) -> None:
    with pytest.raises(ValueError, match=r"log_level of agent 'agent' is 'loud'; use one of debug, info"):
        make_runner().agent("agent", log_level="loud")(talker_apart)


async def test_the_root_logger_is_left_as_it_was(cas: Client, make_runner) -> None:
    root = logging.getLogger()
    before = root.level, root.handlers[:], [handler.filters[:] for handler in root.handlers]
    first, second = make_runner(), make_runner()
    first.agent("first", log_level="debug")(talker_apart)
    second.agent("second")(talker_apart)
    async with running(cas, first):
        assert root.level == logging.DEBUG
        async with running(cas, second):
            pass
        assert root.level == logging.DEBUG
    assert (root.level, root.handlers, [handler.filters for handler in root.handlers]) == before


# --- secrets -----------------------------------------------------------------------------------------------------------------


async def stored(cas: Client, task_id: str) -> str:
    """All that is stored of a task, as text."""
    events: list[Event] = [event async for event in cas.replay(task_id=task_id)]
    return "\n".join(repr(event.data) for event in events)


async def test_no_secret_is_stored(cas: Client, make_runner) -> None:
    runner = make_runner()

    @runner.agent("careless", max_attempts=1)
    async def careless(ctx: TaskContext, _input: dict) -> dict:
        ctx.log.info(
            "connecting", user="ada", login={"PassWord": PASSWORD, "attempts": [{"apiKey": PASSWORD}]}
        )
        log.warning("connecting to nats://ada:%s@db:4222 with password=%s", PASSWORD, PASSWORD)
        ctx.log.info("paying", note=f"with {CARD}, expires 12/27", amount=17)
        await ctx.progress(0.5, f"Authorization: Bearer {PASSWORD}")
        raise RuntimeError(f"the server refused password='{PASSWORD}'")

    async with running(cas, runner):
        task = await cas.submit_task("careless", {})
        await task.result()
        text = await stored(cas, task.task_id)
        lines = await lines_of(cas, task.task_id)
    assert PASSWORD not in text
    assert CARD not in text
    assert lines[0]["metadata"] == {
        "user": "ada",
        "login": {"PassWord": "[redacted]", "attempts": [{"apiKey": "[redacted]"}]},
    }
    assert lines[1]["message"] == (
        "connecting to nats://ada:[redacted:url_password]@db:4222 with password=[redacted]"
    )
    assert lines[2]["metadata"] == {"note": "with [redacted:card_number], expires 12/27", "amount": 17}
    assert "the server refused password='[redacted]'" in text


async def test_no_secret_is_stored_of_failures_in_nodes_and_in_other_processes(
    cas: Client, make_runner
) -> None:
    async def node(_state: State) -> State:
        raise RuntimeError(f"the server refused password={PASSWORD}")

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    runner = make_runner()
    runner.register("graph", builder, max_attempts=1)
    runner.agent("apart", isolation="process", max_attempts=1)(leaker_apart)
    async with running(cas, runner):
        for agent_id in ("graph", "apart"):
            # The input is data and stays; only what is said about it is looked at.
            task = await cas.submit_task(agent_id, {"password": PASSWORD} if agent_id == "apart" else {})
            await task.result()
            events = [event async for event in cas.replay(task_id=task.task_id)]
            errors = [event.data["error"] for event in events if "error" in event.data]
            assert len(errors) == (2 if agent_id == "graph" else 1)
            for error in errors:
                assert error["message"] == "the server refused password=[redacted]"
                assert PASSWORD not in repr(error)


async def test_redaction_is_the_runners_to_set(cas: Client, make_runner) -> None:
    own = Redaction(names=["badge"], patterns={"staff_id": r"staff-\d+"}, without=["card_number"])
    runner = make_runner(redaction=own)

    @runner.agent("agent")
    async def agent(ctx: TaskContext, _input: dict) -> dict:
        message = f"staff-17 paid with {CARD}"
        ctx.log.info(message, staffBadge="B-17", password=PASSWORD)
        return {}

    async with running(cas, runner):
        [line] = await said(cas, "agent")
    assert line["message"] == f"[redacted:staff_id] paid with {CARD}"
    assert line["metadata"] == {"staffBadge": "[redacted]", "password": "[redacted]"}


# --- floods ------------------------------------------------------------------------------------------------------------------


async def test_a_flood_is_cut_and_counted(cas: Client, make_runner) -> None:
    limits = TelemetryLimits(log_per_s=0.001, log_burst=10.0)
    runner = make_runner(limits=limits)

    @runner.agent("flood")
    async def flood(ctx: TaskContext, _input: dict) -> dict:
        for number in range(50):
            log.info("stdlib %d", number)
            ctx.log.info("structlog", number=number)
        return {}

    async with running(cas, runner):
        lines = await said(cas, "flood")
    assert len(lines) == 11
    assert lines[-1]["metadata"] == {"dropped": 90}
    assert "dropped" in lines[-1]["message"]
