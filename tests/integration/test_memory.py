"""Long-term memory from the outside: the cases of LangGraph's own store tests, and what only a server adds.

Goal: the promises of docs/memory.md. Method: a real server; where a case is one of LangGraph's, the same operations
are also given to its in-memory store.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from langchain_core.messages import AIMessage
from langgraph.config import get_store
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
    TTLConfig,
)
from langgraph.store.memory import InMemoryStore
from typing_extensions import TypedDict

from cas_events import Client, JetStreamSaver, JetStreamStore
from cas_events.errors import (
    ConnectionLostError,
    MemoryNameError,
    MemoryUnreadableError,
    MemoryValueError,
    SyncOnLoopError,
)
from cas_events.jetstream.api import JetStream, PubAck
from cas_events.jetstream.checkpoints.stream import CheckpointStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.memory import sweeping
from cas_events.jetstream.memory.reading import ItemReader
from cas_events.wire.memory import MemorySubjects, decode_item
from cas_events.wire.pieces import pack
from cas_events.wire.subjects import Names
from tests.harness.own_runner import running
from tests.harness.processes import settings
from tests.harness.server import NatsServer
from tests.harness.wait import until_async

NS = ("users", "u1")
FOREVER_MIN = 1000.0
NO_TIME_MIN = 1e-9


@pytest.fixture
def open_store(nats_server: NatsServer, deployment: str):
    return lambda **options: JetStreamStore(settings=settings(nats_server.url, deployment), **options)


@pytest.fixture
async def store(open_store) -> AsyncIterator[JetStreamStore]:
    async with open_store() as store:
        yield store


@pytest.fixture
def subjects(deployment: str) -> MemorySubjects:
    return MemorySubjects.of(Names(deployment))


async def stored(js: JetStream, deployment: str) -> int:
    """How many messages there are."""
    return (await js.stream_info(Names(deployment).checkpoints)).state.messages


def keys(items: Any) -> list[str]:
    return [item.key for item in items]


# --- put, get, delete


async def test_an_item_is_put_read_updated_and_deleted(store: JetStreamStore) -> None:
    before = datetime.now(UTC)
    await store.aput(NS, "a", {"data": 1})
    first = await store.aget(NS, "a")
    assert first is not None
    assert (first.namespace, first.key, first.value) == (NS, "a", {"data": 1})
    assert before <= first.created_at == first.updated_at <= datetime.now(UTC)

    await store.aput(NS, "a", {"data": 2})
    second = await store.aget(NS, "a")
    assert second is not None
    assert second.value == {"data": 2}
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at

    await store.adelete(NS, "a")
    assert await store.aget(NS, "a") is None
    await store.adelete(NS, "a")
    await store.aput(NS, "a", {})
    third = await store.aget(NS, "a")
    assert third is not None
    assert third.value == {}
    assert third.created_at > second.updated_at


async def test_what_one_store_puts_another_reads(store: JetStreamStore, open_store) -> None:
    await store.aput(NS, "a", {"data": 1})
    async with open_store() as other:
        item = await other.aget(NS, "a")
        assert item is not None
        await other.aput(NS, "a", {"data": 2})
    read = await store.aget(NS, "a")
    assert read is not None
    assert read.value == {"data": 2}


async def test_plain_data_comes_back_as_it_was(store: JetStreamStore) -> None:
    value = {
        "text": "grüße \x00 🎉",
        "number": -(2**63),
        "float": 0.1,
        "none": None,
        "yes": True,
        "bytes": b"\x00\xff",
        "when": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        "nested": {"list": [1, [2, {"three": 3}]], "empty": {}},
    }
    await store.aput(NS, "a", value)
    item = await store.aget(NS, "a")
    assert item is not None
    assert item.value == value


async def test_what_has_a_plain_form_comes_back_as_that(store: JetStreamStore) -> None:
    zone = timezone(timedelta(hours=2))
    value = {
        "tuple": (1, 2),
        "set": {3},
        "date": date(2026, 1, 2),
        "naive": datetime(2026, 1, 2, 3, tzinfo=UTC).replace(tzinfo=None),
        "elsewhere": datetime(2026, 1, 2, 3, tzinfo=zone),
        "dataclass": MemorySubjects("x"),
    }
    await store.aput(NS, "a", value)
    item = await store.aget(NS, "a")
    assert item is not None
    assert item.value == {
        "tuple": [1, 2],
        "set": [3],
        "date": "2026-01-02",
        "naive": "2026-01-02T03:00:00",
        "elsewhere": datetime(2026, 1, 2, 1, tzinfo=UTC),
        "dataclass": {"prefix": "x"},
    }


@pytest.mark.parametrize(
    "value",
    [
        {"x": AIMessage("hi")},
        {"x": object()},
        {1: "x"},
        [1],
        {"x": 2**70},
        {"x": "\ud800"},
        {"x": lambda: None},
    ],
)
async def test_what_is_no_plain_data_is_refused(store: JetStreamStore, value: Any) -> None:
    with pytest.raises(MemoryValueError, match="plain data"):
        await store.aput(NS, "a", value)
    assert await store.aget(NS, "a") is None


@pytest.mark.parametrize(
    ("namespace", "key"),
    [
        (("a b", "*", ">", "ü" * 90), "k.e.y"),
        (("=", "~store", "\n"), ""),
        (("x" * 3000,), "y" * 3000),
        (tuple("abcdefghij" * 5), "deep"),
        (("i",), "v"),
    ],
)
async def test_a_name_may_be_any_text(store: JetStreamStore, namespace: tuple[str, ...], key: str) -> None:
    await store.aput(namespace, key, {"odd": True})
    await store.aput(("other",), key, {"odd": False})
    item = await store.aget(namespace, key)
    assert item is not None
    assert (item.namespace, item.key) == (namespace, key)
    (found,) = await store.asearch(namespace[:1])
    assert (found.namespace, found.key, found.value) == (namespace, key, {"odd": True})
    assert await store.alist_namespaces(prefix=namespace) == [namespace]
    await store.adelete(namespace, key)
    assert await store.alist_namespaces() == [("other",)]


async def test_names_that_langgraph_refuses_are_refused_everywhere(store: JetStreamStore) -> None:
    for namespace in [(), ("a.b",), ("",), ("langgraph", "x"), (1,)]:
        with pytest.raises(InvalidNamespaceError):
            await store.aput(namespace, "k", {})  # type: ignore[arg-type]
    for op in (GetOp(("a.b",), "k"), PutOp(("a", ""), "k", {}), SearchOp(("a.b",))):
        with pytest.raises(InvalidNamespaceError):
            await store.abatch([op])
    for label, key, problem in [("label", "k" * 20_000, "shorten"), ("\ud800", "k", "no Unicode")]:
        with pytest.raises(MemoryNameError, match=problem):
            await store.aput((label,), key, {})
    with pytest.raises(MemoryNameError, match="fewer labels"):
        await store.aget(("label" * 20,) * 60, "k")


async def test_a_key_and_a_namespace_of_the_same_text_are_two_things(store: JetStreamStore) -> None:
    await store.aput(("a",), "b", {"n": 1})
    await store.aput(("a", "b"), "c", {"n": 2})
    assert keys(await store.asearch(("a", "b"))) == ["c"]
    assert sorted(keys(await store.asearch(("a",)))) == ["b", "c"]


# --- large values


async def test_ten_megabytes_are_kept_replaced_and_deleted(
    store: JetStreamStore, js: JetStream, deployment: str
) -> None:
    data = bytes(number * number % 253 for number in range(100_003)) * 100
    await store.aput(NS, "large", {"data": data})
    item = await store.aget(NS, "large")
    assert item is not None
    assert item.value == {"data": data}
    await store.aput(NS, "large", {"data": data[:-1]})
    with_large = await stored(js, deployment)
    (found,) = await store.asearch(NS, filter={"data": data[:-1]})
    assert found.value["data"] == data[:-1]
    await store.aput(NS, "large", {"data": 1})
    assert await stored(js, deployment) == 1 < with_large
    await store.aput(NS, "large", {"data": data})
    await store.adelete(NS, "large")
    assert await stored(js, deployment) == 0


async def test_large_values_under_concurrent_writers_and_readers(store: JetStreamStore, open_store) -> None:
    async with open_store() as other:

        async def write(which: JetStreamStore, number: int) -> None:
            await which.aput(NS, "a", {"number": number, "data": f"{number}" * 200_000})

        async def read() -> None:
            item = await other.aget(NS, "a")
            if item is not None:
                number = item.value["number"]
                assert item.value["data"] == f"{number}" * 200_000

        work = [write(store if number % 2 else other, number) for number in range(10)]
        await asyncio.gather(*work, *(read() for _ in range(10)))
        (found,) = await other.asearch(NS)
        await read()
        assert found.value["number"] in range(10)


async def test_a_large_value_that_is_replaced_while_it_is_read(
    store: JetStreamStore, js: JetStream, subjects: MemorySubjects, deployment: str
) -> None:
    reader = ItemReader(CheckpointStream(js, Names(deployment)), subjects)
    await store.aput(NS, "a", {"data": "x" * 600_000})
    seen = await reader.find(subjects.item(NS, "a"))
    await store.aput(NS, "a", {"data": "y" * 600_000})
    valued = await reader.valued(seen)
    assert valued is not None
    assert valued[2] == {"data": "y" * 600_000}
    await store.adelete(NS, "a")
    assert await reader.valued(seen) is None


async def test_concurrent_writers_of_one_item_lose_no_write_and_keep_its_creation(
    store: JetStreamStore, open_store
) -> None:
    await store.aput(NS, "a", {"by": "first"})
    first = await store.aget(NS, "a")
    assert first is not None
    async with open_store() as other:
        await asyncio.gather(
            *(which.aput(NS, "a", {"by": number}) for number in range(20) for which in (store, other))
        )
        seen = await store.aget(NS, "a"), await other.aget(NS, "a")
    assert seen[0] == seen[1]
    assert seen[0] is not None
    assert seen[0].created_at == first.created_at
    assert seen[0].value["by"] in range(20)


# --- batches


async def test_a_batch_answers_in_its_order_and_reads_before_it_writes(store: JetStreamStore) -> None:
    await store.aput(("test", "foo"), "k1", {"data": "v1"})
    await store.aput(("test", "bar"), "k2", {"data": "v2"})
    results: list[Any] = await store.abatch(
        [
            GetOp(("test", "foo"), "k1"),
            PutOp(("test", "bar"), "k2", {"data": "newer"}),
            SearchOp(("test",), filter={"data": "v1"}),
            ListNamespacesOp(),
            GetOp(("test",), "k3"),
            GetOp(("test", "bar"), "k2"),
            PutOp(("test", "foo"), "k1", None),
            PutOp(("test", "bar"), "k2", {"data": "newest"}),
        ]
    )
    assert results[0].value == {"data": "v1"}
    assert keys(results[2]) == ["k1"]
    assert results[3] == [("test", "bar"), ("test", "foo")]
    assert (results[1], results[4], results[6], results[7]) == (None,) * 4
    assert results[5].value == {"data": "v2"}
    (left,) = await store.asearch(("test",))
    assert (left.key, left.value) == ("k2", {"data": "newest"})


async def test_many_operations_at_once(store: JetStreamStore) -> None:
    def each(number: int) -> list[Any]:
        namespace = ("test", "foo", str(number % 2))
        return [
            store.aput(namespace, f"key{number % 7}", {"n": number}),
            store.aget(namespace, f"key{number % 7}"),
            store.alist_namespaces(max_depth=number % 3 + 1),
            store.asearch(("test",)),
            store.adelete(namespace, f"key{number % 7}"),
        ]

    work = [one for number in range(40) for one in each(number)]
    assert len(await asyncio.gather(*work)) == 200


async def test_an_operation_that_nobody_knows(store: JetStreamStore) -> None:
    with pytest.raises(ValueError, match="unknown operation"):
        await store.abatch(["get"])  # type: ignore[list-item]


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


# --- lifetimes


async def test_what_is_over_is_found_by_nobody_and_deleted(
    store: JetStreamStore, js: JetStream, deployment: str
) -> None:
    await store.aput(NS, "kept", {"n": 1}, ttl=FOREVER_MIN)
    await store.aput(NS, "over", {"n": 2, "large": "x" * 600_000}, ttl=NO_TIME_MIN)
    await store.aput(("gone",), "over", {"n": 3}, ttl=NO_TIME_MIN)
    assert await store.aget(NS, "over") is None
    assert keys(await store.asearch(())) == ["kept"]
    assert await store.alist_namespaces() == [NS]

    async def only_the_kept_one_and_the_word() -> bool:
        return await stored(js, deployment) == 2

    await until_async(only_the_kept_one_and_the_word, what="what is over is deleted")


async def test_an_item_that_is_over_is_put_anew(store: JetStreamStore) -> None:
    await store.aput(NS, "a", {"n": 1})
    old = await store.aget(NS, "a")
    await store.aput(NS, "a", {"n": 2}, ttl=NO_TIME_MIN)
    await store.aput(NS, "a", {"n": 3})
    new = await store.aget(NS, "a")
    assert old is not None
    assert new is not None
    assert new.created_at > old.created_at


async def expiry(js: JetStream, subjects: MemorySubjects, key: str) -> int:
    subject = subjects.item(NS, key)
    message = await js.last_message(Names(subjects.prefix.partition(".")[0]).checkpoints, subject)
    assert message is not None
    return decode_item(subjects, subject, message.data).expires_us


async def test_the_lifetime_of_the_configuration_and_of_a_put(
    open_store, js: JetStream, subjects: MemorySubjects
) -> None:
    async with open_store(ttl=TTLConfig(default_ttl=10)) as store:
        await store.aput(NS, "default", {})
        await store.aput(NS, "own", {}, ttl=20)
        await store.aput(NS, "never", {}, ttl=None)
        now_us = datetime.now(UTC).timestamp() * 1e6
        assert await expiry(js, subjects, "default") == pytest.approx(now_us + 600e6, abs=300e6)
        assert await expiry(js, subjects, "own") == pytest.approx(now_us + 1200e6, abs=300e6)
        assert await expiry(js, subjects, "never") == 0


@pytest.mark.parametrize("is_default", [True, False])
async def test_a_read_lets_a_lifetime_begin_anew_unless_it_shall_not(
    open_store, js: JetStream, subjects: MemorySubjects, is_default: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cas_events.jetstream.memory.writing._REFRESH_SHARE", 0.0)
    async with open_store(ttl=TTLConfig(refresh_on_read=is_default)) as store:
        await store.aput(NS, "a", {}, ttl=FOREVER_MIN)
        begun = await expiry(js, subjects, "a")
        before = await store.aget(NS, "a", refresh_ttl=False)
        await store.asearch(NS, refresh_ttl=False)
        assert await expiry(js, subjects, "a") == begun
        await store.aget(NS, "a")
        after_default = await expiry(js, subjects, "a")
        assert (after_default > begun) == is_default
        await store.asearch(NS, refresh_ttl=True)
        assert await expiry(js, subjects, "a") > after_default
        assert await store.aget(NS, "a", refresh_ttl=False) == before


async def test_a_sweep_deletes_what_nobody_reads(
    store: JetStreamStore, js: JetStream, deployment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.aput(NS, "kept", {"large": "x" * 600_000})
    count = await stored(js, deployment)
    await store.aput(NS, "over", {"large": "y" * 600_000}, ttl=NO_TIME_MIN)
    # A put that died before its item was stored has left these.
    lost = MemorySubjects.of(Names(deployment)).value("0" * 32).piece(b"x" * 16)
    await js.append(lost, b"\x00lost")
    assert await store.sweep_ttl() == 1
    assert await stored(js, deployment) == count + 1  # And the word that items expire.
    assert await store.sweep_ttl() == 0
    monkeypatch.setattr(sweeping, "_ORPHAN_AGE_S", -1.0)
    assert await store.sweep_ttl() == 0
    kept = await store.aget(NS, "kept")
    assert kept is not None
    assert kept.value == {"large": "x" * 600_000}


async def test_sweeps_at_intervals(open_store, js: JetStream, deployment: str) -> None:
    async with open_store(ttl=TTLConfig(default_ttl=NO_TIME_MIN, sweep_interval_minutes=0.001)) as store:
        await store.aput(NS, "over", {"n": 1})

        async def only_the_word() -> bool:
            return await stored(js, deployment) == 1

        await until_async(only_the_word, what="the item is swept")


# --- loops and threads


async def test_the_sync_methods_from_a_thread_and_not_on_the_loop(store: JetStreamStore) -> None:
    def work() -> None:
        store.put(NS, "a", {"n": 1})
        item = store.get(NS, "a")
        assert item is not None
        assert item.value == {"n": 1}
        assert keys(store.search(NS, filter={"n": {"$gte": 1}})) == ["a"]
        assert store.list_namespaces() == [NS]
        store.put(NS, "b", {"n": 2}, ttl=FOREVER_MIN)
        store.delete(NS, "a")
        assert store.batch([GetOp(NS, "a"), PutOp(NS, "c", {})]) == [None, None]
        # In a loop of its own, everything works.
        assert len(asyncio.run(store.asearch(NS))) == 2

    await asyncio.to_thread(work)
    with pytest.raises(SyncOnLoopError, match="abatch"):
        store.get(NS, "b")


async def test_a_store_that_is_not_open_says_so(open_store) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await open_store().aget(NS, "a")


# --- what is trusted


async def test_foreign_bytes_construct_nothing_and_stop_no_search(
    store: JetStreamStore, js: JetStream, subjects: MemorySubjects, caplog: pytest.LogCaptureFixture
) -> None:
    await store.aput(NS, "good", {"n": 1})
    await store.aput(NS, "moved", {"n": 2})
    good = await js.last_message(
        Names(subjects.prefix.partition(".")[0]).checkpoints, subjects.item(NS, "good")
    )
    assert good is not None
    constructor = msgspec.msgpack.encode(msgspec.msgpack.Ext(1, b"\x93\xa2os\xa6system\x91\xa4true"))
    for number, payload in enumerate([b"", b"\x07x", b"\x80\x04.", pack(constructor), good.data]):
        await js.append(subjects.item(NS, f"bad{number}"), payload)
        with pytest.raises(MemoryUnreadableError, match="cannot be read"):
            await store.aget(NS, f"bad{number}")
    await js.append(f"{subjects.prefix}.i.=A.x", b"no token")
    with caplog.at_level(logging.WARNING):
        assert sorted(keys(await store.asearch(()))) == ["good", "moved"]
        assert await store.alist_namespaces() == [NS]
    assert "left out" in caplog.text
    await store.aput(NS, "bad0", {"n": 3})
    await store.adelete(NS, "bad1")
    assert len(await store.asearch(NS)) == 3


async def test_a_lost_piece_is_named(
    store: JetStreamStore, js: JetStream, subjects: MemorySubjects, deployment: str
) -> None:
    await store.aput(NS, "a", {"data": "x" * 600_000})
    stream = Names(deployment).checkpoints
    await js.call(f"STREAM.PURGE.{stream}", {"filter": subjects.all_pieces})
    with pytest.raises(MemoryUnreadableError, match="missing"):
        await store.aget(NS, "a")
    assert await store.asearch(NS) == []


async def test_checkpoints_and_memory_do_not_see_each_other(
    store: JetStreamStore, nats_url: str, deployment: str
) -> None:
    await store.aput(("c", "x"), "y", {"n": 1})
    async with JetStreamSaver(settings=settings(nats_url, deployment)) as saver:
        for thread_id in ("~store", "_store", "store"):
            await saver.adelete_thread(thread_id)
        assert [each async for each in saver.alist(None)] == []
        await saver.adelete_for_runs(["r"])
    assert await store.aget(("c", "x"), "y") is not None


# --- servers


async def test_memory_outlives_a_crash_of_the_server(nats_server: NatsServer, store: JetStreamStore) -> None:
    await store.aput(NS, "a", {"data": "x" * 600_000})
    restart = asyncio.create_task(asyncio.to_thread(nats_server.restart))
    puts = [asyncio.create_task(store.aput(NS, f"k{number}", {"n": number})) for number in range(20)]
    await restart
    await asyncio.gather(*puts)
    item = await store.aget(NS, "a")
    assert item is not None
    assert len(item.value["data"]) == 600_000
    assert len(await store.asearch(NS, limit=100)) == 21


class Lossy(JetStream):
    """The answer to an append is lost after the server has stored it."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.lost: list[str] = []

    async def append(self, subject: str, payload: bytes, **options: Any) -> PubAck:
        ack = await super().append(subject, payload, **options)
        self.lost.append(subject)
        raise ConnectionLostError(f"the answer was lost: {ack}")


async def test_a_put_whose_answer_was_lost_is_stored_once(
    connection: Connection, deployment: str, store
) -> None:
    lossy = Lossy(connection)
    other = JetStreamStore.on(lossy, Names(deployment))
    seqs = []
    for number in (1, 2):
        await other.aput(NS, "a", {"n": number})
        last = await lossy.last_message(Names(deployment).checkpoints, lossy.lost[-1])
        assert last is not None
        seqs.append(last.seq)
        item = await store.aget(NS, "a")
        assert item is not None
        assert item.value == {"n": number}
    assert seqs == [1, 2]


# --- through a runner


class Question(TypedDict, total=False):
    user: str
    note: str
    known: list[str]


async def remember(state: Question, runtime: Runtime) -> Question:
    assert runtime.store is not None
    await runtime.store.aput(("notes", state["user"]), state["note"], {"note": state["note"]})
    return {}


def recall(state: Question) -> Question:
    found = get_store().search(("notes", state["user"]))
    return {"known": sorted(item.value["note"] for item in found)}


def notebook() -> StateGraph:
    graph = StateGraph(Question)
    graph.add_node("remember", remember)
    graph.add_node("recall", recall)
    graph.add_edge(START, "remember")
    graph.add_edge("remember", "recall")
    graph.add_edge("recall", END)
    return graph


def outer() -> StateGraph:
    graph = StateGraph(Question)
    graph.add_node("inner", notebook().compile())
    graph.add_edge(START, "inner")
    graph.add_edge("inner", END)
    return graph


async def test_graphs_of_a_runner_remember_across_threads(
    cas: Client, make_runner, store: JetStreamStore
) -> None:
    runner = make_runner()
    own = InMemoryStore()
    runner.register("notebook", notebook().compile())
    runner.register("outer", outer())
    runner.register("own", notebook().compile(store=own))
    runner.register("factory", lambda runtime: notebook().compile(store=runtime.store))
    async with running(cas, runner):
        for agent, note in (("notebook", "one"), ("outer", "two"), ("factory", "three"), ("own", "mine")):
            result = await cas.execute_task(agent, {"user": "u1", "note": note})
            assert note in result.output["known"]
        assert result.output["known"] == ["mine"]
    assert keys(await own.asearch(("notes", "u1"))) == ["mine"]
    assert keys(await store.asearch(("notes", "u1"))) == ["three", "two", "one"]
