"""Questions to large tables: one task by its id, and the tables as of a sequence in the middle of the log.

`python -m benchmarks.asking --events 1000000 --tasks 1000000` prints one JSON document, in milliseconds. The tables are
folded from a synthetic log without a server: for `as_of`, tasks of ten events, 500 at a time, and, as the worst case,
500 tasks that are all still open; for the lookups, tasks of one event each. Every question runs in a reader of its
own, as a user's does.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.replay import APPLY, OPEN_TASKS, Task, peak_mb, synthetic
from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.subjects import Names
from projections.fold import Fold

NAMES = Names("cas")
LOOKUPS = 200
TIMES = 5
TABLES = ("cas_tasks", "cas_agents", "cas_agent_logs", "cas_agent_state")


def long_tasks(names: Names) -> Iterator[tuple[str, bytes]]:
    """Events of tasks that never end: one start, then logs and progress."""
    tasks = [Task(number, names) for number in range(1, OPEN_TASKS + 1)]
    for task in tasks:
        yield task.event(time.time_ns())
    while True:
        for task in tasks:
            yield task.telemetry(time.time_ns())


def short_tasks(names: Names) -> Iterator[tuple[str, bytes]]:
    """The first event of one task after the other."""
    number = 0
    while True:
        number += 1
        yield Task(number, names).event(time.time_ns())


def folded(path: Path, events: Iterator[tuple[str, bytes]], count: int) -> Fold:
    """Tables of the first ``count`` events."""
    fold = Fold(path, NAMES.deployment)
    for at in range(0, count, APPLY):
        batch = islice(events, min(APPLY, count - at))
        messages = [
            StoredMessage(NAMES.events, seq, subject, time.time_ns(), payload)
            for seq, (subject, payload) in enumerate(batch, at + 1)
        ]
        fold.apply([], messages)
    fold.checkpoint()
    return fold


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def as_of(path: Path, events: Iterator[tuple[str, bytes]], count: int) -> dict[str, Any]:
    """The median of each table in the middle of the log, and of the tasks at its end."""
    fold = folded(path, events, count)
    reader = fold.reader()
    # All columns are looked at, so that none is left out of the work.
    asked = {
        f"{table}_ms": f"SELECT count(*), max(hash(t)) FROM {table}_as_of({count // 2}) t" for table in TABLES
    }
    asked["cas_tasks_at_the_end_ms"] = f"SELECT count(*), max(hash(t)) FROM cas_tasks_as_of({count}) t"
    measured: dict[str, Any] = {
        name: round(statistics.median(timed(lambda sql=sql: reader.execute(sql)) for _ in range(TIMES)), 1)  # type: ignore[misc]
        for name, sql in asked.items()
    }
    reader.close()
    fold.close()
    return {"events": count, **measured}


def lookups(path: Path, count: int) -> dict[str, Any]:
    """One task by its id, again and again, each time another."""
    fold = folded(path, short_tasks(NAMES), count)
    reader = fold.reader()
    choose = random.Random(7)
    ids = [Task(choose.randint(1, count), NAMES).task for _ in range(LOOKUPS)]
    took = sorted(timed(lambda i=i: reader.execute("FROM cas_tasks WHERE task_id = ?", (i,))) for i in ids)  # type: ignore[misc]
    reader.close()
    fold.close()
    return {
        "tasks": count,
        "p50_ms": round(statistics.median(took), 2),
        "p99_ms": round(took[int(len(took) * 0.99)], 2),
        "n": LOOKUPS,
    }


def measure(events: int, tasks: int, folder: Path) -> dict[str, Any]:
    report = {
        "as_of": as_of(folder / "short.duckdb", synthetic(NAMES), events),
        "as_of_open_tasks": as_of(folder / "long.duckdb", long_tasks(NAMES), events),
        "lookup": lookups(folder / "tasks.duckdb", tasks),
    }
    print(json.dumps(report), file=sys.stderr)
    return report | {"rss_mb": peak_mb()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000, help="length of the logs of `as_of`")
    parser.add_argument("--tasks", type=int, default=1_000_000, help="tasks among which one is looked up")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cas-asking-") as folder:
        print(json.dumps(measure(arguments.events, arguments.tasks, Path(folder)), indent=2))


if __name__ == "__main__":
    main()
