"""Every form in which a graph may come, opened.

Goal: what LangGraph's own server takes, a runner takes, and the caller's object stays as it was. Method: real graphs, run
with LangGraph's own methods.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph_sdk.runtime import ServerRuntime
from typing_extensions import TypedDict

from cas_events.runner.functions import is_agent_function
from cas_events.runner.graphs.opening import Factory, open_graph, settled


class State(TypedDict, total=False):
    said: str


def builder(word: str = "hello") -> StateGraph:
    async def say(_state: State) -> State:
        return {"said": word}

    made = StateGraph(State)
    made.add_node("say", say)
    made.add_edge(START, "say")
    made.add_edge("say", END)
    return made


left: list[str] = []


def no_argument():
    return builder().compile()


def of_config(config: RunnableConfig):
    return builder(config["configurable"]["word"])


def of_runtime(runtime: ServerRuntime):
    return builder("run" if runtime.execution_runtime else runtime.access_context)


def of_unnamed(rt: ServerRuntime, cfg: RunnableConfig):
    return builder(f"{cfg['configurable']['word']} {rt.access_context}")


async def asynchronous(config):
    return builder(config["configurable"]["word"]).compile()


@contextlib.contextmanager
def managed():
    yield builder().compile()
    left.append("managed")


@contextlib.asynccontextmanager
async def managed_async(config: RunnableConfig):
    yield builder(config["configurable"]["word"])
    left.append("managed_async")


@entrypoint()
async def functional(_input: dict) -> dict:
    return {"said": "hello"}


FORMS = {
    "builder": (builder(), "hello"),
    "compiled": (builder().compile(), "hello"),
    "functional": (functional, "hello"),
    "no argument": (no_argument, "hello"),
    "config": (of_config, "word"),
    "runtime": (of_runtime, "run"),
    "both": (of_unnamed, "word threads.create_run"),
    "async": (asynchronous, "word"),
    "context manager": (managed, "hello"),
    "async context manager": (managed_async, "word"),
    "method": (builder().compile, "hello"),
}


@pytest.mark.parametrize("name", FORMS)
async def test_every_form_opens(name: str) -> None:
    form, said = FORMS[name]
    assert not is_agent_function(form)
    left.clear()

    async with open_graph(settled(form), config={"configurable": {"word": "word"}}) as graph:
        assert left == []
        assert await graph.ainvoke({}) == {"said": said}

    assert left == ([form.__name__] if name.endswith("context manager") else [])


async def test_a_sync_factory_holds_up_nobody() -> None:
    """It waits for what only the event loop can do, and knows what its caller's context holds."""
    loop_has_run = threading.Event()
    word: contextvars.ContextVar[str] = contextvars.ContextVar("word")
    word.set("of the caller")

    def slow():
        assert loop_has_run.wait(60)
        return builder(word.get())

    asyncio.get_running_loop().call_later(0.01, loop_has_run.set)
    async with open_graph(settled(slow)) as graph:
        assert await graph.ainvoke({}) == {"said": "of the caller"}


@pytest.mark.parametrize("how", ["ends", "fails", "is cancelled while it is entered"])
async def test_a_sync_context_manager_is_entered_and_left_in_threads(how: str) -> None:
    threads: list[bool] = []
    may_go_on, entering, has_left = threading.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    @contextlib.contextmanager
    def factory():
        threads.append(threading.current_thread() is threading.main_thread())
        loop.call_soon_threadsafe(entering.set)
        assert may_go_on.wait(60)
        try:
            yield builder()
        finally:
            threads.append(threading.current_thread() is threading.main_thread())
            loop.call_soon_threadsafe(has_left.set)

    async def run() -> None:
        async with open_graph(settled(factory)) as graph:
            await graph.ainvoke({})
            if how == "fails":
                raise ValueError(how)

    running = asyncio.create_task(run())
    await entering.wait()
    if how.startswith("is cancelled"):
        running.cancel()
        await asyncio.wait([running])
    may_go_on.set()
    (ended,) = await asyncio.gather(running, return_exceptions=True)
    await asyncio.wait_for(has_left.wait(), 60)
    assert threads == [False, False]
    assert type(ended) is {"ends": type(None), "fails": ValueError}.get(how, asyncio.CancelledError)


async def test_a_factory_knows_when_only_the_shape_is_wanted() -> None:
    async with open_graph(settled(of_runtime), access="assistants.read") as graph:
        assert await graph.ainvoke({}) == {"said": "assistants.read"}


async def test_a_run_has_no_user() -> None:
    def factory(runtime: ServerRuntime):
        return builder(runtime.ensure_user().identity)

    with pytest.raises(PermissionError, match="no authenticated user"):
        async with open_graph(settled(factory)):
            pass


@pytest.mark.parametrize("own", [None, True, "saver"])
async def test_the_runners_checkpointer_goes_into_a_copy(own: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    own = InMemorySaver() if own == "saver" else own
    graph = builder().compile(checkpointer=own)
    before = dict(vars(graph))
    ours, store = InMemorySaver(), InMemoryStore()

    async with open_graph(settled(graph), checkpointer=ours, store=store) as opened:
        assert opened is not graph
        assert (opened.checkpointer, opened.store) == (ours, store)
        assert await opened.ainvoke({}, {"configurable": {"thread_id": "1"}}) == {"said": "hello"}

    assert vars(graph) == before
    assert all(vars(graph)[name] is value for name, value in before.items())
    assert ("InMemorySaver, is replaced by the runner's" in caplog.text) == isinstance(own, InMemorySaver)


async def test_a_graph_may_want_no_checkpointer_and_have_a_store() -> None:
    own = InMemoryStore()
    graph = builder().compile(checkpointer=False, store=own)

    async with open_graph(settled(graph), checkpointer=InMemorySaver(), store=InMemoryStore()) as opened:
        assert opened.checkpointer is False
        assert opened.store is own


def three(a, b, c):
    raise AssertionError


def two_configs(a, b):
    raise AssertionError


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (3, "a int is neither an agent function"),
        (State, "is neither an agent function"),
        (three, "three takes 3 arguments"),
        (two_configs, "two_configs takes 2 arguments"),
    ],
)
def test_what_is_no_graph_is_refused(form: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        settled(form)


async def test_a_factory_of_something_else_is_named() -> None:
    def wrong():
        return {"said": 1}

    form = settled(wrong)
    assert isinstance(form, Factory)
    with pytest.raises(TypeError, match=r"factory .*wrong gave a dict, not a LangGraph graph"):
        async with open_graph(form):
            pass


def test_what_takes_a_context_and_an_input_is_an_agent() -> None:
    def sync(ctx, input): ...

    async def asynchronous_agent(ctx, input, *, option=1): ...

    class Method:
        async def agent(self, ctx, input): ...

    def options(config, verbose=False): ...

    assert all(map(is_agent_function, [sync, asynchronous_agent, Method().agent, lambda *both: both]))
    assert not any(map(is_agent_function, [options, of_unnamed, no_argument, Method, 3]))
