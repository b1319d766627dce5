"""How the tables grow: replay of logs of 10,000 to 10,000,000 events, the check, and what signing costs a replay.

For each size: events a second of a reader that does nothing, of a projector, and of one that signs the log meanwhile,
their ratios to the reader in the same run, the most memory of each process, and, up to `CHECKED_MAX` events, the
seconds and memory of `cas verify`'s check against the finished tables. Everything stands in a temporary folder. The
log is the one of `replay`, its payloads made from templates: the encoder would take longer than the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.replay import EVENTS_PER_TASK, OPEN_TASKS, WINDOW, Task, peak_mb, projected, read
from cas_events.audit.keys import SigningKey
from cas_events.audit.writer import HeadWriter
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.topology import ensure_streams
from cas_events.server import EmbeddedServer
from cas_events.wire.rows import QueryResult
from cas_events.wire.subjects import Names
from projections.projector import Projector
from projections.queries import reading
from projections.verify.check import Check

CHECKED_MAX = 1_000_000
SIGNED_MAX = 1_000_000
_ACK_S = 120.0
_ID = "00000000-7abc-7def-8123-000000000000"


def sizes_of(text: str) -> list[int]:
    """Sizes with commas between."""
    sizes = [int(part) for part in text.split(",")]
    if not all(size > 0 and size % WINDOW == 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"each a multiple of {WINDOW}, not {text!r}")
    return sizes


def quick_events(names: Names) -> Iterator[tuple[str, bytes]]:
    """As `replay.synthetic`, with all events of one age."""
    model = Task(1, names)
    made = [model.event(time.time_ns()) for _ in range(EVENTS_PER_TASK)]
    mark = model.task
    templates = [
        (
            subject.replace(mark, _ID).split(_ID),
            payload.replace(mark.encode(), _ID.encode()).split(_ID.encode()),
        )
        for subject, payload in made
    ]
    first = 0
    while True:
        ids = [f"{number:08x}-7abc-7def-8123-{number:012d}" for number in range(first, first + OPEN_TASKS)]
        for subject_parts, payload_parts in templates:
            for task in ids:
                yield task.join(subject_parts), task.encode().join(payload_parts)
        first += OPEN_TASKS


async def fill(connection: Connection, names: Names, count: int) -> None:
    """Store ``count`` events; every window ends with one that is acknowledged, and the next is sent meanwhile."""
    js, events = JetStream(connection), quick_events(names)
    acks: list[asyncio.Task[Any]] = []
    for _ in range(count // WINDOW):
        for _ in range(WINDOW - 1):
            connection.publish(*next(events))
        acks.append(asyncio.ensure_future(js.append(*next(events), timeout_s=_ACK_S)))
        if len(acks) > 1:
            await acks.pop(0)
    await asyncio.gather(*acks)


def sign_and_project(url: str, deployment: str, folder: Path, count: int, outcome: Any) -> None:
    """In a process of its own: as `replay.project`, while the log is signed, as a projector does."""

    async def run() -> None:
        names = Names(deployment)
        async with await Connection.open(url, name="projector") as connection:
            projector = await Projector.open(connection, names, folder / f"{deployment}.signed.duckdb")
            writer = HeadWriter(
                connection, names, SigningKey.load_or_create(folder), source="cas/projector/bench"
            )
            signing = asyncio.create_task(writer.run())
            began = time.perf_counter()
            running = asyncio.create_task(projector.run())
            await projector.wait_for(count, 3600)
            took_s = time.perf_counter() - began
            signing.cancel()
            projector.stop()
            await asyncio.gather(signing, running, return_exceptions=True)
            await projector.close()
        outcome.put((took_s, peak_mb()))

    asyncio.run(run())


def check(url: str, deployment: str, path: Path, outcome: Any) -> None:
    """In a process of its own: what `cas verify` does without a projector."""

    async def run() -> None:
        async with await Connection.open(url, name="check") as connection, reading(path) as queries:

            async def ask(sql: str, params: Any) -> QueryResult:
                return (await queries.run(sql, params)).decoded()

            began = time.perf_counter()
            report = await Check(connection, Names(deployment), ask).run()
            outcome.put((time.perf_counter() - began, peak_mb(), report.is_good))

    asyncio.run(run())


async def in_process(target: Any, *arguments: Any) -> Any:
    """What a function puts out in a process of its own."""
    context = multiprocessing.get_context("spawn")
    outcome: Any = context.Queue()
    process = context.Process(target=target, args=(*arguments, outcome))
    process.start()
    result = await asyncio.to_thread(outcome.get)
    process.join()
    return result


async def measure(sizes: list[int]) -> dict[str, Any]:
    """Everything, size by size; a line of each on stderr."""
    report: dict[str, Any] = {"machine": machine.describe(), "sizes": []}
    with tempfile.TemporaryDirectory(prefix="cas-growth-") as name:
        folder = Path(name)
        with EmbeddedServer(folder / "nats") as server:
            for size in sizes:
                found = await _measure_size(server.url, size, folder)
                report["sizes"].append(found)
                print(json.dumps(found), file=sys.stderr, flush=True)
    return report


async def _measure_size(url: str, count: int, folder: Path) -> dict[str, Any]:
    deployment = f"g{count}"
    names = Names(deployment)
    path = folder / f"{deployment}.duckdb"
    found: dict[str, Any] = {"events": count, "load": machine.load()}
    async with await Connection.open(url, name="growth") as connection:
        js = JetStream(connection)
        await ensure_streams(js, deployment)
        began = time.perf_counter()
        await fill(connection, names, count)
        found["filled_per_s"] = round(count / (time.perf_counter() - began))
        read_s, _ = await read(connection, names, count, keep=False)
        both_s, cpu_s, rss_mb = await projected(url, deployment, path, count)
        found |= {
            "reader_per_s": round(count / read_s),
            "replay_per_s": round(count / both_s),
            "replay_to_reader": round(read_s / both_s, 3),
            "replay_cpu_us": round(cpu_s / count * 1e6, 1),
            "replay_rss_mb": rss_mb,
            "file_mb": path.stat().st_size // 1_000_000,
        }
        if count <= CHECKED_MAX:
            check_s, check_mb, is_good = await in_process(check, url, deployment, path)
            found |= {
                "check_per_s": round(count / check_s),
                "check_rss_mb": check_mb,
                "check_is_good": is_good,
            }
        if count <= SIGNED_MAX:
            signed_s, signed_mb = await in_process(sign_and_project, url, deployment, folder, count)
            found |= {
                "signed_replay_per_s": round(count / signed_s),
                "signed_to_unsigned": round(both_s / signed_s, 3),
                "signed_rss_mb": signed_mb,
            }
        await js.delete_stream(names.events)
    for file in folder.glob(f"{deployment}.*"):
        file.unlink()
    return found
