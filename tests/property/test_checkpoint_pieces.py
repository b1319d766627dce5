"""Values to pieces and back, for every list, every size and every hostile byte string.

Goal: what is stored is read again, equal; what an append leaves as it is, is stored once; nothing read is trusted.
Method: Hypothesis over the pure functions, with a dictionary in place of the stream.
"""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_events.errors import WireError
from cas_events.wire import checkpoints, pieces
from cas_events.wire.threads import ThreadSubjects, text_of, thread_of, token_of

typed = st.tuples(st.sampled_from(["msgpack", "bytes", "null"]), st.binary(max_size=700))
texts = st.one_of(st.text(max_size=40), st.text(min_size=90, max_size=200))


def read_back(value: pieces.Value, stored: pieces.Pieces) -> list[pieces.Typed]:
    unfolded = pieces.unfold(value, stored)
    entries = unfolded.entries if isinstance(unfolded, pieces.Items) else [unfolded]
    return [pieces.decode_entry(entry, stored) for entry in entries]  # type: ignore[arg-type]


@given(st.lists(typed, max_size=120))
def test_a_list_is_read_as_it_was_stored(items) -> None:
    stored: pieces.Pieces = {}
    assert read_back(pieces.encode_items(items, stored), stored) == items


@given(st.lists(typed, min_size=1, max_size=300))
def test_an_append_stores_the_new_item_and_one_page_at_most(items) -> None:
    before: pieces.Pieces = {}
    pieces.encode_items(items[:-1], before)
    after: pieces.Pieces = {}
    pieces.encode_items(items, after)
    assert len(after.keys() - before.keys()) <= 2


@pytest.mark.parametrize("size", [0, 1, 1024, 1025, pieces.PIECE_BYTES, pieces.PIECE_BYTES + 1, 3_000_000])
def test_a_value_of_any_size_is_read_as_it_was_stored(size: int) -> None:
    stored: pieces.Pieces = {}
    data = bytes(number * number % 251 for number in range(size))
    value = pieces.encode_value(("bytes", data), stored)
    assert read_back(value, stored) == [("bytes", data)]
    assert all(len(part) <= pieces.PIECE_BYTES for part in stored.values())
    assert {digest for digest, _ in pieces.wanted(value)} == set(stored)


@given(st.binary(max_size=5000))
def test_a_payload_unpacks_to_its_body(body: bytes) -> None:
    assert pieces.unpack(pieces.pack(body)) == body


def test_a_body_too_large_for_a_message_is_moved_to_pieces() -> None:
    stored: pieces.Pieces = {}
    body = bytes(range(256)) * 8000
    payload = pieces.pack_or_move(body, stored)
    whole = pieces.moved(payload)
    assert len(payload) < 200
    assert whole is not None
    assert pieces.join_pieces(whole, stored) == body


@given(st.binary(max_size=200))
def test_hostile_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    for read in (pieces.unpack, checkpoints.decode_record, checkpoints.decode_writes, pieces.moved):
        try:
            read(data)
        except WireError:
            continue
    checkpoints.decode_fence(data)


def test_a_bomb_does_not_unpack() -> None:
    bomb = b"\x01" + zlib.compress(bytes(200 * 1024 * 1024), 9)
    with pytest.raises(WireError, match="more than"):
        pieces.unpack(bomb)


def test_a_piece_with_other_bytes_than_its_name_is_refused() -> None:
    digest = pieces.hash_of(b"right")
    assert pieces.unpack_piece(digest, pieces.pack(b"right")) == b"right"
    with pytest.raises(WireError, match="other bytes"):
        pieces.unpack_piece(digest, pieces.pack(b"wrong"))


def test_a_missing_piece_is_named() -> None:
    value = pieces.encode_value(("bytes", bytes(2000)), {})
    with pytest.raises(WireError, match="missing"):
        pieces.decode_entry(value, {})


@given(texts, texts)
def test_different_texts_have_different_tokens(one: str, other: str) -> None:
    assert (token_of(one) == token_of(other)) == (one == other)


@given(texts)
def test_a_token_may_stand_in_a_subject_and_is_read_again(text: str) -> None:
    token = token_of(text)
    assert token.isascii()
    assert token.isprintable()
    assert token
    assert not set(token) & set(".*> ")
    assert len(token) <= 128
    assert text_of(token) == (None if token.startswith("==") else text)


@given(texts, texts, texts)
def test_a_subject_leads_to_its_thread_and_to_the_writes_of_its_record(
    thread: str, ns: str, checkpoint: str
) -> None:
    subjects = ThreadSubjects("cas.ckpt." + token_of(thread))
    record = subjects.record(ns, checkpoint)
    assert thread_of(record) == subjects
    assert subjects.writes_of(record) == subjects.writes(ns, checkpoint)
    assert subjects.write(ns, checkpoint, "task", "r0").startswith(
        subjects.writes_of(record).removesuffix(">")
    )


def test_what_is_nested_too_deep_is_refused_like_any_foreign_bytes() -> None:
    deep = b"\x91" * 100_000 + b"\xc0"
    for decode in (checkpoints.decode_record, checkpoints.decode_writes):
        with pytest.raises(WireError, match="recursion"):
            decode(b"\x81\xa1a" + deep)
    for whole in (b"\x02" + b"\x95\x01\xa0\x01\xc4\x00" + deep, b"\x02" + deep):
        with pytest.raises(WireError):
            pieces.moved(whole)
    fence = checkpoints.decode_fence(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    assert fence == checkpoints.Fence(writer="unknown")
