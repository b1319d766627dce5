"""Traces (issue 6, item 4): one from the client's submit over queue, attempt and nodes to the terminal event."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from cas_events import Client, TaskContext
from cas_events.domain import events
from cas_events.domain.retry import RetryPolicy
from tests.harness.cas import Cas
from tests.harness.own_runner import lifecycle, noop, running, send_raw
from tests.harness.spans import collector, traced_here
from tests.harness.wait import until

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class State(TypedDict, total=False):
    value: int


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    with traced_here() as exporter:
        yield exporter


async def named(exporter: InMemorySpanExporter, name: str, count: int = 1) -> list[ReadableSpan]:
    """The spans of a name, once there are so many; a client hears of an end before the runner's span ends."""

    def found() -> list[ReadableSpan]:
        return [span for span in exporter.get_finished_spans() if span.name == name]

    await until(lambda: len(found()) >= count, what=f"{count} spans {name!r}")
    assert len(found()) == count
    return found()


def is_child(span: ReadableSpan, of: ReadableSpan) -> bool:
    assert span.parent is not None
    assert span.context is not None
    assert of.context is not None
    return (span.parent.span_id, span.context.trace_id) == (of.context.span_id, of.context.trace_id)


def traceparent_of(span: ReadableSpan) -> str:
    assert span.context is not None
    known = span.context
    return f"00-{known.trace_id:032x}-{known.span_id:016x}-{known.trace_flags:02x}"


def events_of(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


def workflow() -> Any:
    inner: Any = StateGraph(State)
    inner.add_node("deep", lambda state: {"value": state["value"] + 1})
    inner.add_edge(START, "deep")
    inner.add_edge("deep", END)
    outer: Any = StateGraph(State)
    outer.add_node("first", lambda state: {"value": state["value"] + 1})
    outer.add_node("nested", inner.compile())
    outer.add_edge(START, "first")
    outer.add_edge("first", "nested")
    outer.add_edge("nested", END)
    return outer


async def test_one_trace_from_submit_to_terminal_event(cas: Client, make_runner, spans) -> None:
    runner = make_runner()
    runner.register("flow", workflow())
    async with running(cas, runner):
        result = await cas.execute_task("flow", {"value": 0})
        assert result.output == {"value": 2}
        [submit], [queue], [attempt] = [
            await named(spans, name) for name in ("submit flow", "queue flow", "attempt flow")
        ]
        [first], [nested], [deep] = [
            await named(spans, f"node {name}") for name in ("first", "nested", "deep")
        ]
    assert submit.parent is None
    assert is_child(queue, submit)
    assert is_child(attempt, submit)
    assert is_child(first, attempt)
    assert is_child(nested, attempt)
    assert is_child(deep, nested)
    assert events_of(attempt) == [events.COMPLETED]
    assert attempt.attributes is not None
    assert attempt.attributes["cas.outcome"] == "completed"
    stored = [event async for event in cas.replay(task_id=result.task_id)]
    # Whoever reads the log can go on with the trace.
    assert {event.traceparent for event in stored} == {traceparent_of(attempt)}
    command = await cas._session.js.last_message(
        cas._session.names.commands, cas._session.names.execute("flow", result.task_id)
    )
    assert command is not None
    assert traceparent_of(submit).encode() in command.data


async def test_a_later_attempt_is_a_new_span_linked_to_the_one_before(
    cas: Client, make_runner, spans
) -> None:
    runner = make_runner()

    @runner.agent("shaky", retry=RetryPolicy(base_s=0.01, cap_s=0.01))
    async def shaky(ctx: TaskContext, _input: dict) -> dict:
        if ctx.attempt == 1:
            raise ValueError("once")
        return {}

    async with running(cas, runner):
        assert (await cas.execute_task("shaky")).is_success
        first, second = sorted(await named(spans, "attempt shaky", 2), key=lambda span: span.start_time or 0)
    [submit] = await named(spans, "submit shaky")
    assert is_child(first, submit)
    assert is_child(second, submit)
    assert first.context is not None
    assert [link.context.span_id for link in second.links] == [first.context.span_id]
    assert first.links == ()
    assert (first.status.status_code, first.status.description) == (StatusCode.ERROR, "ValueError")
    assert second.status.status_code is StatusCode.UNSET
    assert events_of(first) == [events.RETRYING]
    await named(spans, "queue shaky")


async def test_children_and_what_agents_trace_themselves_belong_to_the_attempt(
    cas: Client, make_runner, spans
) -> None:
    runner = make_runner()
    runner.agent("child")(noop)

    @runner.agent("parent")
    async def parent(ctx: TaskContext, _input: dict) -> Any:
        own = trace.get_current_span().get_span_context()
        await ctx.call("child", {})
        return f"{own.span_id:016x}"

    async with running(cas, runner):
        result = await cas.execute_task("parent")
        [attempt] = await named(spans, "attempt parent")
        [call] = await named(spans, "submit child")
        [child] = await named(spans, "attempt child")
    assert attempt.context is not None
    assert result.output == f"{attempt.context.span_id:016x}"
    assert is_child(call, attempt)
    assert is_child(child, call)


async def test_a_task_that_nobody_ran_has_an_end_in_its_trace(cas: Client, make_runner, spans) -> None:
    runner = make_runner()
    runner.agent("noop")(noop)
    body = b'{"timeout_s": "soon", "traceparent": "%b"}' % GIVEN.encode()
    await send_raw(cas, "noop", "refused", body)
    async with running(cas, runner):
        [end] = await named(spans, "end noop")
    assert events_of(end) == [events.REJECTED]
    assert end.status.status_code is StatusCode.ERROR
    assert [span.name for span in spans.get_finished_spans()] == ["end noop"]


@pytest.mark.parametrize("is_on", [True, False], ids=["on", "off"])
async def test_a_given_context_is_passed_on_and_a_hostile_one_costs_nothing(
    cas: Client, make_runner, is_on: bool
) -> None:
    runner = make_runner()
    runner.agent("noop")(noop)
    hostile = [b'"x"', b"7", b'{"a":[]}', b'"ff-%b"' % GIVEN[3:].encode()]
    for number, value in enumerate(hostile):
        await send_raw(cas, "noop", f"hostile-{number}", b'{"traceparent":%b}' % value)
    await send_raw(cas, "noop", "given", b'{"traceparent":"%b"}' % GIVEN.encode())
    async with asyncio.timeout(120), running(cas, runner):
        if not is_on:
            for task_id in ("given", *(f"hostile-{number}" for number in range(len(hostile)))):
                assert (await (await cas.task(task_id)).result()).is_success
        else:
            with traced_here():
                for task_id in ("given", *(f"hostile-{number}" for number in range(len(hostile)))):
                    assert (await (await cas.task(task_id)).result()).is_success
    for number in range(len(hostile)):
        stored = await lifecycle(cas, "noop", f"hostile-{number}")
        assert [event.type for event in stored] == [events.STARTED, events.COMPLETED]
    given = {event.traceparent for event in await lifecycle(cas, "noop", "given")}
    assert all(text is not None and text.split("-")[1] == GIVEN.split("-")[1] for text in given)
    if not is_on:
        assert given == {GIVEN}


async def test_a_trace_across_processes_arrives_at_a_collector(
    cas: Client, nats_url: str, deployment: str, tmp_path
) -> None:
    with collector() as received:
        environment = {
            "CAS_NATS_URL": nats_url,
            "CAS_DEPLOYMENT": deployment,
            "CAS_HOME": str(tmp_path),
            **received.environment,
        }
        command = Cas(environment)
        with command.process("worker", "cas_events.agents.samples:runner") as worker:
            arguments = ("run", "echo", "{}", "--quiet", "--wait-for-runner", "60")
            with Cas(environment | {"OTEL_SERVICE_NAME": "shop"}).process(*arguments) as client:
                ended = await asyncio.to_thread(client.end)
            assert ended.code == 0, ended.err
            await until(lambda: {"attempt echo", "queue echo", "submit echo"} <= set(received.names()))
            worker.popen.terminate()
            assert (await asyncio.to_thread(worker.end)).code == 0
        by_name = {span.name: span for span in received.spans}
        submit, queue, attempt = (by_name[f"{name} echo"] for name in ("submit", "queue", "attempt"))
        assert {span.trace_id for span in (submit, queue, attempt)} == {submit.trace_id}
        assert queue.parent_id == attempt.parent_id == submit.span_id
        assert (submit.service, attempt.service) == ("shop", "cas-events")
        assert attempt.events == (events.COMPLETED,)
        assert queue.start_ns <= queue.end_ns
