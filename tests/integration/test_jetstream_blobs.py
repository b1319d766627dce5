"""Claim checks: bytes that come back as they were put, or not at all; in the layout of NATS' own object stores."""

from __future__ import annotations

import asyncio
import hashlib
import os

import msgspec
import nats
import pytest

from cas_events.errors import BlobError, PayloadTooLargeError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.blobs import BlobStore
from cas_events.jetstream.messages import build_header
from cas_events.jetstream.topology import ensure_streams
from cas_events.wire.subjects import Names

NO_LIMIT = 1 << 30


@pytest.fixture
async def names(js: JetStream, deployment: str) -> Names:
    await ensure_streams(js, deployment)
    return Names(deployment)


@pytest.fixture
def blobs(js: JetStream, names: Names) -> BlobStore:
    return BlobStore(js, names.blob_bucket)


@pytest.mark.parametrize("size", [0, 1, 128 * 1024, 128 * 1024 + 1, 10 * 1024 * 1024 + 17])
async def test_bytes_come_back_as_they_were_put(blobs: BlobStore, size: int) -> None:
    data = os.urandom(size)
    name = await blobs.put(data)
    assert name == hashlib.sha256(data).hexdigest()
    assert await blobs.get(name, max_bytes=size) == data


async def test_putting_again_stores_nothing(js: JetStream, names: Names, blobs: BlobStore) -> None:
    data = os.urandom(300_000)
    await blobs.put(data)
    before = (await js.stream_info(names.blobs)).state
    await blobs.put(data)
    assert (await js.stream_info(names.blobs)).state == before


async def test_racing_puts_leave_one_object(js: JetStream, names: Names, blobs: BlobStore) -> None:
    data = os.urandom(300_000)
    assert len(set(await asyncio.gather(*(blobs.put(data) for _ in range(8))))) == 1
    state = (await js.stream_info(names.blobs)).state
    assert state.messages == 3 + 1, "three chunks and the object; the losers have taken theirs back"
    assert await blobs.get(hashlib.sha256(data).hexdigest(), max_bytes=NO_LIMIT) == data


async def test_what_is_too_large_is_not_fetched(blobs: BlobStore) -> None:
    name = await blobs.put(b"x" * 1000)
    with pytest.raises(PayloadTooLargeError):
        await blobs.get(name, max_bytes=999)


async def test_unknown_name_is_an_error(blobs: BlobStore) -> None:
    with pytest.raises(BlobError, match="not in object store"):
        await blobs.get("0" * 64, max_bytes=NO_LIMIT)


async def test_missing_and_forged_chunks_are_errors(js: JetStream, names: Names, blobs: BlobStore) -> None:
    name = await blobs.put(os.urandom(300_000))
    first = await js.next_message(names.blobs, f"$O.{names.blob_bucket}.C.*")
    assert first is not None
    await js.call(f"STREAM.MSG.DELETE.{names.blobs}", {"seq": first.seq})
    with pytest.raises(BlobError, match="missing"):
        await blobs.get(name, max_bytes=NO_LIMIT)
    await js.append(first.subject, b"forged")
    with pytest.raises(BlobError, match="digest"):
        await blobs.get(name, max_bytes=NO_LIMIT)


async def test_object_deleted_by_hand_can_be_put_again(js: JetStream, names: Names, blobs: BlobStore) -> None:
    name = await blobs.put(b"once")
    found = await js.next_message(names.blobs, f"$O.{names.blob_bucket}.M.*")
    assert found is not None
    marker = {**msgspec.json.decode(found.data), "deleted": True, "size": 0, "chunks": 0}
    await js.append(found.subject, msgspec.json.encode(marker), header=build_header({"Nats-Rollup": "sub"}))
    with pytest.raises(BlobError):
        await blobs.get(name, max_bytes=NO_LIMIT)
    assert await blobs.put(b"once") == name
    assert await blobs.get(name, max_bytes=NO_LIMIT) == b"once"


async def test_other_clients_read_it_as_an_object_store(
    nats_url: str, names: Names, blobs: BlobStore
) -> None:
    data = os.urandom(300_000)
    name = await blobs.put(data)
    client = await nats.connect(nats_url)
    try:
        store = await client.jetstream().object_store(names.blob_bucket)
        found = await store.get(name)
        assert found.data == data
        assert found.info.digest == (await store.get_info(name)).digest
        await store.put("theirs", b"made by nats-py")
    finally:
        await client.close()
