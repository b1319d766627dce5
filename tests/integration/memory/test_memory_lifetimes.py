"""How long items of long-term memory live, and who deletes them.

Goal: the promises of docs/memory.md. Method: a real server; where a case is one of LangGraph's, the same operations
are also given to its in-memory store.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from langgraph.store.base import (
    TTLConfig,
)

from cas_events import JetStreamStore
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.memory import sweeping
from cas_events.wire.memory import MemorySubjects, decode_item
from cas_events.wire.subjects import Names
from tests.harness.memory import NS, keys, stored
from tests.harness.wait import until_async

FOREVER_MIN = 1000.0
NO_TIME_MIN = 1e-9


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
