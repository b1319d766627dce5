"""Commands as bytes: what is accepted, what is refused and with which words."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from cas_events.domain.commands import Cancel
from cas_events.errors import InvalidCommandError, NotJsonError
from cas_events.wire.claims import claim_for, is_claim
from cas_events.wire.commands import decode_cancel, decode_execute, encode_execute, not_before_text

LIMIT = 256 * 1024


def test_every_field_is_optional_and_unknown_ones_are_ignored() -> None:
    execute = decode_execute(b'{"future": [1, 2]}')

    assert (execute.input, execute.metadata, execute.timeout_s, execute.max_attempts) == ({}, {}, None, None)


def test_all_fields_are_read() -> None:
    execute = decode_execute(
        b'{"input":{"q":1},"metadata":{"m":true},"timeout_s":2,"max_attempts":4,"parent_id":"p-1",'
        b'"not_before":"2026-11-22T09:00:00Z"}'
    )

    assert execute.input == {"q": 1}
    assert execute.timeout_s == 2.0
    assert (execute.max_attempts, execute.parent_id) == (4, "p-1")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", ""),
        (b"not json", ""),
        (b"\xff\xfe", ""),
        (b"[]", ""),
        (b'"text"', ""),
        (b"null", ""),
        (b'{"input":[]}', "input"),
        (b'{"input":null}', "input"),
        (b'{"metadata":"x"}', "metadata"),
        (b'{"timeout_s":"5"}', "timeout_s"),
        (b'{"timeout_s":0}', "timeout_s"),
        (b'{"timeout_s":-1}', "timeout_s"),
        (b'{"timeout_s":true}', "timeout_s"),
        (b'{"max_attempts":0}', "max_attempts"),
        (b'{"max_attempts":1.5}', "max_attempts"),
        (b'{"parent_id":"a b"}', "parent_id"),
        (b'{"parent_id":"a\\n"}', "parent_id"),
        (b'{"not_before":"tomorrow"}', "not_before"),
        (b'{"not_before":"2026-11-22T09:00:00"}', "not_before"),
        (b'{"input":{"x":NaN}}', ""),
        (b'{"input":{"x":Infinity}}', ""),
        (b'{"input":{"x":1e999}}', ""),
        (b'{"input":' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}", ""),
        (b"[" * 100_000, ""),
        (b'{"a":' * 100_000, ""),
        (b'{"input":{"$ref":"x","bytes":1,"sha256":"y"}}', "input"),
    ],
)
def test_bad_bodies_are_refused_with_the_place(body: bytes, field: str) -> None:
    with pytest.raises(InvalidCommandError) as caught:
        decode_execute(body)

    assert caught.value.field == field
    assert caught.value.reason in {"bad_body", "bad_claim_check"}
    assert len(str(caught.value)) < 1_000


def test_a_depth_within_the_limit_is_fine() -> None:
    body = b'{"input":' + b'{"a":' * 126 + b"1" + b"}" * 126 + b"}"

    decode_execute(body)


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"[]", b"null", b'{"reason":5}', b"[" * 100_000, b'{"requested_by":[]}']
)
def test_a_cancel_is_a_cancel_whatever_its_body(body: bytes) -> None:
    assert decode_cancel(body) == Cancel()


def test_a_cancel_has_a_reason() -> None:
    assert decode_cancel(b'{"reason":"why","requested_by":"me"}') == Cancel(reason="why", requested_by="me")


def test_a_large_input_becomes_a_claim_check() -> None:
    data, blobs = encode_execute({"input": {"text": "x" * LIMIT}, "metadata": {"a": 1}}, claim_bytes=LIMIT)

    execute = decode_execute(data)

    assert is_claim(execute.input)
    assert execute.input == claim_for(blobs[0])
    assert json.loads(blobs[0]) == {"text": "x" * LIMIT}
    assert execute.metadata == {"a": 1}


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"items": [1, {"when": object()}]}, "input.items[1].when"),
        ({"x": float("nan")}, "input.x"),
        ({"x": [float("-inf")]}, "input.x[0]"),
        ({"x": "\ud800"}, "input.x"),
        ({"x": {(1, 2): 3}}, "input.x"),
    ],
)
def test_what_has_no_json_form_is_named_by_its_path(value: dict, path: str) -> None:
    with pytest.raises(NotJsonError) as caught:
        encode_execute({"input": value}, claim_bytes=LIMIT)

    assert caught.value.path == path
    assert path in str(caught.value)


def test_null_and_none_are_json() -> None:
    data, _ = encode_execute({"input": {"x": None, "y": [None]}}, claim_bytes=LIMIT)

    assert decode_execute(data).input == {"x": None, "y": [None]}


def test_a_cycle_is_not_json() -> None:
    cycle: dict = {}
    cycle["self"] = cycle

    with pytest.raises(NotJsonError):
        encode_execute({"input": cycle}, claim_bytes=LIMIT)


NOW_NS = 1_795_338_000_000_000_000  # 2026-11-22T09:00:00Z


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "2026-11-22T09:00:00.000000Z"),
        (90.5, "2026-11-22T09:01:30.500000Z"),
        ("2026-11-22T10:00:00+01:00", "2026-11-22T10:00:00+01:00"),
        (datetime(2026, 11, 22, 9, tzinfo=UTC), "2026-11-22T09:00:00+00:00"),
        (datetime(1999, 1, 1, tzinfo=UTC), "1999-01-01T00:00:00+00:00"),
    ],
)
def test_a_start_may_be_a_time_or_a_delay(value: object, text: str) -> None:
    assert not_before_text(value, now_ns=NOW_NS) == text
    decode_execute(json.dumps({"not_before": text}).encode())


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -0.001,
        float("nan"),
        float("inf"),
        10**400,
        1e12,
        True,
        b"now",
        [],
        "tomorrow",
        "",
        datetime(2026, 1, 1),  # noqa: DTZ001 - that is the fault
    ],
)
def test_a_start_that_is_none_names_the_field(value: object) -> None:
    with pytest.raises(InvalidCommandError, match=r"^not_before ") as caught:
        not_before_text(value, now_ns=NOW_NS)

    assert caught.value.field == "not_before"
