"""Searching long-term memory and listing its namespaces, as LangGraph's own store does it.

Goal: the promises of docs/memory.md. Method: a real server; where a case is one of LangGraph's, the same operations
are also given to its in-memory store.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from langgraph.store.base import (
    GetOp,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from cas_events import JetStreamStore
from tests.harness.memory import NS, keys

FOREVER_MIN = 1000.0


# --- search


async def fill(store: Any) -> None:
    documents = {
        "d1": {"color": "red", "score": 4.5, "tags": ["a", "b"], "in": {"deep": 1, "more": 2}},
        "d2": {"color": "red", "score": 3.0, "tags": [], "in": {"deep": 2}},
        "d3": {"color": "green", "score": 4, "in": None},
        "d4": {"color": "blue", "score": 3.5, "extra": True},
    }
    for key, value in documents.items():
        await store.aput(("docs", value["color"]), key, value)
    await store.aput(("other",), "d5", {"color": "red", "score": 1})


@pytest.mark.parametrize(
    "wanted",
    [
        None,
        {},
        {"color": "red"},
        {"color": {"$eq": "red"}},
        {"color": {"$ne": "red"}},
        {"score": {"$gt": 3.5}},
        {"score": {"$gte": 3.5}},
        {"score": {"$lt": 3.5}},
        {"score": {"$lte": 3.5}},
        {"score": {"$gt": 3, "$lt": 4.5}},
        {"score": {"$gte": 4}, "color": "green"},
        {"in": {"deep": 1}},
        {"in": {"deep": {"$gt": 1}}, "color": "red"},
        {"tags": ["a", "b"]},
        {"tags": ["a"]},
        {"missing": None},
        {"missing": {"$ne": 1}},
        {"color": "violet"},
    ],
)
async def test_a_filter_finds_what_langgraphs_own_store_finds(store: JetStreamStore, wanted: Any) -> None:
    reference = InMemoryStore()
    await fill(store)
    await fill(reference)
    if wanted and "deep" in wanted.get("in", {}) and isinstance(wanted["in"]["deep"], dict):
        await reference.adelete(("docs", "green"), "d3")  # There it raises for a member that is missing.
    for prefix in [(), ("docs",), ("docs", "red"), ("do",)]:
        expected = await reference.asearch(prefix, filter=wanted, limit=100)
        found = await store.asearch(prefix, filter=wanted, limit=100)
        assert sorted(keys(found)) == sorted(keys(expected))
        assert {item.key: item.value for item in found} == {item.key: item.value for item in expected}


async def test_what_cannot_be_compared_does_not_match(store: JetStreamStore) -> None:
    await fill(store)
    assert await store.asearch((), filter={"missing": {"$gt": 1}}) == []
    assert await store.asearch((), filter={"tags": {"$lt": 1}}) == []
    assert len(await store.asearch((), filter={"color": {"$gt": "green"}})) == 3
    with pytest.raises(ValueError, match=r"\$near"):
        await store.asearch((), filter={"score": {"$near": 1}})


async def test_pages_of_a_search_the_newest_first(store: JetStreamStore) -> None:
    for number in range(15):
        await store.aput(("n", str(number % 3)), f"k{number}", {"n": number})
    await store.aput(("n", "0"), "k3", {"n": 3})
    expected = ["k3"] + [f"k{number}" for number in reversed(range(15)) if number != 3]
    assert keys(await store.asearch(("n",))) == expected[:10]
    pages = [await store.asearch(("n",), limit=4, offset=offset) for offset in range(0, 20, 4)]
    assert [key for page in pages for key in keys(page)] == expected


async def test_a_query_and_an_index_have_no_effect(store: JetStreamStore) -> None:
    await store.aput(NS, "a", {"text": "hello"}, index=["text"])
    await store.aput(NS, "b", {"text": "world"}, index=False)
    found = await store.asearch(NS, query="hello")
    assert keys(found) == ["b", "a"]
    assert [item.score for item in found] == [None, None]


# --- namespaces


NAMESPACES = [
    ("a", "b", "c"),
    ("a", "b", "d", "e"),
    ("a", "b", "d", "i"),
    ("a", "b", "f"),
    ("a", "c", "f"),
    ("b", "a", "f"),
    ("users", "123", "settings"),
    ("x" * 200, "b"),
]


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"prefix": ("a", "b")},
        {"prefix": ("a", "*", "f")},
        {"prefix": ("*", "b")},
        {"suffix": ("f",)},
        {"suffix": ("d", "*")},
        {"prefix": ("a",), "suffix": ("f",)},
        {"prefix": ("a", "b"), "max_depth": 3},
        {"max_depth": 1},
        {"limit": 3},
        {"limit": 3, "offset": 3},
        {"limit": 3, "offset": 30},
        {"prefix": ("nobody",)},
        {"suffix": ("a", "b", "c", "d", "e")},
    ],
)
async def test_a_listing_has_what_langgraphs_own_store_has(
    store: JetStreamStore, wanted: dict[str, Any]
) -> None:
    reference = InMemoryStore()
    for namespace in NAMESPACES:
        for which in (store, reference):
            await which.abatch([PutOp(namespace, "k1", {"x": 1}), PutOp(namespace, "k2", {"x": 2})])
    assert await store.alist_namespaces(**wanted) == await reference.alist_namespaces(**wanted)
    await store.aput(("b", "a", "f"), "k1", {}, ttl=FOREVER_MIN)  # From here on it reads the items.
    assert await store.alist_namespaces(**wanted) == await reference.alist_namespaces(**wanted)


async def test_a_listing_by_several_conditions(store: JetStreamStore) -> None:
    await store.abatch([PutOp(namespace, "k", {}) for namespace in NAMESPACES])
    conditions = (MatchCondition("prefix", ("a", "*")), MatchCondition("prefix", ("*", "b", "d")))
    (found,) = await store.abatch([ListNamespacesOp(match_conditions=conditions)])
    assert found == [("a", "b", "d", "e"), ("a", "b", "d", "i")]


# --- all of it


@pytest.mark.parametrize("seed", range(4))
async def test_any_operations_leave_what_langgraphs_own_store_has(store: JetStreamStore, seed: int) -> None:
    draw = random.Random(seed)
    reference = InMemoryStore()
    labels = ["a", "b", "c d", "*"]

    def namespace() -> tuple[str, ...]:
        return tuple(draw.choices(labels, k=draw.randint(1, 3)))

    def op() -> Any:
        kind = draw.randrange(5)
        if kind < 2:
            value = {"n": draw.randrange(4), "data": "x" * draw.choice([0, 200_000])}
            return PutOp(namespace(), draw.choice("kl"), value)
        if kind == 2:
            return draw.choice([GetOp(namespace(), "k"), PutOp(namespace(), "k", None)])
        if kind == 3:
            wanted = draw.choice([None, {"n": 1}, {"n": {draw.choice(["$gte", "$lt", "$ne"]): 2}}])
            return SearchOp(namespace()[: draw.randrange(3)], filter=wanted, limit=1000)
        conditions = (MatchCondition(draw.choice(["prefix", "suffix"]), namespace()),)
        return ListNamespacesOp(conditions, max_depth=draw.choice([None, 1, 2]))

    def plain(result: Any) -> Any:
        if isinstance(result, list):
            return sorted(map(plain, result), key=repr)
        return (result.namespace, result.key, result.value) if hasattr(result, "key") else result

    for _ in range(25):
        # In LangGraph's own store a namespace is there once it was read, and stays when its last item is deleted.
        ops = sorted((op() for _ in range(draw.randint(1, 6))), key=lambda each: isinstance(each, GetOp))
        empty = [ns for ns, items in reference._data.items() if not items]
        for each in empty:
            del reference._data[each]
        assert [plain(each) for each in await store.abatch(ops)] == [
            plain(each) for each in reference.batch(ops)
        ]
