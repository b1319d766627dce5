"""Rebuilds that kill themselves, each at another point: `python -m tests.harness.rebuild_child FOLDER`.

Points are before and after each commit, counted from 1 until a run has no more of them, then before and after the final
checkpoint and each step of the swap, by name: how many commits a run needs is a matter of what arrives together. For
each, a folder gets a copy of the database file in FOLDER, and a process, forked before anything is open, rebuilds there
and dies. The last one runs to its end. Prints one line a process: folder, exit code, name of the last point.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import signal
import sys
from collections.abc import Callable
from typing import Any

from cas_events.jetstream.connection import Connection
from cas_events.settings import Settings
from cas_events.wire.subjects import Names
from projections import files, handover, rebuild, store

NAMED = (
    "after checkpoint",
    "before swap",
    "before replace",
    "after replace",
    "before sync",
    "after sync",
    "after swap",
)

passed: list[str] = []
die_at = [0]
dies_at: list[str] = []  # the named point, once the commits are through


def point(name: str) -> None:
    passed.append(name)
    commits = sum(each.endswith("commit") for each in passed)
    is_counted = name == "before checkpoint" or (name.endswith("commit") and commits == die_at[0])
    if name == dies_at[0] if dies_at else is_counted:
        (settings().home / "last-point").write_text(name)
        os.kill(os.getpid(), signal.SIGKILL)


def settings() -> Settings:
    here = Settings.from_env()
    return dataclasses.replace(here, home=here.home / f"at-{die_at[0]}")


def around(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **options: Any) -> Any:
        point(f"before {name}")
        result = call(*args, **options)
        point(f"after {name}")
        return result

    return wrapped


class Raw:
    """DuckDB's connection, with points around what makes data last."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def execute(self, sql: str, *params: Any) -> Any:
        if sql in ("COMMIT", "CHECKPOINT"):
            return around(sql.lower(), self._raw.execute)(sql, *params)
        return self._raw.execute(sql, *params)


def open_file(path: Any, **options: Any) -> store.Connection:
    connection = original(path, **options)
    connection._raw = Raw(connection._raw)  # type: ignore[assignment]
    return connection


original, store.open_file = store.open_file, open_file
handover.BATCH_MAX = 150
files.swap = around("swap", files.swap)
files.os.replace = around("replace", os.replace)
files._sync_folder = around("sync", files._sync_folder)


async def rebuild_here() -> None:
    mine = settings()
    async with await Connection.open(mine.url(), name="rebuild") as connection:
        await rebuild.rebuild_here(connection, Names(mine.deployment), mine.database_path)


def main() -> None:
    original_file = Settings.from_env().database_path
    code, later = -signal.SIGKILL, iter((*NAMED, "none"))
    while code:
        die_at[0] += 1
        home = settings().home
        home.mkdir()
        shutil.copy(original_file, home)
        pid = os.fork()
        if not pid:
            asyncio.run(rebuild_here())
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        last = (home / "last-point").read_text() if code else "end"
        sys.stdout.write(f"{home}\t{code}\t{last}\n")
        if dies_at or last == "before checkpoint":
            dies_at[:] = [next(later, "none")]


main()
