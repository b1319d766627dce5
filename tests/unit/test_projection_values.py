"""The pure parts of the projector: what is admitted, what waits, how an answer becomes JSON, which SQL may run."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from cas_events.errors import QueryError
from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.rows import QueryResult, decode_rows, encode_rows
from projections import admission, handover
from projections.handover import Handover
from projections.past import in_the_past
from projections.statements import script, statements
from projections.store import StatementCheck
from tests.harness.patience import promised


def _message(seq: int, data: bytes = b"{}", subject: str = "cas.evt.log.a.t") -> StoredMessage:
    return StoredMessage("CAS_EVENTS", seq, subject, 0, data)


# --- admission -----------------------------------------------------------------------------------------------------

GOOD = [
    b"{}",
    b'{"a":[1,2.5e3,true,null,"x"]}',
    b' {"a":1} \n',
    '{"ä":"€"}'.encode(),
    b'{"a":1e999}',
    b'{"a":"\\u0000"}',
]
BAD = [
    b"",
    b"[]",
    b"1",
    b"{",
    b'{"a":NaN}',
    b'{"a":1,}',
    b"{'a':1}",
    b'{"a":"\xff"}',
    b'{"a":01}',
    b"{}x",
    b'{"a":-Infinity}',
]


def _deep(depth: int) -> bytes:
    return b'{"a":' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize("payload", GOOD)
def test_strict_json_objects_are_admitted(payload: bytes) -> None:
    assert admission.problem_of(payload) == ""
    assert admission.all_admissible([b"{}", payload], b"{}" + payload)


@pytest.mark.parametrize("payload", BAD)
def test_anything_else_is_not(payload: bytes) -> None:
    assert admission.problem_of(payload)
    assert not admission.all_admissible([b"{}", payload], b"{}" + payload)


def test_depth_is_exact_and_brackets_in_strings_do_not_count() -> None:
    limit = admission.DEPTH_MAX
    assert admission.problem_of(_deep(limit - 1)) == ""
    assert admission.problem_of(_deep(limit)) == f"nested deeper than {limit} levels"
    assert admission.problem_of(_deep(100_000)) == f"nested deeper than {limit} levels"
    assert admission.problem_of(b'{"a":"' + b'[{\\"' * 2000 + b'"}') == ""
    assert not admission.all_admissible([_deep(limit)], _deep(limit))


@pytest.mark.parametrize(
    ("subject", "plain"),
    [("cas.evt.log.A-_9.t", True), ("cas.evt.log.é", False), ("a b", False), ("a\ud800", False)],
)
def test_plain_subjects(subject: str, plain: bool) -> None:
    assert admission.has_plain_subject(_message(1, subject=subject)) is plain


# --- hand-over -----------------------------------------------------------------------------------------------------


async def test_take_brings_what_is_there_in_order() -> None:
    waiting = Handover()
    taken = asyncio.create_task(waiting.take())
    await waiting.put("A", [], 0)
    await waiting.put("A", [_message(1), _message(2)], 0)
    await waiting.put("B", [_message(1)], 0)
    await waiting.put("A", [_message(3)], 0)
    batch = await asyncio.wait_for(taken, promised(1.0))
    assert [message.seq for message in batch["A"]] == [1, 2, 3]
    assert [message.seq for message in batch["B"]] == [1]


async def test_take_waits_for_a_worthwhile_batch_but_not_for_ever() -> None:
    waiting = Handover()
    await waiting.put("A", [_message(1)], handover.WORTHWHILE)
    began = asyncio.get_running_loop().time()
    batch = await asyncio.wait_for(waiting.take(), promised(5.0))
    assert asyncio.get_running_loop().time() - began >= handover.PATIENCE_S * 0.9
    assert len(batch["A"]) == 1


async def test_put_waits_for_room() -> None:
    waiting = Handover()
    await waiting.put("A", [_message(n) for n in range(handover.BUFFER_MESSAGES)], 0)
    blocked = asyncio.create_task(waiting.put("A", [_message(-1)], 0))
    await asyncio.wait([blocked], timeout=0.05)
    assert not blocked.done()
    batch = await waiting.take()
    assert len(batch["A"]) == handover.BATCH_MAX
    await asyncio.wait_for(blocked, promised(1.0))
    rest = await waiting.take()
    assert len(rest["A"]) == handover.BUFFER_MESSAGES - handover.BATCH_MAX + 1


async def test_put_waits_for_bytes() -> None:
    waiting = Handover()
    await waiting.put("A", [_message(1, b"x" * handover.BUFFER_BYTES)], 0)
    blocked = asyncio.create_task(waiting.put("B", [_message(2)], 0))
    await asyncio.wait([blocked], timeout=0.05)
    assert not blocked.done()
    await waiting.take()
    await asyncio.wait_for(blocked, promised(1.0))


# --- results -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "type_", "expected"),
    [
        (True, "BOOLEAN", True),
        (2**64 - 1, "UBIGINT", 2**64 - 1),
        (2**64, "HUGEINT", str(2**64)),
        (float("nan"), "DOUBLE", None),
        (float("-inf"), "DOUBLE", None),
        (Decimal("1.50"), "DECIMAL(3,2)", 1.5),
        (Decimal("1234567890123456.5"), "DECIMAL(17,1)", "1234567890123456.5"),
        (datetime(2026, 11, 22, 9), "TIMESTAMP", "2026-11-22T09:00:00Z"),  # noqa: DTZ001  # As DuckDB gives it.
        (datetime(2026, 11, 22, 9, tzinfo=UTC), "TIMESTAMP", "2026-11-22T09:00:00Z"),
        (date(2026, 11, 22), "DATE", "2026-11-22"),
        (time(9, 30), "TIME", "09:30:00"),
        (timedelta(seconds=90), "INTERVAL", "0:01:30"),
        (b"\xff", "BLOB", "/w=="),
        (UUID(int=1), "UUID", "00000000-0000-0000-0000-000000000001"),
        ({1: [b"x"]}, "MAP(INTEGER, BLOB[])", {"1": ["eA=="]}),
        ('{"a":[1]}', "JSON", {"a": [1]}),
        ('{"a":123456789012345678901234567890}', "JSON", {"a": 123456789012345678901234567890}),
        ('{"a":1e999}', "JSON", {"a": float("inf")}),
        ("NaN", "JSON", "NaN"),
        (None, "JSON", None),
        ("null", "VARCHAR", "null"),
    ],
)
def test_value_survives_as_json(value: object, type_: str, expected: object) -> None:
    [encoded] = encode_rows([type_], [(value,)])
    assert decode_rows(b"[" + encoded + b"]") == [(expected,)]
    if type_ != "JSON":
        assert json.loads(encoded) == [expected]


def test_rows_as_dicts() -> None:
    result = QueryResult(["a", "b", "a"], ["INTEGER"] * 3, [(1, 2, 3)], 7)
    assert result.dicts() == [{"a": 3, "b": 2}]


# --- statements ----------------------------------------------------------------------------------------------------


def test_statement_check() -> None:
    check = StatementCheck()
    for sql in ("SELECT 1", "FROM cas_tasks", "WITH x AS (SELECT 1) FROM x;", "SHOW TABLES", "SUMMARIZE cas_tasks", "DESCRIBE cas_tasks",
                "SELECT * FROM cas_tasks_as_of(5)", "VALUES (1)", "SELECT 1 -- comment", "TABLE cas_tasks"):  # fmt: skip
        check.check(sql)
    for sql, reason in (
        ("", "syntax"), (";", "syntax"), ("SELECT 1; SELECT 2", "syntax"), ("SELECT (", "syntax"),
        ("SELECT " + "(" * 5000 + "1" + ")" * 5000, "syntax"),
        ("SELECT * FROM " + "(SELECT * FROM " * 2000 + "t" + ")" * 2000, "syntax"),
        ("WITH x AS (DELETE FROM y RETURNING 1) FROM x", "not_read_only"),
        ("WITH x AS (UPDATE y SET a = 1 RETURNING 1) FROM x", "not_read_only"),
        ("SELECT * FROM a, LATERAL (FROM checkpoint())", "forbidden"), ("SELECT Write_Log('x')", "forbidden"),
    ):  # fmt: skip
        with pytest.raises(QueryError) as caught:
            check.check(sql)
        assert caught.value.reason == reason, sql
    check.close()
    check.close()


def test_sql_files_have_their_statements() -> None:
    assert list(statements("commands"))[:2] == ["clear", "parse"]
    assert "CREATE TABLE IF NOT EXISTS cas_tasks" in script("schema")
    for name in ("commands", "events", "exact", "others"):
        assert all(statements(name).values())


@pytest.mark.parametrize(
    ("sql", "alone"),
    [
        ("SELECT 1; -- foo", "SELECT 1"),
        ("SELECT ';' ;;", "SELECT ';' "),
        ("SELECT 'é', $$;$$;", "SELECT 'é', $$;$$"),
        ("SELECT 1 -- b;", "SELECT 1 -- b;"),
    ],
)
def test_checked_statement_can_stand_within_another(sql: str, alone: str) -> None:
    check = StatementCheck()
    assert check.check(sql) == alone
    check.check(in_the_past(alone, 5))
    check.close()
