"""The processes that answer questions: bounded, ended, outlived; and right while the tables change under them.

Memory is what the kernel says of the real processes (`VmHWM`, the most that each has had). No bound on time is
asserted: a hostile statement may run into the limit on memory or, on a slow machine, first into the one on time.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.replay import synthetic
from cas_events.errors import QueryError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.topology import ensure_streams
from cas_events.sql_client import query, query_arrow
from cas_events.wire.subjects import Names
from projections.fold import Fold
from projections.projector import Projector
from projections.queries import READERS, Limits, Queries, query_file
from tests.harness.patience import promised
from tests.harness.pids import gone_within
from tests.harness.wait import until
from tests.integration.test_projection_process import projecting, until_projected

MB = 1024 * 1024
MEMORY_MB = 256
SLACK_MB = 128  # Libraries, which the limit does not count, and what the tables take meanwhile.
ENDLESS = "SELECT count(*) FROM range(100000000000)"

IMPATIENT = f"""
import asyncio
from cas_events.process_log import configure_process
from cas_events.settings import Settings
from projections.process import run
from projections.queries import Limits
configure_process("info", service="projector")  # It says by its log when it is ready.
asyncio.run(run(Settings.from_env(), limits=Limits(time_s=2.0, memory_bytes={MEMORY_MB * MB})))
"""
PATIENT = IMPATIENT.replace("time_s=2.0", "time_s=600.0")

HOSTILE = [
    "SELECT repeat('x', 1000000) FROM range(100000)",
    "SELECT length(repeat('x', 4000000000))",
    "SELECT string_agg(repeat('x', 1000), '') FROM range(100000000)",
    "SELECT list(i) FROM range(1000000000) t(i)",
    "SELECT len(range(1000000000))",
    "SELECT unnest(range(1000000000))",
    "SELECT list_transform(range(100000000), lambda x: repeat('x', x))",
    "SELECT i || j || repeat('x', 500) FROM range(1000000) a(i), range(1000000) b(j) ORDER BY ALL",
    "SELECT sum(length(regexp_replace(repeat('a', 10000000), 'a', 'bbbbbbbbbbbbbbbb', 'g'))) FROM range(100000)",
    "SELECT count(*) FROM range(1000000) a(i), range(1000000) b(j) WHERE regexp_matches(repeat('a', i), '(a+)+b')",
    f"SELECT count(*) FROM range(100000000000) t(i) WHERE i IN ({','.join(map(str, range(20_000)))})",
    "SELECT lpad('x', 100000000, 'y') FROM range(10000)",
    "SELECT printf('%1000000000d', 1)",
    "WITH RECURSIVE r AS (SELECT 'x' s UNION ALL SELECT s || s FROM r) SELECT max(length(s)) FROM r",
    "SELECT json_group_array(repeat('x', 1000)) FROM range(10000000)",
]


def peak_mb(pid: int) -> int:
    """The most memory that a process has had; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)


def children_of(pid: int) -> list[int]:
    """The processes that a process has forked and not yet waited for."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z" and int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


async def watched(pid: int, asked: asyncio.Future[None]) -> int:
    """The most memory that any reader of a process is seen with while questions are asked."""
    most = 0
    while not asked.done():
        most = max([most, *map(peak_mb, await asyncio.to_thread(children_of, pid))])
        await asyncio.wait([asked], timeout=0.02)
    return most


async def refusal(connection: Connection, deployment: str, sql: str, ask: Callable = query) -> str:  # type: ignore[type-arg]
    with pytest.raises(QueryError) as caught:
        await ask(connection, deployment, sql, timeout_s=promised(60.0))
    assert "\n" not in str(caught.value)
    return caught.value.reason


async def test_hostile_questions_stay_within_their_memory_and_the_projector_goes_on(
    nats_url: str, deployment: str, connection: Connection, tmp_path: Path
) -> None:
    js, names = JetStream(connection), Names(deployment)
    await ensure_streams(js, deployment)

    async def ask_all() -> None:
        questions = iter([(sql, query) for sql in HOSTILE] + [(HOSTILE[0], query_arrow)])

        async def ask_on() -> None:
            for sql, ask in questions:
                assert await refusal(connection, deployment, sql, ask) in ("memory", "timeout"), sql

        await asyncio.gather(*(ask_on() for _ in range(READERS)))

    async with projecting(nats_url, deployment, tmp_path, "-c", IMPATIENT) as projector:
        assert projector.process
        pid = projector.process.pid
        ack = await js.append(names.agent_event("analyst"), b"x")
        await until_projected(connection, deployment, ack.seq)
        asked = asyncio.ensure_future(ask_all())
        most_mb = await watched(pid, asked)
        await asked
        ack = await js.append(names.agent_event("analyst"), b"y")
        await until_projected(connection, deployment, ack.seq)
        assert projector.process.returncode is None
        own_mb = peak_mb(pid)
    assert 0 < own_mb < 300
    assert most_mb < own_mb + MEMORY_MB + SLACK_MB


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_readers_end_with_their_projector(
    nats_url: str, deployment: str, connection: Connection, tmp_path: Path, end: signal.Signals
) -> None:
    await ensure_streams(JetStream(connection), deployment)
    async with projecting(nats_url, deployment, tmp_path, "-c", PATIENT) as projector:
        asked = asyncio.create_task(query(connection, deployment, ENDLESS, timeout_s=600.0))
        assert projector.process
        pid = projector.process.pid
        [reader] = await until(lambda: children_of(pid), what="a reader that is busy")
        projector.process.send_signal(end)
        await asyncio.wait_for(projector.process.wait(), promised(20.0))
        assert await asyncio.to_thread(gone_within, reader, 10.0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)


@pytest.fixture
async def queries(tmp_path: Path) -> AsyncIterator[Queries]:
    """Questions to a file of 100 events, none of which is given more than a minute."""
    fold = Fold(tmp_path / "cas.duckdb", "cas")
    yield (made := Queries(fold.reader, events_stream="CAS_EVENTS", limits=Limits(time_s=60.0)))
    made.close()
    fold.close()


async def test_a_reader_that_breaks_breaks_alone(queries: Queries) -> None:
    before = set(children_of(os.getpid()))
    for number, reason in ((signal.SIGSEGV, "failed"), (signal.SIGKILL, "memory")):
        asked = asyncio.create_task(queries.run(ENDLESS))
        [reader] = await until(lambda: set(children_of(os.getpid())) - before, what="a reader")
        os.kill(reader, number)
        with pytest.raises(QueryError) as caught:
            await asked
        assert caught.value.reason == reason
        assert (await queries.run("SELECT 1")).rows == [b"[1]"]
        await ended(queries, before)


async def ended(queries: Queries, before: set[int]) -> None:
    """Have no reader any more, busy or idle."""
    async with queries.pause(patient=True) as is_quiet:
        assert is_quiet
        await until(lambda: set(children_of(os.getpid())) <= before, what="no reader lives")


async def test_a_question_that_nobody_waits_for_any_more_is_ended(queries: Queries) -> None:
    before = set(children_of(os.getpid()))
    asked = asyncio.create_task(queries.run(ENDLESS))
    await until(lambda: set(children_of(os.getpid())) - before, what="a reader")
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await until(lambda: set(children_of(os.getpid())) <= before, what="no reader lives")


async def test_no_reader_lives_while_blocks_are_moved(queries: Queries) -> None:
    before = set(children_of(os.getpid()))
    asked = asyncio.create_task(queries.run(ENDLESS))
    [reader] = await until(lambda: set(children_of(os.getpid())) - before, what="a reader")
    async with queries.pause(patient=False) as is_quiet:
        assert not is_quiet
    waiting = asyncio.create_task(ended(queries, before))
    later = asyncio.create_task(queries.run("SELECT 1"))
    await asyncio.sleep(0)
    assert not waiting.done()
    os.kill(reader, signal.SIGKILL)
    await waiting
    assert (await later).rows == [b"[1]"]
    with pytest.raises(QueryError):
        await asked


async def test_a_file_is_read_by_a_process_that_ends(tmp_path: Path) -> None:
    path = tmp_path / "cas.duckdb"
    Fold(path, "cas").close()
    before = set(children_of(os.getpid()))
    for sql in (ENDLESS, "SELECT nope"):
        with pytest.raises(QueryError):
            await query_file(path, sql, limits=Limits(time_s=0.2))
    await until(lambda: set(children_of(os.getpid())) <= before, what="no reader lives")


async def test_every_answer_is_of_one_moment_while_the_tables_change(
    deployment: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer holds exactly the events up to its `as_of`, none is older than one before, and files are written meanwhile."""
    for name, size in (("_CHECKPOINT_BYTES", 60_000), ("_CHECKPOINT_RETRY_BYTES", 5_000)):
        monkeypatch.setattr(f"projections.projector.{name}", size)
    monkeypatch.setattr("projections.projector._CHECKPOINT_PATIENCE_BYTES", 120_000)
    js, names = JetStream(connection), Names(deployment)
    await ensure_streams(js, deployment)
    projector = await Projector.open(connection, names, tmp_path / "cas.duckdb")
    queries = Queries(
        projector.fold.reader,
        events_stream=names.events,
        limits=Limits(time_s=600.0),
        quietly=projector.quietly,
        version=lambda: projector.fold.positions,
    )
    projector.before_checkpoints(queries.pause)
    running = asyncio.create_task(projector.run())
    published = asyncio.create_task(publish(connection, names, 3_000))

    async def ask_again_and_again() -> int:
        seen = 0
        while not published.done():
            answer = await queries.run(
                "SELECT count(*), sum(length(data)) > 0 OR count(*) = 0 FROM cas_agent_events"
            )
            assert answer.rows == [b"[%d,true]" % answer.as_of]
            assert answer.as_of >= seen
            seen = answer.as_of
        return seen

    seen = await asyncio.gather(*(ask_again_and_again() for _ in range(READERS)))
    last_seq = await published
    await projector.wait_for(last_seq, promised(20.0))
    assert (await queries.run("SELECT count(*) FROM cas_agent_events")).rows == [b"[3000]"]
    assert max(seen) <= last_seq == 3_000
    queries.close()
    projector.stop()
    await running
    await projector.close()
    assert (await query_file(tmp_path / "cas.duckdb", "SELECT count(*) FROM cas_agent_events")).rows == [
        (3_000,)
    ]


async def publish(connection: Connection, names: Names, number: int) -> int:
    js, seq = JetStream(connection), 0
    for n, (subject, payload) in enumerate(islice(synthetic(names), number), 1):
        if n % 50:
            connection.publish(subject, payload)
        else:
            seq = (await js.append(subject, payload, timeout_s=promised(10.0))).seq
    return seq
