"""Rebuilds: killed at every point, beside a projector that answers all the time, and after a change of version.

Method: tables are damaged by hand, so that one can tell old from new; the new ones must equal a projection made from
nothing. Proves promise 7, and of issue 5 that `cas rebuild` survives kill -9 at any point.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.replay import synthetic
from cas_events.errors import ProjectionError, QueryError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.topology import ensure_streams
from cas_events.sql_client import query
from cas_events.wire.subjects import Names
from projections import files, fold, store
from projections.keeper import Keeper
from projections.queries import query_file
from projections.rebuild import Rebuild, rebuild_here
from tests.harness.cas import Cas
from tests.harness.patience import promised
from tests.harness.wait import until, until_async
from tests.integration.test_projection_process import TABLES, dump, projecting, publish_everything, rebuilt

DAMAGED = "SELECT count(*) FROM cas_tasks WHERE message = 'damaged'"


async def damaged_tables(
    connection: Connection, names: Names, path: Path, events: Iterator[tuple[str, bytes]] | None = None
) -> int:
    """Tables of a new log with every task's message overwritten, and nothing left in the write-ahead log."""
    await ensure_streams(JetStream(connection), names.deployment)
    last_seq = await publish_everything(connection, names, 500, events)
    await rebuild_here(connection, names, path)
    damage(path, names)
    return last_seq


def damage(path: Path, names: Names, version: int = fold.VERSION) -> None:
    tables = fold.Fold(path, names.deployment)
    tables._connection.execute("UPDATE cas_tasks SET message = 'damaged'")
    tables._connection.execute("UPDATE cas_projection SET version = ?", (version,))
    tables.checkpoint()
    tables.close()


def whole(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The tables of a file that can be opened, as `dump` has them."""
    file = store.open_file(path, read_only=True)
    try:
        return {table: file.select(f"FROM {table} ORDER BY ALL", (), limit=10_000)[2] for table in TABLES}
    finally:
        file.close()


@pytest.mark.timeout(900)
async def test_killed_at_every_point_leaves_whole_tables_and_goes_on(
    nats_url: str, deployment: str, connection: Connection, tmp_path: Path
) -> None:
    names = Names(deployment)
    await damaged_tables(connection, names, tmp_path / f"{deployment}.duckdb")
    await rebuilt(nats_url, deployment, tmp_path / "wanted.duckdb")
    wanted = whole(tmp_path / "wanted.duckdb")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.harness.rebuild_child",
        env=os.environ | {"CAS_NATS_URL": nats_url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(child.communicate(), promised(100.0))
    killed = [line.split("\t") for line in out.decode().splitlines()]
    names_of_points = [last for _, _, last in killed]
    assert names_of_points.count("before commit") >= 4
    assert names_of_points[-9:] == [
        "before checkpoint", "after checkpoint", "before swap", "before replace", "after replace", "before sync",
        "after sync", "after swap", "end",
    ]  # fmt: skip
    assert [code for _, code, _ in killed] == ["-9"] * (len(killed) - 1) + ["0"]
    first_new = names_of_points.index("after replace")
    for number, (home, _, last) in enumerate(killed):
        path = Path(home) / f"{deployment}.duckdb"
        tables = whole(path)
        is_old = all(row[5] == "damaged" for row in tables["cas_tasks"])
        assert is_old if number < first_new else tables == wanted, last
        if number > 1 and last in ("before commit", "after commit", "before sync", "after sync"):
            continue  # Going on is tried where something differs.
        await rebuild_here(connection, names, path)
        assert whole(path) == wanted, last
        assert {file.name for file in Path(home).iterdir()} <= {path.name, "last-point"}


async def test_log_of_old_tables_is_never_applied_to_the_new(
    nats_url: str, deployment: str, connection: Connection, tmp_path: Path
) -> None:
    names, path = Names(deployment), tmp_path / f"{deployment}.duckdb"
    await ensure_streams(JetStream(connection), deployment)
    await publish_everything(connection, names, 300)
    async with projecting(nats_url, deployment, tmp_path) as projector:
        last_seq = (await JetStream(connection).stream_info(names.events)).state.last_seq
        await query(connection, deployment, "SELECT 1", wait_for=last_seq)
        await projector.kill()
    assert files.log_of(path).stat().st_size > 0
    await rebuild_here(connection, names, path)
    assert not files.log_of(path).exists()
    assert await dump(path) == await rebuilt(nats_url, deployment, tmp_path / "wanted.duckdb")


async def test_rebuild_beside_a_running_projector_answers_all_the_time(
    nats_url: str, deployment: str, connection: Connection, tmp_path: Path
) -> None:
    names, path = Names(deployment), tmp_path / f"{deployment}.duckdb"
    events = synthetic(names)
    await damaged_tables(connection, names, path, events)
    cas = Cas({"CAS_NATS_URL": nats_url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(tmp_path)})
    asked = 0
    async with projecting(nats_url, deployment, tmp_path) as projector:
        assert (await query(connection, deployment, DAMAGED)).rows != [(0,)]
        rebuilding = asyncio.create_task(asyncio.to_thread(cas, "rebuild", "--json"))
        publishing = asyncio.create_task(publish_everything(connection, names, 500, events))
        while not rebuilding.done() or asked < 5:
            await query(connection, deployment, "SELECT count(*) FROM cas_tasks")
            asked += 1
        answer, last_seq = await rebuilding, await publishing
        assert answer.code == 0, answer.err
        assert answer.lines[-1]["state"] == "done"
        assert answer.lines[-1]["messages"] > 500
        assert (await query(connection, deployment, DAMAGED, wait_for=last_seq)).rows == [(0,)]
        code, _ = await projector.terminate()
        assert code == 0
    assert await dump(path) == await rebuilt(nats_url, deployment, tmp_path / "wanted.duckdb")


async def test_command_line_without_a_projector_and_with_one_in_the_way(
    nats_url: str, deployment: str, connection: Connection, tmp_path: Path
) -> None:
    names, path = Names(deployment), tmp_path / f"{deployment}.duckdb"
    await damaged_tables(connection, names, path)
    cas = Cas({"CAS_NATS_URL": nats_url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(tmp_path)})
    answer = await asyncio.to_thread(cas, "rebuild")
    assert (answer.code, answer.out[:15]) == (0, "made anew from "), answer
    assert (await query_file(path, DAMAGED)).rows == [(0,)]
    async with projecting(nats_url, deployment, tmp_path):
        with pytest.raises(ProjectionError, match="is being written by a projector"):
            await rebuild_here(connection, names, path)


async def test_damaged_file_is_one_clear_line_and_rebuild_replaces_it(
    nats_url: str, deployment: str, connection: Connection, tmp_path: Path
) -> None:
    names, path = Names(deployment), tmp_path / f"{deployment}.duckdb"
    await damaged_tables(connection, names, path)
    path.write_bytes(b"no database" + path.read_bytes()[11:])
    with pytest.raises(AssertionError, match=r"error: .* cannot be opened: .*`cas rebuild` makes it anew"):
        async with projecting(nats_url, deployment, tmp_path):
            pass
    with pytest.raises(ProjectionError, match=r"cannot be opened: .*`cas rebuild` makes it anew"):
        await query_file(path, "SELECT 1")
    await rebuild_here(connection, names, path)
    assert (await query_file(path, DAMAGED)).rows == [(0,)]


async def test_change_of_version_rebuilds_by_itself(
    nats_url: str, deployment: str, connection: Connection, tmp_path: Path
) -> None:
    names, path = Names(deployment), tmp_path / f"{deployment}.duckdb"
    last_seq = await damaged_tables(connection, names, path)
    newer = "import sys, projections.fold as f; f.VERSION = 99; from projections.__main__ import main; sys.exit(main())"
    async with projecting(nats_url, deployment, tmp_path, "-c", newer) as projector:
        assert projector.ready["events_seq"] == last_seq
        assert (await query(connection, deployment, DAMAGED)).rows == [(0,)]
        versions = await query(connection, deployment, "SELECT DISTINCT version FROM cas_projection")
        assert versions.rows == [(99,)]
    async with projecting(nats_url, deployment, tmp_path) as projector:  # and back
        assert projector.ready["events_seq"] == last_seq


async def test_old_tables_answer_while_those_of_the_new_version_are_made(
    deployment: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, path = Names(deployment), tmp_path / f"{deployment}.duckdb"
    last_seq = await damaged_tables(connection, names, path)
    damage(path, names, version=1)
    go_on, finish = asyncio.Event(), Rebuild.finish

    async def finish_later(self, least) -> None:
        await go_on.wait()
        await finish(self, least)

    monkeypatch.setattr(Rebuild, "finish", finish_later)
    keeper = Keeper(connection, names, path)
    running = asyncio.create_task(keeper.run())
    assert (await keeper.desk.run(DAMAGED)).decoded().rows != [(0,)]
    await keeper.desk.wait_for(last_seq, promised(5.0))
    with pytest.raises(QueryError, match="made anew") as caught:
        await keeper.desk.wait_for(last_seq + 1, 1)
    assert caught.value.reason == "rebuilding"
    go_on.set()

    async def is_new() -> bool:
        return (await keeper.desk.run(DAMAGED)).decoded().rows == [(0,)]

    await until_async(is_new)
    assert (keeper.progress.state, keeper.progress.error) == ("done", "")
    keeper.stop()
    await running


async def test_failed_rebuild_leaves_the_live_tables(
    deployment: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, path = Names(deployment), tmp_path / f"{deployment}.duckdb"
    last_seq = await damaged_tables(connection, names, path)

    def refuse(new: Path, live: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "swap", refuse)
    keeper = Keeper(connection, names, path)
    running = asyncio.create_task(keeper.run())
    keeper.begin_rebuild()
    await until(lambda: keeper.progress.state == "failed")
    assert keeper.progress.error == "[Errno 28] No space left on device; the tables are as they were"
    await keeper.desk.wait_for(last_seq, promised(10.0))
    assert (await keeper.desk.run(DAMAGED)).decoded().rows != [(0,)]
    monkeypatch.undo()
    keeper.begin_rebuild()
    await until(lambda: keeper.progress.state == "done")
    assert (await keeper.desk.run(DAMAGED)).decoded().rows == [(0,)]
    keeper.stop()
    await running


async def test_log_that_was_cut_is_one_clear_line_and_loss_can_be_accepted(
    nats_url: str, deployment: str, connection: Connection, tmp_path: Path
) -> None:
    names, path = Names(deployment), tmp_path / f"{deployment}.duckdb"
    js = JetStream(connection)
    await js.create_stream({"name": names.events, "subjects": [names.all_events], "max_msgs": 5})
    await js.create_stream({"name": names.commands, "subjects": [f"{deployment}.cmd.>"]})
    for n in range(9):
        await js.append(names.agent_event("analyst"), b"not an event %d" % n)
    cas = Cas({"CAS_NATS_URL": nats_url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(tmp_path)})
    refused = await asyncio.to_thread(cas, "rebuild")
    assert refused.code == 1
    assert refused.err.rstrip().endswith(
        "the tables cannot go on from 0. `cas rebuild --accept-loss` makes them anew from what the log still holds"
    )
    assert (await asyncio.to_thread(cas, "rebuild", "--accept-loss")).code == 0
    assert (await query_file(path, "SELECT seq FROM cas_dead_letters ORDER BY seq")).rows == [
        (5,),
        (6,),
        (7,),
        (8,),
        (9,),
    ]
