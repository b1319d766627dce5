"""The rules of long-term memory for any input: names, bytes, filters and listings.

Goal: names never collide or leave their place, foreign bytes are refused and nothing else, and listings are those of
LangGraph's own store.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.store.base import ListNamespacesOp, MatchCondition, PutOp
from langgraph.store.memory import InMemoryStore

from cas_events.domain.memory import listed, matches
from cas_events.errors import MemoryUnreadableError, MemoryValueError, WireError
from cas_events.wire.memory import (
    ROOT,
    MemorySubjects,
    StoredItem,
    decode_item,
    decode_item_value,
    encode_item,
    encode_item_value,
)
from cas_events.wire.pieces import Inline, Pieces, Whole, hash_of, pack
from cas_events.wire.subjects import Names
from cas_events.wire.threads import token_of

SUBJECTS = MemorySubjects.of(Names("cas"))
any_text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200)
short = st.sampled_from(["a", "b", "c"])
namespaces = st.lists(any_text, max_size=4).map(tuple)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | any_text
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=10,
)


def item(namespace: tuple[str, ...], key: str, value: Inline | Whole) -> StoredItem:
    return StoredItem(namespace=namespace, key=key, put="p", created_us=1, updated_us=2, value=value)


@given(any_text)
def test_no_thread_has_the_memorys_token(text: str) -> None:
    assert token_of(text) != ROOT


@given(namespaces, any_text, namespaces, any_text)
def test_two_names_are_two_subjects_that_nats_takes(
    namespace: tuple[str, ...], key: str, other: tuple[str, ...], other_key: str
) -> None:
    subject = SUBJECTS.item(namespace, key)
    tokens = subject.split(".")
    assert len(tokens) == 4 + len(namespace) + 1
    assert all(token and not set(token) & set("*> \t\r\n") and token.isascii() for token in tokens)
    assert (subject == SUBJECTS.item(other, other_key)) == ((namespace, key) == (other, other_key))
    named = SUBJECTS.namespace_of(subject)
    assert named == namespace or (named is None and any("==" in token for token in tokens))
    for depth in range(len(namespace) + 1):
        assert subject.startswith(SUBJECTS.within(namespace[:depth]).removesuffix(">"))


@given(namespaces, any_text, st.dictionaries(any_text, plain, max_size=4))
def test_an_item_comes_back(namespace: tuple[str, ...], key: str, value: dict[str, Any]) -> None:
    pieces: Pieces = {}
    made = item(namespace, key, encode_item_value(namespace, key, value, pieces))
    read = decode_item(SUBJECTS, SUBJECTS.item(namespace, key), encode_item(made))
    assert read == made
    assert decode_item_value(read, pieces) == value
    assert all(hash_of(part) == digest for digest, part in pieces.items())


@given(st.binary(max_size=300), st.booleans())
def test_foreign_bytes_are_no_item(data: bytes, is_packed: bool) -> None:
    with pytest.raises(MemoryUnreadableError):
        decode_item(SUBJECTS, SUBJECTS.item(("a",), "b"), pack(data) if is_packed else data)


def test_what_is_nested_too_deep_is_refused() -> None:
    deep = b"\x81\xa1a" + b"\x91" * 100_000 + b"\xc0"
    with pytest.raises(MemoryUnreadableError, match="recursion"):
        decode_item(SUBJECTS, SUBJECTS.item(("a",), "b"), pack(deep))
    with pytest.raises(WireError, match="recursion"):
        decode_item_value(item(("a",), "b", Inline("", deep)), {})
    value: Any = {}
    for _ in range(100_000):
        value = {"a": value}
    with pytest.raises(MemoryValueError):
        encode_item_value(("a",), "b", value, {})


def test_an_item_of_another_name_or_of_monstrous_size_is_refused() -> None:
    small = item(("a",), "b", Inline("", b"\x80"))
    with pytest.raises(MemoryUnreadableError, match="belongs to"):
        decode_item(SUBJECTS, SUBJECTS.item(("a",), "c"), encode_item(small))
    huge = item(("a",), "b", Whole("", 2**40, b"x" * 16))
    with pytest.raises(MemoryUnreadableError, match="bytes"):
        decode_item(SUBJECTS, SUBJECTS.item(("a",), "b"), encode_item(huge))


paths = st.lists(short, min_size=1, max_size=4).map(tuple)
wild = st.lists(short | st.just("*"), min_size=1, max_size=4).map(tuple)
conditions = st.lists(st.tuples(st.sampled_from(["prefix", "suffix"]), wild), max_size=2)


@given(
    st.lists(paths, max_size=12),
    conditions,
    st.none() | st.integers(1, 4),
    st.integers(0, 9),
    st.integers(0, 5),
)
def test_listings_are_langgraphs(
    stored: list[Any], wanted: list[Any], max_depth: int | None, limit: int, offset: int
) -> None:
    reference = InMemoryStore()
    reference.batch([PutOp(namespace, "k", {}) for namespace in stored])
    op = ListNamespacesOp(tuple(MatchCondition(*each) for each in wanted), max_depth, limit, offset)
    assert [listed(stored, wanted, max_depth=max_depth, limit=limit, offset=offset)] == reference.batch([op])


@given(st.dictionaries(short, plain, max_size=3), st.dictionaries(short, plain, max_size=2), plain)
def test_a_value_matches_itself_and_orders_exclude_each_other(
    value: dict[str, Any], wanted: dict[str, Any], operand: Any
) -> None:
    for name, each in value.items():
        assert matches(value, {name: {"$eq": each}})
        assert not matches(value, {name: {"$ne": each}})
    assert not matches(value, {"a": {"$gt": operand, "$lte": operand}})
    assert not matches(value, {"a": {"$lt": operand, "$gte": operand}})
    assert matches(value, {"a": {"$gte": operand}}) == any(
        matches(value, {"a": {name: operand}}) for name in ("$gt",)
    ) or matches(value, {"a": {"$lte": operand, "$gte": operand}})
    assert isinstance(matches(value, {name: {"$eq": each} for name, each in wanted.items()}), bool)
