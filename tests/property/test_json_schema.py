"""The check of inputs agrees with the `jsonschema` library, on schemas and values made by Hypothesis."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cas_events.domain.json_schema import schema_fault, value_fault

names = st.sampled_from(["a", "b", "c"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.5, 1.0, 2.0])
    | st.text("ab", max_size=3)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
types = st.sampled_from(["object", "array", "string", "boolean", "null", "number", "integer"])


def objects(inner: st.SearchStrategy) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": types | st.lists(types, min_size=1, max_size=2, unique=True),
            "enum": st.lists(values, min_size=1, max_size=2),
            "const": values,
            "properties": st.dictionaries(names, inner, max_size=2),
            "required": st.lists(names, max_size=2, unique=True),
            "additionalProperties": inner,
            "items": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            "minimum": st.integers(-2, 2),
            "exclusiveMaximum": st.integers(-2, 2),
            "minLength": st.integers(0, 2),
            "maxItems": st.integers(0, 2),
            "pattern": st.sampled_from(["^a", "b$"]),
            "$ref": st.sampled_from(["#/$defs/leaf", "#/$defs/other"]),
        },
    )


schemas = st.recursive(st.booleans() | st.builds(lambda name: {"type": name}, types), objects, max_leaves=6)
roots = st.builds(
    lambda schema, leaf: {**schema, "$defs": {"leaf": leaf, "other": {"type": "string"}}},
    schemas.filter(lambda schema: isinstance(schema, dict)),
    st.builds(lambda name: {"type": name}, types),
)


@settings(max_examples=400, deadline=None)
@given(roots, values)
def test_a_value_is_judged_as_the_library_does(schema: dict[str, Any], value: Any) -> None:
    assert schema_fault(schema) is None
    expected = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert (value_fault(schema, value) is None) is expected


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ([], "schema is a list, not an object"),
        ({"type": "strin"}, "schema.type is 'strin'"),
        ({"properties": {"a": {"type": 3}}}, "schema.properties.a.type is 3"),
        ({"properties": []}, "schema.properties is [], no object of schemas"),
        ({"required": "a"}, "schema.required is 'a', no list of names"),
        ({"items": {"anyOf": [{"minimum": "1"}]}}, "schema.items.anyOf[0].minimum is '1', no number"),
        ({"$defs": {"x": 1}}, "schema.$defs.x is a int, not an object"),
    ],
)
def test_what_is_no_schema_is_named(schema: Any, words: str) -> None:
    assert words in str(schema_fault(schema))


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        ({"required": ["q"]}, {}, "input.q is missing"),
        ({"properties": {"n": {"type": "integer"}}}, {"n": "3"}, "input.n is a string; it must be integer"),
        ({"properties": {"n": {"items": {"minimum": 2}}}}, {"n": [2, 1]}, "input.n[1] is less than 2"),
        ({"additionalProperties": False}, {"x": 1}, "input.x is not allowed"),
        (
            {"anyOf": [{"type": "null"}, {"properties": {"a": {"type": "null"}}}]},
            {"a": 1},
            "input.a is the number 1",
        ),
    ],
)
def test_a_fault_has_its_path(schema: Any, value: Any, words: str) -> None:
    assert words in str(value_fault(schema, value))


def test_a_schema_that_refers_to_itself_ends() -> None:
    assert value_fault({"$ref": "#"}, {"a": 1}) is None
    tree = {"type": "object", "properties": {"below": {"$ref": "#"}}}
    assert value_fault(tree, {"below": {"below": {}}}) is None
    assert str(value_fault(tree, {"below": {"below": 1}})).startswith("input.below.below is the number 1")
