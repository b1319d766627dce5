"""Which classes may be constructed from stored bytes.

Whoever may publish to a checkpoint's subject must not be able to run code where it is read. So the default serializer
constructs only LangGraph's list of safe types, the types of a graph's own schema, and what the user allows; another
value comes back as the plain data that it was made of, with a warning in the log.

LangGraph collects the types of a graph's schema when it compiles one, and hands them to the saver (`with_allowlist`),
but only when its strict mode is on (``LANGGRAPH_STRICT_MSGPACK``, read at its import). A strict saver needs them, so
making one turns this on; nothing changes for savers that are not strict.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from langgraph._internal import _serde
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

_STRICT = "STRICT_MSGPACK_ENABLED"


def strict_serializer(allow: Iterable[type | tuple[str, str]] = ()) -> JsonPlusSerializer:
    """LangGraph's serializer, constructing only safe types and the allowed ones."""
    setattr(_serde, _STRICT, True)
    allowed: Any = tuple(allow) or None
    return JsonPlusSerializer(allowed_msgpack_modules=allowed)


def types_of_graph(graph: Any) -> set[tuple[str, ...]]:
    """The types in the schema of a graph, compiled or not, that was compiled before there was a strict saver."""
    builder = getattr(graph, "builder", graph)
    nodes = getattr(builder, "nodes", {}).values()
    schemas = [
        getattr(builder, name, None)
        for name in ("state_schema", "input_schema", "output_schema", "context_schema")
    ]
    schemas += [getattr(node, "input_schema", None) for node in nodes]
    return _serde.build_serde_allowlist(
        schemas=[schema for schema in schemas if schema is not None],
        channels=getattr(builder, "channels", None),
    )
