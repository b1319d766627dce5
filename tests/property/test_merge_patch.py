"""RFC 7396: the examples of its appendix A, and what holds for every document and patch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_events.domain.merge_patch import merge_patch

APPENDIX_A: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]

names = st.sampled_from("abc")
leaves = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "x"])
documents = st.recursive(leaves, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner))
objects = st.dictionaries(names, documents)


@pytest.mark.parametrize(("target", "patch", "result"), APPENDIX_A)
def test_the_examples_of_the_rfc(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


@given(documents, documents)
def test_it_changes_neither_argument_and_a_second_time_nothing(target: Any, patch: Any) -> None:
    before = copy.deepcopy((target, patch))
    merged = merge_patch(target, patch)
    assert (target, patch) == before
    assert merge_patch(merged, patch) == merged


@given(objects, objects)
def test_members_that_a_patch_does_not_name_stay_and_its_nulls_go(target: dict, patch: dict) -> None:
    merged = merge_patch(target, patch)
    assert {name: target[name] for name in target.keys() - patch.keys()} == {
        name: merged[name] for name in target.keys() - patch.keys()
    }
    assert merged.keys() == (target.keys() | patch.keys()) - {
        n for n, value in patch.items() if value is None
    }


@given(objects, objects)
def test_from_one_state_to_any_other_without_nulls_there_is_a_patch(before: dict, after: dict) -> None:
    after = merge_patch({}, after)  # without nulls, which a patch cannot put
    gone = dict.fromkeys(before.keys() - after.keys())
    merged = merge_patch(merge_patch(before, dict.fromkeys(before)), after | gone)
    assert merged == after
