"""`cas snapshot` and `cas sql --format`, as an operator and an auditor use them (issue: SQL for everyone)."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import duckdb
import pytest

from benchmarks.replay import synthetic
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.topology import ensure_streams
from cas_events.wire.subjects import Names
from tests.harness.cas import UNSIGNED_PROJECTOR, Cas
from tests.harness.patience import promised

EVENTS = 400


@pytest.fixture
async def log(deployment: str, connection: Connection) -> int:
    """A log of so many events; the last sequence."""
    js, names = JetStream(connection), Names(deployment)
    await ensure_streams(js, deployment)
    events = synthetic(names)
    for _ in range(EVENTS):
        await js.append(*next(events))
    await js.append(names.execute("bench", "queued"), b'{"input": {"n": 1.5}}')
    return (await js.append(names.agent_event("analyst"), b"no event")).seq


@pytest.fixture
def cas(log: int, tmp_path: Path, nats_url: str, deployment: str) -> Iterator[Cas]:
    home = {"CAS_NATS_URL": nats_url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(tmp_path / "home")}
    command = Cas(home)
    with command.process(*UNSIGNED_PROJECTOR) as projector:
        projector.line_with("projector.ready")
        assert command("sql", "SELECT 1", "--wait-for", str(log)).code == 0
        yield command


def test_a_snapshot_opens_without_us(cas: Cas, log: int, tmp_path: Path) -> None:
    file, folder = tmp_path / "audit.duckdb", tmp_path / "audit"
    told = cas("snapshot", str(file), "--parquet", str(folder), "--json").json
    assert told["as_of"] == log
    assert told["rows"]["cas_agent_events"] == EVENTS
    live = cas("sql", "FROM cas_tasks ORDER BY task_id", "--json").json
    with duckdb.connect(str(file), read_only=True) as copy:
        assert copy.execute("SELECT count(*) FROM cas_tasks").fetchone() == (len(live),)
        assert copy.execute("SELECT input::VARCHAR FROM cas_tasks WHERE task_id = 'queued'").fetchall() == [
            ('{"n":1.5}',)
        ]
        assert copy.execute("SELECT raw, reason FROM cas_dead_letters").fetchall() == [
            (b"no event", "undecodable")
        ]
        assert copy.execute("SELECT count(*) FROM cas_task_timeline").fetchone() != (0,)
        assert copy.execute("SELECT events_seq FROM cas_snapshot").fetchall() == [(log,)]
        past = copy.execute(
            "SELECT status, count(*) FROM cas_tasks_as_of(200) GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        for name, count in told["rows"].items():
            parquet = copy.execute(f"SELECT count(*) FROM '{folder}/{name}.parquet'").fetchone()
            assert parquet == (count,), name
    sql = "SELECT status, count(*) AS n FROM cas_tasks GROUP BY ALL ORDER BY ALL"
    assert [(row["status"], row["n"]) for row in cas("sql", sql, "--as-of", "200", "--json").json] == past
    again = cas("snapshot", str(file))
    assert again.code == 1
    assert "exists already" in again.error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit", "audit.duckdb", "home"]


def test_a_snapshot_of_the_past_is_what_the_tables_were(cas: Cas, tmp_path: Path) -> None:
    file = tmp_path / "past.duckdb"
    assert cas("snapshot", str(file), "--as-of", "123").code == 0
    with duckdb.connect(str(file), read_only=True) as copy:
        assert copy.execute("SELECT max(seq), count(*) FROM cas_agent_events").fetchone() == (123, 123)
        tasks = copy.execute("SELECT task_id, status, last_seq FROM cas_tasks ORDER BY ALL").fetchall()
    sql = "SELECT task_id, status, last_seq FROM cas_tasks ORDER BY ALL"
    assert [tuple(row.values()) for row in cas("sql", sql, "--as-of", "123", "--json").json] == tasks


def test_a_snapshot_is_of_one_position_while_the_projector_goes_on(
    cas: Cas, log: int, nats_url: str, deployment: str, tmp_path: Path
) -> None:
    wrote, stop = threading.Event(), threading.Event()
    written: list[int] = []

    async def write() -> None:
        async with await Connection.open(nats_url, name="test") as connection:
            # Going on behind the fixture's: a repeated event would be none.
            events = islice(synthetic(Names(deployment)), EVENTS, None)
            while not stop.is_set():
                written.append((await JetStream(connection).append(*next(events))).seq)
                wrote.set()

    writing = threading.Thread(target=lambda: asyncio.run(write()))
    writing.start()
    try:
        assert wrote.wait(promised(10.0))
        assert cas("sql", "SELECT 1", "--wait-for", str(written[0])).code == 0
        told = cas("snapshot", str(tmp_path / "live.duckdb"), "--json")
        wrote.clear()
        assert wrote.wait(promised(10.0))
    finally:
        stop.set()
        writing.join()
    seq = told.json["as_of"]
    assert log < seq < written[-1]
    with duckdb.connect(str(tmp_path / "live.duckdb"), read_only=True) as copy:
        # Every sequence up to there is an event or a dead letter, and none beyond.
        seqs = "SELECT seq FROM cas_agent_events UNION SELECT seq FROM cas_dead_letters"
        assert copy.execute(f"SELECT count(*), max(seq) FROM ({seqs})").fetchone() == (seq, seq)
        assert copy.execute("SELECT max(last_seq) <= ? FROM cas_tasks", [seq]).fetchone() == (True,)


def test_formats(cas: Cas, tmp_path: Path) -> None:
    sql = "SELECT seq, task_id, data FROM cas_agent_events ORDER BY seq LIMIT 3"
    rows = cas("sql", sql, "--format", "json").json
    lines = list(csv.DictReader(io.StringIO(cas("sql", sql, "--format", "csv").out)))
    assert [(int(line["seq"]), json.loads(line["data"])) for line in lines] == [
        (row["seq"], row["data"]) for row in rows
    ]
    arrow = tmp_path / "rows.arrow"
    assert cas("sql", sql, "--format", "arrow", "--output", str(arrow)).code == 0
    import nanoarrow as na  # noqa: PLC0415 - one of many readers of the format

    table = na.ArrayStream.from_path(str(arrow)).read_all()
    assert [row["seq"] for row in table.to_pylist()] == [row["seq"] for row in rows]
    assert cas("sql", sql, "--output", str(tmp_path / "rows.txt")).code == 0
    assert (tmp_path / "rows.txt").read_text().startswith("seq")


def test_without_a_projector_the_file_answers(
    log: int, tmp_path: Path, nats_url: str, deployment: str
) -> None:
    home = {"CAS_NATS_URL": nats_url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(tmp_path / "home")}
    cas = Cas(home)
    assert cas("snapshot", str(tmp_path / "x.duckdb")).code == 1
    with cas.process(*UNSIGNED_PROJECTOR) as projector:
        projector.line_with("projector.ready")
        assert cas("sql", "SELECT 1", "--wait-for", str(log)).code == 0
    taken = cas("snapshot", str(tmp_path / "x.duckdb"), "--json")
    assert (taken.json["as_of"], taken.code) == (log, 0)
    assert "no projector runs" in taken.err


def test_where_it_cannot_write_it_says_so_and_leaves_nothing(cas: Cas, tmp_path: Path) -> None:
    assert "no folder" in cas("snapshot", str(tmp_path / "none" / "x.duckdb")).error
    assert cas("snapshot").code == 2
    assert cas("snapshot", str(tmp_path / "x.duckdb"), "--as-of", "99999999").code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]
