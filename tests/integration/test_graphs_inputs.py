"""What an agent takes: published with its registration, and checked before its code runs (issue 4, item 1)."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel
from typing_extensions import TypedDict

from cas_events import Client, TaskContext
from cas_events.runner.graphs.inputs import MESSAGES, input_schema
from tests.harness.own_runner import running
from tests.integration.test_projection_process import projecting


class Request(TypedDict):
    path: str
    max_files: int


class State(Request, total=False):
    found: list[str]


class Part(typing.TypedDict):
    name: str


class Plain(typing.TypedDict):
    """Which pydantic refuses before Python 3.12."""

    parts: list[Part]
    strange: object


class Model(BaseModel):
    path: str
    max_files: int = 3


@dataclasses.dataclass
class Record:
    path: str
    max_files: int = 3


class Struct(msgspec.Struct):
    path: str
    max_files: int = 3


ran: list[Any] = []


def graph_of(state: Any, **schemas: Any) -> StateGraph:
    def node(seen: Any) -> dict:
        ran.append(seen)
        return {}

    made = StateGraph(state, **schemas)
    made.add_node("node", node)
    made.add_edge(START, "node")
    made.add_edge("node", END)
    return made


async def registered(cas: Client, agent: str) -> dict:
    [event] = [event async for event in cas.replay(agent=agent) if event.type == "cas.agent.registered"]
    return event.data


async def test_a_graphs_schema_is_published_and_checked(cas: Client, make_runner) -> None:
    ran.clear()
    runner = make_runner()
    runner.register("audit", graph_of(State, input_schema=Request))
    async with running(cas, runner):
        schema = (await registered(cas, "audit"))["schema"]
        wrong = await cas.execute_task("audit", {"path": ".", "max_files": "many"})
        missing = await cas.execute_task("audit", {"path": "."})
        assert not ran
        right = await cas.execute_task("audit", {"path": ".", "max_files": 3, "more": True})

    assert schema["properties"]["max_files"]["type"] == "integer"
    assert schema["required"] == ["path", "max_files"]
    assert (wrong.status, wrong.reason, wrong.attempt) == ("failed", "error", 1)
    assert wrong.error["type"] == "InvalidInputError"
    assert "input.max_files is a string; it must be integer" in wrong.error["message"]
    assert "input.max_files is missing" in missing.error["message"]
    assert right.status == "completed"
    assert len(ran) == 1


async def test_a_graphs_schema_is_in_the_table_of_agents(
    cas: Client, make_runner, nats_url: str, deployment: str, tmp_path: Path
) -> None:
    runner = make_runner()
    runner.register("audit", graph_of(State, input_schema=Request))
    async with running(cas, runner), projecting(nats_url, deployment, tmp_path):
        [event] = [event async for event in cas.replay(agent="audit") if event.type == "cas.agent.registered"]
        rows = await cas.sql("SELECT agent_id, schema FROM cas_agents", wait_for=event.seq)

    assert rows == [{"agent_id": "audit", "schema": event.data["schema"]}]
    assert rows[0]["schema"]["properties"]["max_files"]["type"] == "integer"


async def test_a_factorys_graph_is_asked_too(cas: Client, make_runner) -> None:
    async def factory(config: Any) -> Any:
        return graph_of(State, input_schema=Request)

    def broken() -> Any:
        raise RuntimeError("not today")

    runner = make_runner()
    runner.register("audit", factory)
    runner.register("broken", broken, max_attempts=1)
    async with running(cas, runner):
        assert "max_files" in (await registered(cas, "audit"))["schema"]["properties"]
        assert "schema" not in await registered(cas, "broken")
        assert (await cas.execute_task("audit", {})).error["type"] == "InvalidInputError"
        assert (await cas.execute_task("broken", {})).error["message"] == "not today"


async def test_messages_may_have_any_form_that_langchain_takes(cas: Client, make_runner) -> None:
    model = GenericFakeChatModel(messages=iter([AIMessage("hello")] * 4))
    runner = make_runner()
    runner.register("chat", create_agent(model, []))
    async with running(cas, runner):
        schema = (await registered(cas, "chat"))["schema"]
        for messages in (
            [{"role": "user", "content": "hi"}],
            [["user", "hi"]],
            "hi",
            [{"type": "human", "content": "hi"}],
        ):
            result = await cas.execute_task("chat", {"messages": messages})
            assert result.status == "completed", result.error
        assert (await cas.execute_task("chat", {"messages": 3})).error["type"] == "InvalidInputError"
        assert (await cas.execute_task("chat", {})).error["type"] == "InvalidInputError"
    assert schema["properties"]["messages"] == MESSAGES
    assert len(str(schema)) < 1000


def test_a_state_that_is_also_the_input_need_not_be_whole() -> None:
    class Whole(TypedDict):
        path: str
        found: Annotated[list[str], lambda one, other: one + other]

    schema = input_schema(graph_of(Whole).compile())
    assert schema is not None
    assert set(schema["properties"]) == {"path", "found"}
    assert "required" not in schema


def test_what_pydantic_cannot_read_is_described_by_field() -> None:
    schema = input_schema(graph_of(Plain).compile())
    assert schema is not None
    assert schema["properties"]["parts"]["type"] == "array"
    assert set(schema["properties"]) == {"parts", "strange"}


@pytest.mark.parametrize("state", [dict, MessagesState, Model, Record])
def test_every_kind_of_state_has_a_schema_or_none(state: Any) -> None:
    schema = input_schema(graph_of(state).compile())
    assert (schema is None) is (state is dict)


async def typed(_ctx: TaskContext, input: Request) -> dict:
    return dict(input)


async def modelled(_ctx: TaskContext, input: Model) -> dict:
    return {"path": input.path, "max_files": input.max_files}


def recorded(_ctx: TaskContext, input: Record) -> dict:
    return {"path": input.path, "max_files": input.max_files}


async def structured(_ctx: TaskContext, input: Struct) -> dict:
    return {"path": input.path, "max_files": input.max_files}


async def test_functions_take_what_they_are_annotated_with(cas: Client, make_runner) -> None:
    runner = make_runner()
    for agent in (typed, modelled, recorded, structured):
        runner.register(agent.__name__, agent)
    runner.register("apart", structured, isolation="process")
    async with running(cas, runner):
        for name in runner.agent_ids:
            assert "schema" in await registered(cas, name)
            right = await cas.execute_task(name, {"path": "x", "max_files": 5})
            assert right.output == {"path": "x", "max_files": 5}, name
            wrong = await cas.execute_task(name, {"path": 1, "max_files": 5})
            assert wrong.error["type"] == "InvalidInputError", name
            assert (wrong.status, wrong.attempt) == ("failed", 1)


async def test_a_schema_can_be_given_or_left_out(cas: Client, make_runner) -> None:
    runner = make_runner()
    runner.register("given", graph_of(State), schema={"type": "object", "required": ["path"]})
    runner.register("none", graph_of(State, input_schema=Request), schema=False)
    async with running(cas, runner):
        assert (await registered(cas, "given"))["schema"] == {"type": "object", "required": ["path"]}
        assert "schema" not in await registered(cas, "none")
        assert (await cas.execute_task("given", {})).error["type"] == "InvalidInputError"
        assert (await cas.execute_task("none", {"max_files": "many"})).status == "completed"


async def test_an_overlong_schema_is_left_out_and_still_checked(cas: Client, make_runner) -> None:
    schema = {"required": ["path"], "description": "x" * 300_000}
    runner = make_runner()
    runner.register("long", graph_of(State), schema=schema)
    async with running(cas, runner):
        assert "schema" not in await registered(cas, "long")
        assert (await cas.execute_task("long", {})).error["type"] == "InvalidInputError"


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"properties": {"n": {"type": "whole"}}}, "schema.properties.n.type is 'whole'"),
        (["path"], "is a list; give a JSON Schema as a dict"),
    ],
)
def test_a_schema_that_is_none_is_refused(make_runner, schema: Any, words: str) -> None:
    with pytest.raises(ValueError, match="schema of agent 'wrong'") as refused:
        make_runner().register("wrong", graph_of(State), schema=schema)
    assert words in str(refused.value)
