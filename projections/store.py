"""The DuckDB file: the only module that imports duckdb.

Owns how the file is opened and what a connection to it may do. No file, network or extension is within reach of any
statement, and nobody can change that once the file is open. One process has the file open for writing (DuckDB locks
it); within that process one thread writes, the others read through `cursor`s, each from its own snapshot.
Calls block; keeping them off the event loop is the caller's business. What is written is not decided here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb

from cas_events.errors import ProjectionError

log = logging.getLogger(__name__)

MEMORY_LIMIT = "1GB"
# A checkpoint stops the writer for a while; the projector makes them when it has time, so DuckDB need not.
CHECKPOINT_THRESHOLD = "1GB"

_CONFIG = {
    # More threads make small statements slower; each connection's caller brings its own thread anyway.
    "threads": 1,
    "memory_limit": MEMORY_LIMIT,
    "temp_directory": "",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,
}
_LOCKDOWN = (
    "SET TimeZone = 'UTC'",
    f"SET checkpoint_threshold = '{CHECKPOINT_THRESHOLD}'",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)

Error = duckdb.Error
OutOfMemoryError = duckdb.OutOfMemoryException


class Connection:
    """One connection: statements run one after the other, in the calling thread."""

    def __init__(self, raw: duckdb.DuckDBPyConnection) -> None:
        self._raw = raw

    def execute(self, sql: str, params: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        return self._raw.execute(sql, params or None).fetchall()

    def prepare(self, name: str, sql: str) -> None:
        """Plan a statement once; parameters are ``$1``, ``$2`` and so on."""
        self._raw.execute(f"PREPARE {name} AS {sql}")

    def run(self, name: str, *params: object) -> list[tuple[Any, ...]]:
        """Run a prepared statement and return its rows."""
        values = ", ".join(_literal(value) for value in params)
        return self._raw.execute(f"EXECUTE {name}({values})" if values else f"EXECUTE {name}").fetchall()

    def register(self, name: str, feed: object) -> None:
        """Show an object with `__arrow_c_stream__` as a table; it is asked anew by each statement."""
        self._raw.register(name, feed)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing: rolled back when the block raises."""
        self._raw.execute("BEGIN")
        try:
            yield
        except BaseException:
            with suppress(duckdb.Error):  # DuckDB has rolled back already after some errors.
                self._raw.execute("ROLLBACK")
            raise
        self._raw.execute("COMMIT")

    def cursor(self) -> Connection:
        """Another connection to the same database, for another thread."""
        return Connection(self._raw.cursor())

    def interrupt(self) -> None:
        """End what runs on this connection in another thread, at its next chance."""
        self._raw.interrupt()

    def close(self) -> None:
        """Close; idempotent."""
        self._raw.close()


def open_file(path: Path, *, read_only: bool = False) -> Connection:
    """Open the database file, and make it if it is not there and ``read_only`` is not set.

    Raises:
        ProjectionError: it cannot be opened; the message says why in one line.
    """
    try:
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        raw = duckdb.connect(str(path), read_only=read_only, config=_CONFIG)
        for statement in _LOCKDOWN:
            raw.execute(statement)
    except (duckdb.Error, OSError) as error:
        raise ProjectionError(_cannot_open(path, str(error))) from error
    return Connection(raw)


def _cannot_open(path: Path, problem: str) -> str:
    holder = re.search(r"Conflicting lock is held in .*?\(PID (\d+)\)", problem)
    if holder:
        return f"{path} is in use by process {holder[1]}; ask that projector, or stop it"
    if "does not exist" in problem:
        return f"{path} does not exist; start a projector (`cas projector`) first"
    first_line = problem.partition("\n")[0]
    return f"{path} cannot be opened: {first_line}; it can be deleted, a projector makes it anew from the log"


def _literal(value: object) -> str:
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    raise TypeError(f"no literal for {value!r}")
