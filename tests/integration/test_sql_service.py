"""SQL over NATS and from the file: answers, paging, limits, on a real server. What is refused: `test_sql_refusals`. The processes that answer: `test_sql_readers`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import nanoarrow as na
import pytest

from benchmarks.replay import synthetic
from cas_events.errors import ProjectionError, QueryError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.topology import ensure_streams
from cas_events.sql_client import query, query_arrow
from cas_events.wire.subjects import Names
from projections.projector import Projector
from projections.queries import Limits, Queries, query_file
from projections.service import SqlService


@pytest.fixture(params=[60.0])
async def served(
    deployment: str, connection: Connection, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[int]:
    """A projector with its service in this process, and 100 events; gives the last sequence.

    The parameter is how long a query may take, in seconds.
    """
    names = Names(deployment)
    js = JetStream(connection)
    await ensure_streams(js, deployment)
    projector = await Projector.open(connection, names, tmp_path / "cas.duckdb")
    queries = Queries(
        projector.fold.reader,
        events_stream=names.events,
        limits=Limits(time_s=request.param),
        quietly=projector.quietly,
        version=lambda: projector.fold.positions,
    )
    projector.before_checkpoints(queries.pause)
    service = SqlService(connection, names, projector, queries)
    running = asyncio.create_task(projector.run())
    await service.start()
    events = synthetic(names)
    for _ in range(100):
        ack = await js.append(*next(events))
    yield ack.seq
    await service.stop()
    queries.close()
    projector.stop()
    await running
    await projector.close()


async def test_read_your_writes(served: int, deployment: str, connection: Connection) -> None:
    js = JetStream(connection)
    names = Names(deployment)
    for n in range(20):
        ack = await js.append(names.agent_event("analyst"), b"not an event %d" % n)
        result = await query(
            connection, deployment, "SELECT count(*) FROM cas_dead_letters", wait_for=ack.seq
        )
        assert result.rows == [(n + 1,)]
        assert result.as_of >= ack.seq > served


async def test_values_and_types(served: int, deployment: str, connection: Connection) -> None:
    result = await query(
        connection,
        deployment,
        """SELECT 1 AS a, 1.5 AS b, 12345678901234567.25 AS c, 'x'::BLOB AS d, 'nan'::DOUBLE AS e, NULL AS f,
            TIMESTAMP '2026-11-22 09:00:00.5' AS g, TIMESTAMPTZ '2026-11-22 10:00:00+01' AS h, DATE '2026-11-22' AS i,
            '{"k":[1,2.50]}'::JSON AS j, 170141183460469231731687303715884105727::HUGEINT AS k, sum(2)::HUGEINT AS l,
            INTERVAL 90 SECOND AS m, {'x': 1} AS n, [1, 2] AS o, $p AS p""",
        {"p": "q"},
        wait_for=served,
    )
    assert result.rows == [(
        1, 1.5, "12345678901234567.25", "eA==", None, None, "2026-11-22T09:00:00.500000Z", "2026-11-22T09:00:00Z",
        "2026-11-22", {"k": [1, 2.5]}, "170141183460469231731687303715884105727", 2, "0:01:30", {"x": 1}, [1, 2], "q",
    )]  # fmt: skip
    assert result.types[:4] == ["INTEGER", "DECIMAL(2,1)", "DECIMAL(19,2)", "BLOB"]
    assert result.columns == list("abcdefghijklmnop")


async def test_long_answer_comes_in_parts(served: int, deployment: str, connection: Connection) -> None:
    sql = "SELECT i, repeat('x', 100) AS text FROM range(60000) t(i) ORDER BY i"
    first = await connection.request(
        Names(deployment).sql_service, json.dumps({"sql": sql}).encode(), timeout_s=10
    )
    assert len(json.loads(first.data)["more"]) == 32
    assert len(first.data) <= connection.max_payload_bytes
    result = await query(connection, deployment, sql)
    assert [row[0] for row in result.rows] == list(range(60_000))
    assert result.rows[-1][1] == "x" * 100
    with pytest.raises(QueryError) as caught:
        await query(connection, deployment, "SELECT repeat('x', 2000000)")
    assert caught.value.reason == "row_too_large"


async def test_part_is_given_once(served: int, deployment: str, connection: Connection) -> None:
    subject = Names(deployment).sql_service
    sql = {"sql": "SELECT repeat('x', 1000) FROM range(5000)"}
    first = json.loads((await connection.request(subject, json.dumps(sql).encode(), timeout_s=10)).data)
    more = json.dumps({"more": first["more"]}).encode()
    assert json.loads((await connection.request(subject, more)).data)["rows"]
    answer = json.loads((await connection.request(subject, more)).data)
    assert answer["error"]["reason"] == "expired"


ENDLESS = "SELECT count(*) FROM range(100000000000)"
TOO_LARGE = "SELECT list(i::VARCHAR || repeat('x', 2000000)) FROM range(2500) t(i)"


async def test_a_query_that_needs_too_much_memory_is_refused(
    served: int, deployment: str, connection: Connection
) -> None:
    await refused(served, deployment, connection, TOO_LARGE, "memory")


async def test_an_answer_that_is_too_large_is_refused(
    served: int, deployment: str, connection: Connection
) -> None:
    for ask in (query, query_arrow):
        with pytest.raises(QueryError) as caught:
            await ask(connection, deployment, "SELECT repeat('x', 100000) FROM range(1000)")
        assert caught.value.reason == "too_many_rows"


async def test_arrow_in_parts(served: int, deployment: str, connection: Connection) -> None:
    sql = "SELECT i, repeat('x', 100) AS text, '{\"a\": 1.50}'::JSON AS j FROM range(60000) t(i) ORDER BY i"
    result = await query_arrow(connection, deployment, sql, wait_for=served)
    assert len(result.data) > 5 * connection.max_payload_bytes
    table = na.ArrayStream.from_readable(result.data).read_all()
    assert len(table) == 60_000
    first = next(iter(table.iter_py()))
    assert first == {"i": 0, "text": "x" * 100, "j": '{"a": 1.50}'}
    assert result.as_of >= served
    empty = await query_arrow(connection, deployment, "SELECT task_id FROM cas_tasks WHERE false")
    assert len(na.ArrayStream.from_readable(empty.data).read_all()) == 0
    wide = await query_arrow(connection, deployment, "SELECT repeat('x', 2000000) AS x")
    assert len(wide.data) > 2_000_000


@pytest.mark.parametrize("served", [2.0], indirect=True)
async def test_a_question_that_takes_too_long_is_refused(
    served: int, deployment: str, connection: Connection
) -> None:
    with pytest.raises(QueryError) as caught:
        await query_arrow(connection, deployment, ENDLESS)
    assert caught.value.reason == "timeout", caught.value
    await refused(served, deployment, connection, ENDLESS, "timeout")


async def test_parts_are_kept_for_a_while(
    served: int, deployment: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.service.PARTS_KEPT_S", 0.0)
    with pytest.raises(QueryError) as caught:
        await query(connection, deployment, "SELECT repeat('x', 1000) FROM range(5000)")
    assert caught.value.reason == "expired"


async def test_readers_answer_beside_one_that_is_busy(
    served: int, deployment: str, connection: Connection
) -> None:
    slow = asyncio.create_task(query(connection, deployment, ENDLESS))
    for _ in range(3):
        await query(connection, deployment, "SELECT 1")
    assert not slow.done()
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow


async def refused(served: int, deployment: str, connection: Connection, sql: str, reason: str) -> None:
    with pytest.raises(QueryError) as caught:
        await query(connection, deployment, sql)
    assert caught.value.reason == reason, caught.value
    assert "\n" not in str(caught.value)
    result = await query(connection, deployment, "SELECT count(*) FROM cas_agent_events", wait_for=served)
    assert result.rows == [(100,)]


async def test_limit_cuts_without_error(served: int, deployment: str, connection: Connection) -> None:
    result = await query(connection, deployment, "FROM range(1000000000)", limit=3)
    assert result.rows == [(0,), (1,), (2,)]
    with pytest.raises(QueryError) as caught:
        await query(connection, deployment, "SELECT 1", limit=-1)
    assert caught.value.reason == "bad_request"


async def test_many_at_once(served: int, deployment: str, connection: Connection) -> None:
    asked = [query(connection, deployment, "SELECT ?::INTEGER", [n]) for n in range(40)]
    assert [result.rows[0][0] for result in await asyncio.gather(*asked)] == list(range(40))


async def test_found_by_micro_tools(served: int, deployment: str, connection: Connection) -> None:
    info = json.loads((await connection.request("$SRV.INFO.cas-sql")).data)
    assert info["endpoints"][0]["subject"] == f"{deployment}.svc.sql"
    assert info["type"] == "io.nats.micro.v1.info_response"
    assert json.loads((await connection.request("$SRV.PING")).data)["id"] == info["id"]
    await query(connection, deployment, "SELECT 1")
    stats = json.loads((await connection.request(f"$SRV.STATS.cas-sql.{info['id']}")).data)
    assert stats["endpoints"][0]["num_requests"] == 1


async def test_no_projector_is_one_clear_error(deployment: str, connection: Connection) -> None:
    with pytest.raises(ProjectionError, match=f"no projector of {deployment} is running"):
        await query(connection, deployment, "SELECT 1")


async def test_file_that_is_missing_or_no_database(tmp_path: Path) -> None:
    with pytest.raises(ProjectionError, match="does not exist; start a projector"):
        await query_file(tmp_path / "none.duckdb", "SELECT 1")
    (tmp_path / "bad.duckdb").write_bytes(b"x" * 10_000)
    with pytest.raises(ProjectionError, match="cannot be opened"):
        await query_file(tmp_path / "bad.duckdb", "SELECT 1")
