"""SQL that is refused, each with its reason, by a real projector process that answers the next question all the same."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import pytest

from benchmarks.replay import synthetic
from cas_events.errors import ProjectionError, QueryError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.topology import ensure_streams
from cas_events.sql_client import query, query_arrow
from cas_events.wire.subjects import Names
from tests.harness.processes import START_S, Process
from tests.harness.server import NatsServer
from tests.harness.wait import until_async
from tests.integration.test_sql_service import refused

REFUSED = [
    ("", "bad_request"),
    ("SELEC 1", "syntax"),
    ("SELECT 1; SELECT 2", "syntax"),
    ("CREATE TABLE x (a INTEGER)", "not_read_only"),
    ("DROP TABLE cas_tasks", "not_read_only"),
    ("DELETE FROM cas_tasks", "not_read_only"),
    ("WITH x AS (INSERT INTO cas_projection VALUES ('x', 1, 1) RETURNING 1) FROM x", "not_read_only"),
    ("SET threads = 4", "not_read_only"),
    ("PRAGMA database_size", "not_read_only"),
    ("INSTALL httpfs", "not_read_only"),
    ("ATTACH ':memory:' AS x", "not_read_only"),
    ("COPY cas_tasks TO '/tmp/x.csv'", "not_read_only"),
    ("BEGIN", "not_read_only"),
    ("CALL force_checkpoint()", "not_read_only"),
    ("EXPLAIN SELECT 1", "not_read_only"),
    ("FROM force_checkpoint()", "forbidden"),
    ("FROM enable_logging('QueryLog')", "forbidden"),
    ("SELECT (SELECT count(*) FROM checkpoint())", "forbidden"),
    ("FROM query('SELECT 1')", "forbidden"),
    ("FROM read_csv('/etc/passwd')", "forbidden"),
    ("FROM glob('/*')", "forbidden"),
    ("FROM '/etc/passwd.csv'", "forbidden"),
    ("FROM 'https://example.com/x.parquet'", "forbidden"),
    ("SELECT write_log('x')", "forbidden"),
    ("SELECT sleep_ms(10)", "forbidden"),
    ("EXPLAIN ANALYZE SELECT 1", "not_read_only"),
    ("VACUUM", "not_read_only"),
    ("LOAD httpfs", "not_read_only"),
    ("RESET memory_limit", "not_read_only"),
    ("USE memory", "not_read_only"),
    ("PREPARE x AS SELECT 1", "not_read_only"),
    ("EXPORT DATABASE '/tmp/x'", "not_read_only"),
    ("SELECT 1; COPY cas_tasks TO '/tmp/x.csv'", "syntax"),
    ("FROM parquet_scan('/tmp/x.parquet')", "forbidden"),
    ("FROM read_text('/etc/passwd')", "forbidden"),
    ("FROM read_blob('/proc/self/environ')", "forbidden"),
    ("FROM duckdb_secrets()", "forbidden"),
    ("FROM duckdb_settings()", "forbidden"),
    ("FROM query_table('cas_tasks')", "forbidden"),
    ("SELECT getenv('HOME')", "forbidden"),
    ("SELECT (FROM (SELECT count(*) FROM read_csv('/etc/passwd')))", "forbidden"),
    ("WITH x AS (FROM read_text('/etc/passwd')) FROM x", "forbidden"),
    ("SELECT nope FROM cas_tasks", "failed"),
    ("FROM nope", "failed"),
    ("SELECT $1", "failed"),
    ("SELECT 'x'::INTEGER", "failed"),
    ("FROM range(100001)", "too_many_rows"),
]


@dataclass(frozen=True)
class Tables:
    """What a projector of its own process answers from.

    Attributes:
        deployment: whose tables.
        last_seq: of the 100 events that they hold.
    """

    deployment: str
    last_seq: int


@pytest.fixture(scope="module")
def tables(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tables]:
    """For questions that change nothing: one projector for all of them."""
    url, deployment = nats_server.url, f"t{uuid.uuid4().hex[:12]}"
    home = str(tmp_path_factory.mktemp("tables"))
    projector = Process(["-m", "projections"], CAS_NATS_URL=url, CAS_DEPLOYMENT=deployment, CAS_HOME=home)

    async def fill() -> int:
        async with await Connection.open(url, name="fill") as connection:
            js = JetStream(connection)
            await ensure_streams(js, deployment)
            for subject, payload in islice(synthetic(Names(deployment)), 100):
                ack = await js.append(subject, payload)

            async def answers() -> bool:
                try:
                    await query(connection, deployment, "SELECT 1", wait_for=ack.seq)
                except ProjectionError:
                    return False
                return True

            await until_async(answers, timeout_s=START_S, what="the projector answers")
            return ack.seq

    try:
        yield Tables(deployment, asyncio.run(fill()))
    finally:
        projector.end()


@pytest.mark.parametrize(("sql", "reason"), [case for case in REFUSED if case[1] != "bad_request"])
async def test_what_is_refused_is_refused_as_arrow(
    tables: Tables, connection: Connection, sql: str, reason: str
) -> None:
    with pytest.raises(QueryError) as caught:
        await query_arrow(connection, tables.deployment, sql)
    assert caught.value.reason == reason, caught.value


@pytest.mark.parametrize(("sql", "reason"), REFUSED)
async def test_refused_and_the_next_query_runs(
    tables: Tables, connection: Connection, sql: str, reason: str
) -> None:
    await refused(tables.last_seq, tables.deployment, connection, sql, reason)
