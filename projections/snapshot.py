"""A copy of the tables at one position, for somebody who has neither NATS nor this program.

The copy is made by whoever asks, on the machine where the command runs: rows come through the read-only questions that
everybody may ask, as of one sequence, in pages. So a projector that goes on to write cannot make it inconsistent, and
nobody who can ask can make the projector write a file. Invariants: an existing file is never overwritten; the name is
given to a file that is whole and on the disk; the number of rows of every table is compared at the end.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from cas_events.errors import ProjectionError, QueryError
from projections.arrow_ipc import Table
from projections.fold import VERSION
from projections.statements import script
from projections.store import Connection, Error, make_copy_file
from projections.views import make_views

PAGE_ROWS = 20_000


class Ask(Protocol):
    """Answers a question as an Arrow IPC stream, and says as of which sequence."""

    def __call__(
        self, sql: str, params: Sequence[object], *, as_of: int | str | None
    ) -> Awaitable[tuple[bytes, int]]:
        """Ask one question."""


@dataclass(frozen=True)
class _Source:
    """A table, what orders its rows, and what limits those that are not asked for as of a sequence by their name."""

    name: str
    key: tuple[str, ...]
    where: str = "true"


_SOURCES = (
    _Source("cas_tasks", ("task_id",)),
    _Source("cas_agents", ("agent_id",)),
    _Source("cas_agent_logs", ("seq",)),
    _Source("cas_agent_state", ("agent_id", "key")),
    _Source("cas_agent_events", ("seq",)),
    _Source("cas_commands", ("seq",)),
    _Source("cas_dead_letters", ("stream", "seq")),
    _Source("cas_projection", ("stream",)),
    _Source("cas_event_time_internal", ("seq",), "seq <= {seq}"),
    _Source("cas_event_more_internal", ("seq",), "seq <= {seq}"),
)
_PUBLIC = tuple(source.name for source in _SOURCES if not source.name.endswith("_internal"))
# What the macros for the past need of the fold's own memory; the rest of it is for a projector, and stays behind.
_FOLD = """INSERT INTO cas_task_fold_internal (task_id, agent_id, command_seq, high, batch, clash)
SELECT t.task_id, t.agent_id, min(c.seq), -1, 0, false
FROM cas_tasks t LEFT JOIN cas_commands c ON c.task_id = t.task_id AND c.kind = 'execute'
GROUP BY t.task_id, t.agent_id"""


@dataclass
class Taken:
    """What a snapshot holds: as of which sequence, and the rows of each table."""

    as_of: int = 0
    rows: dict[str, int] = field(default_factory=dict)


async def take_snapshot(
    ask: Ask,
    *,
    deployment: str,
    file: Path | None,
    parquet: Path | None,
    as_of: int | str | None = None,
    tell: Callable[[str, int], None] = lambda *_: None,
) -> Taken:
    """Copy the tables into a DuckDB file, a folder of Parquet files, or both.

    Args:
        ask: where the tables are asked.
        deployment: whose they are; noted in the copy.
        file: the new DuckDB file.
        parquet: the new folder, with one file a table.
        as_of: a sequence or a time; None for now.
        tell: told the table and its rows so far.

    Raises:
        ProjectionError: a target exists or cannot be written, or the rows are not complete.
        QueryError: a question was refused or failed.
    """
    targets = [target for target in (file, parquet) if target is not None]
    for target in targets:
        if target.exists():
            raise ProjectionError(f"{target} exists already; nothing is overwritten")
        if not target.parent.is_dir():
            raise ProjectionError(f"there is no folder {target.parent}")
    _, seq = await ask("SELECT 1", (), as_of=as_of)
    work = targets[0].with_name(f".{targets[0].name}.{os.getpid()}.partial")
    await asyncio.to_thread(work.mkdir)
    try:
        taken = await _fill(ask, work / "copy.duckdb", deployment, seq, tell)
        await asyncio.to_thread(_finish, work, file, parquet)
    except (Error, OSError) as error:
        raise ProjectionError(f"the snapshot cannot be written: {_first_line(error)}") from error
    finally:
        await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)
    return taken


async def _fill(ask: Ask, path: Path, deployment: str, seq: int, tell: Callable[[str, int], None]) -> Taken:
    copy = await asyncio.to_thread(make_copy_file, path)
    taken = Taken(seq)
    try:
        await asyncio.to_thread(copy.execute, script("schema"))
        for source in _SOURCES:
            count = await _copy_table(ask, copy, source, seq, tell)
            if source.name in _PUBLIC:
                taken.rows[source.name] = count
        await asyncio.to_thread(_complete, copy, deployment, seq)
    finally:
        await asyncio.to_thread(copy.close)
    return taken


async def _copy_table(
    ask: Ask, copy: Connection, source: _Source, seq: int, tell: Callable[[str, int], None]
) -> int:
    where = source.where.format(seq=seq)
    size, count, last = PAGE_ROWS, 0, None
    while True:
        sql, params = _page(source, where, size, last)
        try:
            data, _ = await ask(sql, params, as_of=seq)
        except QueryError as error:
            if error.reason not in ("too_many_rows", "memory") or size == 1:
                raise
            size = max(1, size // 4)  # Rows of this table are large.
            continue
        found = await asyncio.to_thread(copy.insert, source.name, Table(data))
        count += found
        tell(source.name, count)
        if found < size:
            break
        last = await asyncio.to_thread(_last_key, copy, source)
    data, _ = await ask(f"SELECT count(*) FROM {source.name} WHERE {where}", (), as_of=seq)  # noqa: S608 - ours
    [(expected,)] = await asyncio.to_thread(copy.read, Table(data))
    if expected != count:
        raise ProjectionError(f"{source.name} has {expected} rows, and {count} came; take the snapshot again")
    return count


def _page(
    source: _Source, where: str, size: int, last: tuple[object, ...] | None
) -> tuple[str, tuple[object, ...]]:
    keys = ", ".join(source.key)
    behind = ""
    if last is not None:
        marks = ", ".join("?" * len(last))
        behind = f" AND ({keys}) > ({marks})" if len(last) > 1 else f" AND {keys} > {marks}"
    sql = f"SELECT * FROM {source.name} WHERE {where}{behind} ORDER BY {keys} LIMIT {size}"  # noqa: S608 - ours
    return sql, last or ()


def _last_key(copy: Connection, source: _Source) -> tuple[object, ...]:
    keys = ", ".join(source.key)
    order = ", ".join(f"{key} DESC" for key in source.key)
    [row] = copy.execute(f"SELECT {keys} FROM {source.name} ORDER BY {order} LIMIT 1")  # noqa: S608 - ours
    return tuple(row)


def _complete(copy: Connection, deployment: str, seq: int) -> None:
    """What makes the copy answer by itself, and say what it is."""
    copy.execute(_FOLD)
    copy.execute(script("as_of"))
    make_views(copy)
    copy.execute(
        "CREATE TABLE cas_snapshot (deployment VARCHAR, events_seq BIGINT, projection_version INTEGER, taken_at TIMESTAMP)"
    )
    taken_at = datetime.now(UTC).replace(tzinfo=None)
    copy.execute("INSERT INTO cas_snapshot VALUES (?, ?, ?, ?)", (deployment, seq, VERSION, taken_at))
    copy.execute("CHECKPOINT")


def _finish(work: Path, file: Path | None, parquet: Path | None) -> None:
    """Give what is whole its names."""
    made = work / "copy.duckdb"
    if parquet is not None:
        folder = work / "parquet"
        folder.mkdir()
        copy = make_copy_file(made)
        for name in (*_PUBLIC, "cas_snapshot"):
            target = str(folder / f"{name}.parquet").replace("'", "''")
            copy.execute(f"COPY {name} TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
        copy.close()
        for part in folder.iterdir():
            _sync(part)
    if file is not None:
        _sync(made)
        os.link(made, file)  # Unlike a rename, this fails when somebody made the name meanwhile.
        _sync(file.parent)
    if parquet is not None:
        (work / "parquet").rename(parquet)
        _sync(parquet.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
