"""From each form in which a graph comes to a private copy that can be run.

The object that was registered is never changed: what the runner needs of its own (a checkpointer, a store) goes into
a copy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from langgraph.pregel import Pregel

AnyPregel = Pregel[Any, Any, Any, Any]


def settled(form: Any) -> AnyPregel:
    """The compiled graph; a builder is compiled here.

    Raises:
        TypeError: it is no graph.
    """
    if isinstance(form, Pregel):
        return form
    compile_ = getattr(form, "compile", None)
    if not callable(compile_):
        raise TypeError(f"a {type(form).__name__} is neither an async function nor a LangGraph graph")
    compiled: AnyPregel = compile_()
    return compiled


@asynccontextmanager
async def open_graph(
    form: AnyPregel, *, checkpointer: Any = None, store: Any = None
) -> AsyncIterator[AnyPregel]:
    """A private copy of a graph, to be run within the block.

    Args:
        form: what `settled` gave.
        checkpointer: the copy's, unless the graph wants none (``False``); None leaves the graph's own.
        store: the copy's, unless the graph has one.
    """
    update: dict[str, Any] = {}
    if checkpointer is not None and form.checkpointer is not False:
        update["checkpointer"] = checkpointer
    if store is not None and form.store is None:
        update["store"] = store
    yield form.copy(update) if update else form
