"""From each form in which a graph comes to a private copy that can be run.

A graph is registered compiled, as a builder, or as a factory: a function, sync or async, or one that gives a context
manager, sync or async, of no argument, or of the run's config, a runtime, or both. (`@entrypoint` gives a compiled
graph.) These are the forms that LangGraph's own server takes.

The object that was registered is never changed: what the runner needs of its own (a checkpointer, a store) goes into
a copy. A factory is called for every run, and once more when the runner starts, for the schema of its input; a sync one in a
thread, since it may take its time.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints
from weakref import WeakKeyDictionary

from langgraph.pregel import Pregel

from cas_events.jetstream.checkpoints.strictness import types_of_graph

_log = logging.getLogger(__name__)

_types: WeakKeyDictionary[Any, Any] = (
    WeakKeyDictionary()
)  # by graph: finding them takes a tenth of a short run

AnyPregel = Pregel[Any, Any, Any, Any]
Access = Literal["threads.create_run", "assistants.read"]

ARGUMENTS_MAX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FactoryRuntime:
    """What a factory learns when it asks for a runtime; the shape is that of `langgraph_sdk.runtime.ServerRuntime`.

    Attributes:
        access_context: ``threads.create_run`` for a run, ``assistants.read`` for the schema of the input.
        store: long-term memory, if the runner has one.
        user: always None, since commands carry no identity that a runner could vouch for.
        context: always None, since commands carry no run context.
    """

    access_context: Access
    store: Any = None
    user: None = None
    context: None = None

    @property
    def execution_runtime(self) -> FactoryRuntime | None:
        """Itself for a run; None when only the graph's shape is wanted, so that costly resources can be left out."""
        return self if self.access_context == "threads.create_run" else None

    def ensure_user(self) -> None:
        """The user of the run, whom there never is.

        Raises:
            PermissionError: always.
        """
        raise PermissionError("a graph that a runner serves has no authenticated user")


@dataclass(frozen=True, slots=True)
class Factory:
    """A function that makes the graph.

    Attributes:
        function: of the user.
        arguments: what it wants, in its order: ``config`` or ``runtime``.
    """

    function: Callable[..., Any]
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """The function's name, for errors."""
        return str(getattr(self.function, "__qualname__", self.function))


Form = AnyPregel | Factory


def settled(form: Any) -> Form:
    """A graph that can be opened: a builder is compiled here, of a factory the arguments are found out.

    Raises:
        TypeError: it is no graph and no factory of one.
    """
    if isinstance(form, Pregel) or callable(getattr(form, "compile", None)):
        return _compiled(form)
    if callable(form) and not isinstance(form, type):
        return Factory(form, _arguments(form))
    raise TypeError(
        f"a {type(form).__name__} is neither an agent function (ctx, input) nor a LangGraph graph, nor a factory of one"
    )


@asynccontextmanager
async def open_graph(
    form: Form,
    *,
    checkpointer: Any = None,
    store: Any = None,
    config: Mapping[str, Any] | None = None,
    access: Access = "threads.create_run",
) -> AsyncIterator[AnyPregel]:
    """A private copy of a graph, to be run within the block.

    Args:
        form: what `settled` gave.
        checkpointer: the copy's, unless the graph wants none (``False``); None leaves the graph's own.
        store: the copy's, unless the graph has one.
        config: of the run, for factories that want it.
        access: what it is opened for, for factories that want to know.

    Raises:
        TypeError: a factory gave something else than a graph.
    """
    async with AsyncExitStack() as stack:
        if isinstance(form, Factory):
            runtime = FactoryRuntime(access_context=access, store=store)
            graph = await _made(form, stack, {"config": dict(config or {}), "runtime": runtime})
        else:
            graph = form
        yield _private(graph, checkpointer, store)


def _private(graph: AnyPregel, checkpointer: Any, store: Any) -> AnyPregel:
    update: dict[str, Any] = {}
    if graph.checkpointer is True or (checkpointer is not None and graph.checkpointer is not False):
        if graph.checkpointer not in (None, True):
            _log.warning(
                "graph %s: its own checkpointer, a %s, is replaced by the runner's",
                graph.get_name(),
                type(graph.checkpointer).__name__,
            )
        update["checkpointer"] = _knowing(checkpointer, graph)
    if store is not None and graph.store is None:
        update["store"] = store
    return graph.copy(update)


def _knowing(checkpointer: Any, graph: AnyPregel) -> Any:
    """The checkpointer as one that may construct the types of the graph's state, and no others of the user's."""
    if not hasattr(checkpointer, "with_allowlist"):
        return checkpointer
    types = _types.get(graph)
    if types is None:
        types = _types[graph] = types_of_graph(graph)
    return checkpointer.with_allowlist(types)


def _compiled(graph: Any) -> AnyPregel:
    """A compiled graph as it is; a builder compiled."""
    made: Any = graph if isinstance(graph, Pregel) else graph.compile()
    if not isinstance(made, Pregel):
        raise TypeError(
            f"compiling a {type(graph).__name__} gave a {type(made).__name__}, not a LangGraph graph"
        )
    return made


# --- factories -----------------------------------------------------------------------------------------------------------


def _arguments(function: Callable[..., Any]) -> tuple[str, ...]:
    """What a factory wants, by its signature.

    Raises:
        TypeError: it wants something else.
    """
    try:
        hints = get_type_hints(function)
    except Exception as problem:  # Annotations are the user's own code; names still tell.
        _log.debug("annotations of %r cannot be read: %s", function, problem)
        hints = {}
    wanted = tuple(
        "runtime" if _is_runtime(parameter, hints) else "config"
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
        and (parameter.default is parameter.empty or parameter.name in {"config", "runtime"})
    )
    if len(wanted) > ARGUMENTS_MAX or len(set(wanted)) < len(wanted):
        raise TypeError(
            f"{getattr(function, '__qualname__', function)} takes {len(wanted)} arguments; a factory of a graph takes "
            f"none, the run's config, a runtime, or both; an agent function takes (ctx, input) and is async"
        )
    return wanted


def _is_runtime(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> bool:
    annotation = hints.get(parameter.name, parameter.annotation)
    return "Runtime" in str(annotation) or parameter.name == "runtime"


@asynccontextmanager
async def _threaded(manager: AbstractContextManager[Any]) -> AsyncIterator[Any]:
    """A sync context manager that is entered and left in threads, left also if nobody waits for its entering any more."""
    loop = asyncio.get_running_loop()

    def leave(entered: asyncio.Task[Any]) -> None:
        if not entered.cancelled() and entered.exception() is None:
            loop.run_in_executor(None, manager.__exit__, None, None, None)

    entering = asyncio.create_task(asyncio.to_thread(manager.__enter__))
    try:
        made = await asyncio.shield(entering)
    except asyncio.CancelledError:
        entering.add_done_callback(leave)
        raise
    try:
        yield made
    except BaseException as error:
        if not await asyncio.to_thread(manager.__exit__, type(error), error, error.__traceback__):
            raise
    else:
        await asyncio.to_thread(manager.__exit__, None, None, None)


async def _made(factory: Factory, stack: AsyncExitStack, known: Mapping[str, Any]) -> AnyPregel:
    """What a factory gives, entered if it is a context manager; ``stack`` leaves it."""
    arguments = [known[argument] for argument in factory.arguments]
    if inspect.iscoroutinefunction(factory.function):
        made = await factory.function(*arguments)
    else:
        made = await asyncio.to_thread(factory.function, *arguments)
        if inspect.isawaitable(made):
            made = await made
    if not isinstance(made, Pregel):
        if hasattr(made, "__aenter__"):
            made = await stack.enter_async_context(made)
        elif hasattr(made, "__enter__"):
            made = await stack.enter_async_context(_threaded(made))
    if isinstance(made, Pregel) or callable(getattr(made, "compile", None)):
        return _compiled(made)
    raise TypeError(f"the factory {factory.name} gave a {type(made).__name__}, not a LangGraph graph")
