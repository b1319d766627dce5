"""JSON Schema, as far as inputs of tasks need it: is a value one that a schema describes, and if not, where and why.

Covers what schema generators write: types, objects, arrays, bounds, enumerations, combinations and references within the
schema. A keyword that is not known here restricts nothing, as the standard has it for unknown ones. Checked against the
`jsonschema` library by a property test.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

DEPTH_MAX = 200  # of references and values; what is deeper counts as right


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": _is_number,
    "integer": lambda value: _is_number(value) and value == int(value),
}
_SUBSCHEMAS = ("items", "additionalProperties", "not")
_LISTS = ("anyOf", "oneOf", "allOf")
_MAPS = ("properties", "$defs", "definitions")
_BOUNDS: dict[str, tuple[Callable[[Any], bool], Callable[[Any, Any], bool], str]] = {
    "minimum": (_is_number, lambda value, bound: value >= bound, "is less than"),
    "maximum": (_is_number, lambda value, bound: value <= bound, "is more than"),
    "exclusiveMinimum": (
        _is_number,
        lambda value, bound: value > bound,
        "is not more than",
    ),
    "exclusiveMaximum": (
        _is_number,
        lambda value, bound: value < bound,
        "is not less than",
    ),
    "minLength": (
        lambda value: isinstance(value, str),
        lambda value, bound: len(value) >= bound,
        "is shorter than",
    ),
    "maxLength": (
        lambda value: isinstance(value, str),
        lambda value, bound: len(value) <= bound,
        "is longer than",
    ),
    "minItems": (
        lambda value: isinstance(value, list),
        lambda value, bound: len(value) >= bound,
        "has fewer items than",
    ),
    "maxItems": (
        lambda value: isinstance(value, list),
        lambda value, bound: len(value) <= bound,
        "has more items than",
    ),
}


_WORDS: tuple[tuple[Collection[str], Callable[[Any], bool], str], ...] = (
    (
        ("required",),
        lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
        "no list of names",
    ),
    (("enum",), lambda value: isinstance(value, list), "no list of values"),
    (_BOUNDS, _is_number, "no number"),
    (("$ref", "pattern"), lambda value: isinstance(value, str), "no text"),
    (_MAPS, lambda value: isinstance(value, dict), "no object of schemas"),
    (_LISTS, lambda value: isinstance(value, list), "no list of schemas"),
)


class Fault(NamedTuple):
    """Why a value, or a schema, is none.

    Attributes:
        path: where, such as ``input.tasks[2].name``.
        problem: what is wrong there.
    """

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.path} {self.problem}"


def schema_fault(schema: Any, path: str = "schema") -> Fault | None:
    """The first thing in a schema that makes it none, if any."""
    if isinstance(schema, bool):
        return None
    if not isinstance(schema, dict):
        return Fault(path, f"is a {type(schema).__name__}, not an object")
    found = _type_fault(schema, path) or _words_fault(schema, path)
    if found is not None:
        return found
    for below, subschema in _subschemas(schema, path):
        found = schema_fault(subschema, below)
        if found is not None:
            return found
    return None


def value_fault(schema: Any, value: Any, path: str = "input") -> Fault | None:
    """The first thing in a value that the schema does not allow, if any.

    Args:
        schema: one of which `schema_fault` says nothing.
        value: a JSON value.
        path: what the value is called in the answer.
    """
    return _Check(schema).fault(schema, value, path, 0)


# --- schemas -------------------------------------------------------------------------------------------------------------


def _type_fault(schema: Mapping[str, Any], path: str) -> Fault | None:
    named = schema.get("type", [])
    for name in [named] if isinstance(named, str) else named if isinstance(named, list) else [named]:
        if not isinstance(name, str) or name not in _TYPES:
            return Fault(f"{path}.type", f"is {name!r}; the types are {', '.join(_TYPES)}")
    return None


def _words_fault(schema: Mapping[str, Any], path: str) -> Fault | None:
    for word, value in schema.items():
        for words, is_right, problem in _WORDS:
            if word in words and not is_right(value):
                return Fault(f"{path}.{word}", f"is {value!r}, {problem}")
    return None


def _subschemas(schema: Mapping[str, Any], path: str) -> list[tuple[str, Any]]:
    found = [(f"{path}.{word}", schema[word]) for word in _SUBSCHEMAS if word in schema]
    for word in _MAPS:
        found += [(f"{path}.{word}.{name}", value) for name, value in schema.get(word, {}).items()]
    for word in _LISTS:
        found += [(f"{path}.{word}[{number}]", value) for number, value in enumerate(schema.get(word, []))]
    return found


# --- values --------------------------------------------------------------------------------------------------------------


class _Check:
    """One schema with its definitions."""

    def __init__(self, root: Any) -> None:
        self._root = root

    def fault(self, schema: Any, value: Any, path: str, depth: int) -> Fault | None:
        if depth > DEPTH_MAX or schema is True:
            return None
        if schema is False:
            return Fault(path, "is not allowed")
        if "$ref" in schema:
            found = self.fault(self._target(schema["$ref"]), value, path, depth + 1)
            if found is not None:
                return found
        return (
            _plain_fault(schema, value, path)
            or self._combined(schema, value, path, depth)
            or self._below(schema, value, path, depth)
        )

    def _target(self, reference: str) -> Any:
        """What a reference within the schema points to; others restrict nothing."""
        target: Any = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, dict) else None
        return target if reference.startswith("#") and isinstance(target, (dict, bool)) else True

    def _combined(self, schema: Mapping[str, Any], value: Any, path: str, depth: int) -> Fault | None:
        for part in schema.get("allOf", []):
            found = self.fault(part, value, path, depth + 1)
            if found is not None:
                return found
        for word in ("anyOf", "oneOf"):
            if word not in schema:
                continue
            faults = [self.fault(part, value, path, depth + 1) for part in schema[word]]
            right = faults.count(None)
            if right == 0:
                # The deepest fault is that of the alternative that was meant.
                return max(
                    (fault for fault in faults if fault), key=lambda fault: len(fault.path), default=None
                ) or Fault(path, f"is none of {word}")
            if word == "oneOf" and right > 1:
                return Fault(path, f"is {right} of oneOf at once")
        if "not" in schema and self.fault(schema["not"], value, path, depth + 1) is None:
            return Fault(path, "is what it must not be")
        return None

    def _below(self, schema: Mapping[str, Any], value: Any, path: str, depth: int) -> Fault | None:
        if isinstance(value, dict):
            members = [(schema.get("properties", {}).get(name), name) for name in value]
            below = [
                (
                    schema.get("additionalProperties", True) if own is None else own,
                    value[name],
                    f"{path}.{name}",
                )
                for own, name in members
            ]
        elif isinstance(value, list):
            below = [(schema.get("items", True), item, f"{path}[{at}]") for at, item in enumerate(value)]
        else:
            return None
        for subschema, item, where in below:
            found = self.fault(subschema, item, where, depth + 1)
            if found is not None:
                return found
        return None


def _plain_fault(schema: Mapping[str, Any], value: Any, path: str) -> Fault | None:
    """What needs no look below the value."""
    named = schema.get("type", [])
    names = [named] if isinstance(named, str) else named
    if names and not any(_TYPES[name](value) for name in names):
        return Fault(path, f"is {_kind(value)}; it must be {' or '.join(names)}")
    if "const" in schema and not _same(schema["const"], value):
        return Fault(path, f"must be {schema['const']!r}")
    if "enum" in schema and not any(_same(allowed, value) for allowed in schema["enum"]):
        return Fault(path, f"must be one of {schema['enum']!r}")
    if isinstance(value, dict):
        missing = [name for name in schema.get("required", []) if name not in value]
        if missing:
            return Fault(f"{path}.{missing[0]}", "is missing")
    for word, (applies, holds, words) in _BOUNDS.items():
        if word in schema and applies(value) and not holds(value, schema[word]):
            return Fault(path, f"{words} {schema[word]}")
    if "pattern" in schema and isinstance(value, str) and not _matches(schema["pattern"], value):
        return Fault(path, f"does not match {schema['pattern']!r}")
    return None


def _matches(pattern: str, value: str) -> bool:
    try:
        return re.search(pattern, value) is not None
    except re.error:
        return True  # Written for another dialect; it restricts nothing here.


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON values: 1 is 1.0, and not true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    return bool(one == other)


def _kind(value: Any) -> str:
    if _is_number(value):
        return f"the number {value}"
    return next(
        f"{'an' if name[0] in 'aeiou' else 'a'} {name}" if value is not None else "null"
        for name, is_type in _TYPES.items()
        if is_type(value)
    )
