"""Items of long-term memory: what is put is read, whatever its name and size, by batches and from threads.

Goal: the promises of docs/memory.md. Method: a real server; where a case is one of LangGraph's, the same operations
are also given to its in-memory store.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    PutOp,
    SearchOp,
)

from cas_events import JetStreamStore
from cas_events.errors import (
    MemoryNameError,
    MemoryValueError,
    SyncOnLoopError,
)
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.checkpoints.stream import CheckpointStream
from cas_events.jetstream.memory.reading import ItemReader
from cas_events.wire.memory import MemorySubjects
from cas_events.wire.subjects import Names
from tests.harness.memory import NS, keys, stored

FOREVER_MIN = 1000.0


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
