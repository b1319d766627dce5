"""What a graph takes: the JSON Schema of its input, as far as LangGraph knows it.

LangGraph itself checks nothing, so the schema says no more than what every run needs. Chat messages have many forms, which
LangGraph converts; and a state that is also the input does not have to be given whole. A graph whose types pydantic cannot
read (such as `typing.TypedDict` before Python 3.12) is described field by field, and what has no schema may be anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec
from pydantic import TypeAdapter

from cas_events.domain.json_schema import schema_fault
from cas_events.runner.functions import is_typed_dict
from cas_events.runner.graphs.opening import AnyPregel

_log = logging.getLogger(__name__)

# In the definitions of a schema that has chat messages somewhere; the text is what a reader has to know of them.
_MESSAGE = "#/$defs/AIMessage"
MESSAGES = {
    "description": "chat messages: {role, content} objects, a text, or LangChain's own form",
    "type": ["array", "object", "string"],
}


def input_schema(graph: AnyPregel) -> dict[str, Any] | None:
    """The schema, or None if it would say nothing."""
    input_type = getattr(getattr(graph, "builder", None), "input_schema", None)
    try:
        schema = graph.get_input_jsonschema()
    except Exception as problem:  # Pydantic's, about whatever types the graph's author chose.
        _log.debug("graph %s: its input has no schema as a whole: %s", graph.get_name(), problem)
        schema = _by_field(input_type)
    if not schema.get("properties") or schema_fault(schema) is not None:
        return None
    if is_typed_dict(input_type) and input_type is getattr(graph.builder, "state_schema", None):  # type: ignore[attr-defined] # it has one
        schema.pop("required", None)
    return _without_messages(schema)


def _by_field(type_: Any) -> dict[str, Any]:
    """A schema of a `TypedDict`, made of those of its fields."""
    if not is_typed_dict(type_):
        return {}
    found: dict[str, Any] = {"title": type_.__name__, "type": "object", "properties": {}}
    definitions: dict[str, Any] = {}
    for name, hint in get_type_hints(type_).items():
        schema = _of_field(hint)
        definitions |= schema.pop("$defs", {})
        found["properties"][name] = schema
    found["required"] = sorted(type_.__required_keys__)
    return found | {"$defs": definitions} if definitions else found


def _of_field(hint: Any) -> dict[str, Any]:
    makers: list[Callable[[Any], dict[str, Any]]] = [_by_pydantic, msgspec.json.schema]
    for make in makers:
        try:
            return make(hint)
        except Exception as problem:  # As above; the next one may know the type.
            _log.debug("no schema of %r: %s", hint, problem)
    return {}


def _by_pydantic(hint: Any) -> dict[str, Any]:
    return TypeAdapter(hint).json_schema()


def _without_messages(schema: dict[str, Any]) -> dict[str, Any]:
    properties = {
        name: MESSAGES if _MESSAGE in msgspec.json.encode(value).decode() else value
        for name, value in schema["properties"].items()
    }
    schema = {**schema, "properties": properties}
    used = msgspec.json.encode(properties).decode()
    definitions = schema.pop("$defs", {})
    if '"$ref"' in used:
        schema["$defs"] = definitions
    return schema
