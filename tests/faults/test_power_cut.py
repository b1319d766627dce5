"""What a power cut leaves of the promises, as far as that can be tried without cutting power (DESIGN, "Commands").

A kill -9 does not lose what the kernel has; a power cut loses what was not synced. So the server is killed, and the
files of a stream are cut back to the sizes that they had at an earlier moment, as a disk has them that was last synced
then: all streams at once, or one of them and not the others, since each is synced by a timer of its own. What was
stored before that moment is there, what came after it is lost although it was acknowledged, and nothing stands still:
tasks run, lost ids can be used again, open tasks can be ended, and tables that know more than the log say so.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cas_events import Client, Runner, TaskContext
from cas_events.errors import ProjectionError, StreamRewoundError
from cas_events.jetstream.connection import Connection
from cas_events.wire.subjects import Names
from projections.projector import Projector
from projections.queries import query_file
from tests.harness import own_runner
from tests.harness.own_runner import lifecycle, names_of, noop, running
from tests.harness.patience import promised
from tests.harness.processes import settings
from tests.harness.server import NatsServer
from tests.harness.wait import until

TASKS = 5
Sizes = dict[Path, int]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server of the test's own: its store is about to lose something."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def cas(server: NatsServer, deployment: str) -> AsyncIterator[Client]:
    async with Client(settings=settings(server.url, deployment)) as client:
        yield client


def make_runner(server: NatsServer, deployment: str) -> Runner:
    runner = own_runner.make_runner(server.url, deployment)
    runner.register("noop", noop)

    @runner.agent("sleeper")
    async def sleeper(_ctx: TaskContext, _input: dict) -> dict:
        await asyncio.sleep(60)
        return {}

    return runner


async def synced(server: NatsServer, stream: str) -> Sizes:
    """The sizes of a stream's files, once what is acknowledged has reached them."""
    sizes: Sizes = {}

    def is_still() -> bool:
        nonlocal sizes
        before, sizes = sizes, blocks(server, stream)
        return bool(sizes) and before == sizes

    await until(is_still, what=f"the files of {stream} do not grow")
    return sizes


def blocks(server: NatsServer, stream: str) -> Sizes:
    folder = server.store_dir / "jetstream" / "$G" / "streams" / stream / "msgs"
    return {path: path.stat().st_size for path in folder.glob("*.blk")}


def cut_power(server: NatsServer, disk: Sizes, *streams: str) -> None:
    """Kill the server, leave of the streams what the disk had, and start it again."""
    server.kill()
    for stream in streams:
        for path in blocks(server, stream):
            os.truncate(path, disk[path]) if path in disk else path.unlink()
    server.start()


async def run_tasks(cas: Client, name: str) -> list[str]:
    tasks = [
        await cas.submit_task("noop", task_id=f"{name}{n}", wait_for_runner_s=promised(10.0))
        for n in range(TASKS)
    ]
    return [(await asyncio.wait_for(task.result(), promised(20.0))).status for task in tasks]


async def project(url: str, deployment: str, path: Path) -> None:
    """Bring a database file up to date with the log."""
    async with await Connection.open(url, name="projection") as connection:
        projector = await Projector.open(connection, Names(deployment), path)
        folding = asyncio.create_task(projector.run())
        try:
            async with Client(settings=settings(url, deployment)) as client:
                waiting = asyncio.create_task(projector.wait_for(await client.last_seq(), promised(20.0)))
                await asyncio.wait([waiting, folding], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
        finally:
            projector.stop()
            try:
                await folding
            finally:
                await projector.close()


async def test_what_was_synced_is_there_and_the_lost_can_be_asked_for_again(
    cas: Client, server: NatsServer, deployment: str, tmp_path: Path
) -> None:
    names, path = cas._session.names, tmp_path / "tables.duckdb"
    async with running(cas, make_runner(server, deployment)):
        assert await run_tasks(cas, "kept") == ["completed"] * TASKS
        disk = {**await synced(server, names.commands), **await synced(server, names.events)}
        assert await run_tasks(cas, "lost") == ["completed"] * TASKS
        await project(server.url, deployment, path)
        cut_power(server, disk, names.commands, names.events)

        # The consumer's own file is newer than the stream: it knows acknowledgements of what is gone.
        assert await run_tasks(cas, "new") == ["completed"] * TASKS
        assert await run_tasks(cas, "lost") == ["completed"] * TASKS, "the ids are free again"

    with pytest.raises(ProjectionError, match=r"the log contradicts them.*power cut"):
        await project(server.url, deployment, path)
    path.unlink()
    await project(server.url, deployment, path)
    rows = (await query_file(path, "SELECT status, count(*) FROM cas_tasks GROUP BY ALL")).rows
    assert rows == [("completed", 3 * TASKS)]


async def test_tables_that_run_on_notice_that_the_log_went_back(
    cas: Client, server: NatsServer, deployment: str, tmp_path: Path
) -> None:
    names = cas._session.names
    async with (
        running(cas, make_runner(server, deployment)),
        await Connection.open(server.url, name="projection") as connection,
    ):
        projector = await Projector.open(connection, Names(deployment), tmp_path / "tables.duckdb")
        folding = asyncio.create_task(projector.run())
        await run_tasks(cas, "kept")
        disk = await synced(server, names.events)
        await run_tasks(cas, "lost")
        await projector.wait_for(await cas.last_seq(), promised(20.0))
        cut_power(server, disk, names.events)
        # Whichever looks first: the reader, whose next sequence is beyond the end, or the tables.
        with pytest.raises(
            (ProjectionError, StreamRewoundError), match=r"another or an older log|contradicts them"
        ):
            await asyncio.wait_for(folding, promised(20.0))
        await projector.close()


async def test_a_task_whose_end_was_lost_and_its_ack_was_not_is_ended_by_a_cancel(
    cas: Client, server: NatsServer, deployment: str
) -> None:
    """Commands whose acks were lost too come again and run anew; of the others no event says that they ever ran."""
    names = cas._session.names
    async with running(cas, make_runner(server, deployment)):
        await run_tasks(cas, "kept")
        disk = await synced(server, names.events)
        await run_tasks(cas, "lost")
        cut_power(server, disk, names.events)
        for n in range(TASKS):
            assert await cas.cancel_task(f"lost{n}", wait=True) in {"requested", "already_finished"}
            told = names_of(await lifecycle(cas, "noop", f"lost{n}"))
            assert told in (["cancelled"], ["started", "cancelled"], ["started", "completed"])
        assert await run_tasks(cas, "new") == ["completed"] * TASKS


async def test_what_was_done_for_a_lost_command_is_not_done_again(
    cas: Client, server: NatsServer, deployment: str
) -> None:
    """Asked for once more, a finished task has its first outcome; one that had begun goes on until it is cancelled."""
    names = cas._session.names
    async with running(cas, make_runner(server, deployment)):
        await run_tasks(cas, "kept")
        disk = await synced(server, names.commands)
        await run_tasks(cas, "lost")
        began = await cas.submit_task("sleeper", task_id="began")
        await anext(aiter(began.events()))
        cut_power(server, disk, names.commands)
        assert await run_tasks(cas, "lost") == ["completed"] * TASKS
        for n in range(TASKS):
            assert names_of(await lifecycle(cas, "noop", f"lost{n}")) == ["started", "completed"]
        await cas.submit_task("sleeper", task_id="began")
        assert await asyncio.wait_for(cas.cancel_task("began", wait=True), promised(30.0)) == "requested"
        assert names_of(await lifecycle(cas, "sleeper", "began")) == ["started", "cancelled"]
