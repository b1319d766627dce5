"""Replay of a synthetic log into DuckDB: reader alone, tables alone, both; and the lag of a live projector.

`python benchmarks/replay.py --events 10000,100000,1000000` prints one JSON document: events per second of each part
by size of the log, ratios to the reader alone and to the smallest log, and the milliseconds from publishing an event
to its being visible to a query (p50, p99, n) at 5,000 events a second. The log is made of tasks of ten events, 500
at a time, of about 430 bytes each; a server of our own with its store in a temporary folder serves it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.reader import StreamReader
from cas_events.jetstream.topology import ensure_streams
from cas_events.server import EmbeddedServer
from cas_events.wire.envelope import EventEncoder
from cas_events.wire.subjects import Names
from projections.fold import Fold
from projections.projector import Projector

OPEN_TASKS = 500
EVENTS_PER_TASK = 10
WINDOW = 2_000
APPLY = 50_000


class Task:
    """One task of the synthetic log, and where it is."""

    def __init__(self, number: int, names: Names) -> None:
        self.task = f"{number:08x}-7abc-7def-8123-{number * 7919 % 10**12:012d}"
        self.index = 0
        self._names = names
        self._encoder = EventEncoder(
            source="cas/runner/r1",
            task_id=self.task,
            agent_id="analyst",
            attempt=1,
            correlation_id=self.task,
            causation_id=f"CAS_COMMANDS:{number}",
        )

    def event(self, time_ns: int) -> tuple[str, bytes]:
        type_, class_, data = self._content(self.index)
        payload = self._encoder.encode(type_, self.index, time_ns, data)
        self.index += 1
        return self._names.event(class_, "analyst", self.task), payload

    def telemetry(self, time_ns: int) -> tuple[str, bytes]:
        """A log line or a progress event, so that the task does not end."""
        type_, class_, data = self._content(1 + self.index % 2)
        payload = self._encoder.encode(type_, self.index, time_ns, data)
        self.index += 1
        return self._names.event(class_, "analyst", self.task), payload

    def _content(self, i: int) -> tuple[str, str, bytes]:
        if i == 0:
            data = b'{"command_seq":1,"tries":1,"input":{"query":"what is up"},"runner":"r1","resumed":false}'
            return "cas.task.started", "task", data
        if i == EVENTS_PER_TASK - 1:
            data = b'{"command_seq":1,"tries":1,"output":{"summary":"all fine"},"duration_s":0.123}'
            return "cas.task.completed", "task", data
        if i % 2:
            return (
                "cas.log",
                "log",
                b'{"level":"info","message":"reading file %d","metadata":{"line":%d}}' % (i, i),
            )
        return "cas.progress", "progress", b'{"progress":0.%d,"message":"step %d of 10"}' % (i, i)


def synthetic(names: Names) -> Iterator[tuple[str, bytes]]:
    """Subject and payload of one event after the other, without end."""
    tasks = [Task(number, names) for number in range(1, OPEN_TASKS + 1)]
    made = OPEN_TASKS
    at = 0
    while True:
        task = tasks[at % OPEN_TASKS]
        yield task.event(time.time_ns())
        if task.index == EVENTS_PER_TASK:
            made += 1
            tasks[at % OPEN_TASKS] = Task(made, names)
        at += 1


async def fill(connection: Connection, events: Iterator[tuple[str, bytes]], count: int) -> None:
    """Store ``count`` events; every window ends with one that is acknowledged."""
    js = JetStream(connection)
    for _ in range(count // WINDOW):
        for _ in range(WINDOW - 1):
            connection.publish(*next(events))
        await js.append(*next(events), timeout_s=30)
    for _ in range(count % WINDOW):
        await js.append(*next(events), timeout_s=30)


async def read(
    connection: Connection, names: Names, count: int, *, keep: bool = True
) -> tuple[float, list[StoredMessage]]:
    """Seconds to read the log with an empty handler, and what was read if it is to be kept."""
    messages: list[StoredMessage] = []
    seen = 0
    began = time.perf_counter()
    async with StreamReader(connection, names.events, from_seq=1) as reader:
        async for batch in reader.batches():
            seen += len(batch.messages)
            if keep:
                messages += batch.messages
            if seen >= count:
                break
    return time.perf_counter() - began, messages


def apply_all(path: Path, names: Names, messages: list[StoredMessage]) -> float:
    """Seconds to put messages that are in memory into tables."""
    fold = Fold(path, names.deployment)
    began = time.perf_counter()
    for at in range(0, len(messages), APPLY):
        fold.apply([], messages[at : at + APPLY])
    took = time.perf_counter() - began
    fold.close()
    return took


def peak_mb() -> int:
    """Most memory that this process has had; `ru_maxrss` would count what its parent had before the exec."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def project(url: str, deployment: str, path: Path, count: int, outcome: Any) -> None:
    """In a process of its own, as the projector is: from the server to tables that hold the whole log."""

    async def run() -> None:
        async with await Connection.open(url, name="projector") as connection:
            projector = await Projector.open(connection, Names(deployment), path)
            began, cpu = time.perf_counter(), time.process_time()
            running = asyncio.create_task(projector.run())
            await projector.wait_for(count, 3600)
            took = time.perf_counter() - began, time.process_time() - cpu
            projector.stop()
            await running
            await projector.close()
        outcome.put((*took, peak_mb()))

    asyncio.run(run())


async def projected(url: str, deployment: str, path: Path, count: int) -> tuple[float, float, int]:
    """Seconds, CPU seconds and megabytes of a projector that replays the log."""
    context = multiprocessing.get_context("spawn")
    outcome: Any = context.Queue()
    child = context.Process(target=project, args=(url, deployment, path, count, outcome))
    child.start()
    result: tuple[float, float, int] = await asyncio.to_thread(outcome.get)
    child.join()
    return result


def publish_live(url: str, deployment: str, per_s: int, seconds: float, sent: Any) -> None:
    """In a process of its own: publish at a steady rate, and hand over (seq, time) of acknowledged samples."""

    async def run() -> None:
        names = Names(deployment)
        events = synthetic(names)
        async with await Connection.open(url, name="load") as connection:
            js = JetStream(connection)
            began = time.perf_counter()
            made = 0
            acks: list[tuple[float, asyncio.Task[Any]]] = []
            while made < per_s * seconds:
                due = int((time.perf_counter() - began) * per_s) - made
                for n in range(max(0, due)):
                    if n == 0:
                        subject, payload = next(events)
                        acks.append((time.time(), asyncio.ensure_future(js.append(subject, payload))))
                    else:
                        connection.publish(*next(events))
                made += max(0, due)
                await asyncio.sleep(0.002)
            for at, ack in acks:
                sent.put(((await ack).seq, at))
            sent.put(None)

    asyncio.run(run())


async def lag(url: str, path: Path, per_s: int, seconds: float) -> dict[str, float]:
    """Milliseconds from publishing an event to its visibility, at a steady rate."""
    deployment = "lag"
    names = Names(deployment)
    async with await Connection.open(url, name="lag") as connection:
        await ensure_streams(JetStream(connection), deployment)
        projector = await Projector.open(connection, names, path)
        running = asyncio.create_task(projector.run())
        context = multiprocessing.get_context("spawn")
        sent: Any = context.Queue()
        load = context.Process(target=publish_live, args=(url, deployment, per_s, seconds, sent))
        visible: list[tuple[int, float]] = []
        load.start()
        while load.is_alive() or not visible:
            if not visible or projector.positions.events > visible[-1][0]:
                visible.append((projector.positions.events, time.time()))
            await asyncio.sleep(0.001)
            if not sent.empty():
                break
        samples = []
        while (sample := await asyncio.to_thread(sent.get)) is not None:
            samples.append(sample)
        await projector.wait_for(samples[-1][0], 60)
        visible.append((projector.positions.events, time.time()))
        load.join()
        projector.stop()
        await running
        await projector.close()
    lags, at = [], 0
    for seq, published in samples:
        while visible[at][0] < seq:
            at += 1
        lags.append((visible[at][1] - published) * 1000)
    lags.sort()
    return {
        "events_per_s": per_s,
        "p50_ms": round(statistics.median(lags), 1),
        "p99_ms": round(lags[int(len(lags) * 0.99)], 1),
        "n": len(lags),
    }


async def measure(sizes: list[int], live_s: float, folder: Path) -> dict[str, Any]:
    server = EmbeddedServer(folder / "nats")
    server.start()
    try:
        report: dict[str, Any] = {"sizes": []}
        if live_s:
            report["lag"] = await lag(server.url, folder / "lag.duckdb", 5_000, live_s)
        for count in sizes:
            report["sizes"].append(await measure_size(server.url, count, folder))
            print(json.dumps(report["sizes"][-1]), file=sys.stderr)
        report["flat"] = round(report["sizes"][-1]["both_per_s"] / report["sizes"][0]["both_per_s"], 2)
        report["load_average"] = os.getloadavg()[0]
        return report
    finally:
        server.stop()


async def measure_size(url: str, count: int, folder: Path) -> dict[str, Any]:
    deployment = f"n{count}"
    names = Names(deployment)
    async with await Connection.open(url, name="replay") as connection:
        js = JetStream(connection)
        await ensure_streams(js, deployment)
        await fill(connection, synthetic(names), count)
        cpu = time.process_time()
        read_s, messages = await read(connection, names, count)
        read_cpu_s = time.process_time() - cpu
        cpu = time.process_time()
        fold_s = await asyncio.to_thread(apply_all, folder / f"fold{count}.duckdb", names, messages)
        fold_cpu_s = time.process_time() - cpu
        messages.clear()
        both_s, both_cpu_s, rss_mb = await projected(url, deployment, folder / f"both{count}.duckdb", count)
        await js.delete_stream(names.events)
    return {
        "events": count,
        "reader_per_s": round(count / read_s),
        "tables_per_s": round(count / fold_s),
        "both_per_s": round(count / both_s),
        "both_to_reader": round(read_s / both_s, 2),
        "both_to_tables": round(fold_s / both_s, 2),
        "cpu_us_per_event": {
            "reader": round(read_cpu_s / count * 1e6, 1),
            "tables": round(fold_cpu_s / count * 1e6, 1),
            "both": round(both_cpu_s / count * 1e6, 1),
        },
        "projector_rss_mb": rss_mb,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--events", default="10000,100000,1000000", help="sizes of the log, with commas between"
    )
    parser.add_argument("--live-s", type=float, default=10.0, help="seconds of the lag measurement; 0: none")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.events.split(",")]
    with tempfile.TemporaryDirectory(prefix="cas-replay-") as folder:
        print(json.dumps(asyncio.run(measure(sizes, arguments.live_s, Path(folder))), indent=2))


if __name__ == "__main__":
    main()
