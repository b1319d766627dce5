"""The DuckDB file: the only module that imports duckdb.

Owns how the file is opened and what a connection to it may do. No file, network or extension is within reach of any
statement, and nobody can change that once the file is open. One process has the file open for writing (DuckDB locks
it); within that process one thread writes, the others read through `cursor`s, each from its own snapshot.
Calls block; keeping them off the event loop is the caller's business. What is written is not decided here.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb

from cas_events.errors import FileInUseError, ProjectionError, QueryError
from projections.arrow_ipc import NanoarrowException, encode_stream

MEMORY_LIMIT = "1GB"
# The projector makes checkpoints itself, so DuckDB need not.
CHECKPOINT_THRESHOLD = "1GB"

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    # More threads make small statements slower; each connection's caller brings its own thread anyway.
    "threads": 1,
    # None of its own: a process that is forked off (`reader_process`) would miss them.
    "async_threads": 0,
    "memory_limit": MEMORY_LIMIT,
    "temp_directory": "",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,
}
_TREE_DEPTH_MAX = 900  # What every Python's JSON reader takes, so that all say the same.
_TOO_DEEP = "the statement is nested too deep"
_LOCKDOWN = (
    "SET GLOBAL TimeZone = 'UTC'",
    f"SET checkpoint_threshold = '{CHECKPOINT_THRESHOLD}'",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)

# Table functions that look only at the tables or at nothing; all others read files, change settings or take pointers.
_TABLE_FUNCTIONS = frozenset({
    "range", "generate_series", "unnest", "json_each", "json_tree", "repeat", "repeat_row", "summary", "histogram",
    "histogram_values", "duckdb_columns", "duckdb_constraints", "duckdb_functions", "duckdb_indexes",
    "duckdb_keywords", "duckdb_schemas", "duckdb_tables", "duckdb_types", "duckdb_views", "pragma_table_info",
    "pragma_show", "pragma_version", "pg_timezone_names", "icu_calendar_names",
})  # fmt: skip
_FORBIDDEN_FUNCTIONS = frozenset(
    {"write_log", "setseed", "nextval", "setval", "sleep_ms", "current_setting", "getenv"}
)

_REASONS: tuple[tuple[type[duckdb.Error], str], ...] = (
    (duckdb.OutOfMemoryException, "memory"),
    (duckdb.ParserException, "syntax"),
    (duckdb.PermissionException, "forbidden"),
)

Error = duckdb.Error
OutOfMemoryError = duckdb.OutOfMemoryException


class Connection:
    """One connection: statements run one after the other, in the calling thread."""

    def __init__(self, raw: duckdb.DuckDBPyConnection) -> None:
        self._raw = raw
        self._unprepared: dict[str, str] = {}

    def execute(self, sql: str, params: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        return self._raw.execute(sql, params or None).fetchall()

    def prepare(self, name: str, sql: str, *, at_once: bool) -> None:
        """Have a statement parsed and bound only once, now or at its first run; parameters are ``$1`` and so on."""
        self._unprepared[name] = sql
        if at_once:
            self._prepare(name)

    def run(self, name: str, *params: object) -> list[tuple[Any, ...]]:
        """Run a prepared statement and return its rows."""
        if name in self._unprepared:
            self._prepare(name)
        values = ", ".join(_literal(value) for value in params)
        return self._raw.execute(f"EXECUTE {name}({values})" if values else f"EXECUTE {name}").fetchall()

    def _prepare(self, name: str) -> None:
        self._raw.execute(f"PREPARE {name} AS {self._unprepared.pop(name)}")

    def insert(self, table: str, feed: object) -> int:
        """Put the rows of an object with `__arrow_c_stream__` into a table; how many they were."""
        self._raw.register("cas_feed_internal", feed)
        try:
            sql = f"INSERT INTO {table} SELECT * FROM cas_feed_internal"  # noqa: S608 - one of our names
            return int(self._raw.execute(sql).fetchall()[0][0])
        finally:
            self._raw.unregister("cas_feed_internal")

    def read(self, feed: object) -> list[tuple[Any, ...]]:
        """The rows of an object with `__arrow_c_stream__`."""
        self._raw.register("cas_feed_internal", feed)
        try:
            return self._raw.execute("FROM cas_feed_internal").fetchall()
        finally:
            self._raw.unregister("cas_feed_internal")

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

    def select(
        self, sql: str, params: Sequence[object] | Mapping[str, object], *, limit: int
    ) -> tuple[list[str], list[str], list[tuple[Any, ...]]]:
        """Run a user's statement in a read-only transaction of its own or of the caller.

        Args:
            sql: one statement that `check_select` has let through.
            params: values for ``?`` and ``$1``, or for ``$name``.
            limit: rows at most; what is beyond is not computed.

        Returns:
            Names of the columns, their SQL types, and the rows.

        Raises:
            QueryError: it failed.
        """
        try:
            relation = self._raw.sql(sql, params=_bindable(params))
            types = [str(type_) for type_ in relation.types]
            shown = relation.limit(limit).project(", ".join(_shown(n, t) for n, t in enumerate(types, 1)))
            return list(relation.columns), types, shown.fetchall()
        except duckdb.Error as error:
            raise _query_error(error) from error

    def select_arrow(
        self, sql: str, params: Sequence[object] | Mapping[str, object], *, limit: int
    ) -> tuple[bytes, int]:
        """As `select`, with the rows as one Arrow IPC stream, and how many they are.

        Raises:
            QueryError: it failed.
        """
        try:
            relation = self._raw.sql(sql, params=_bindable(params)).limit(limit)
            return encode_stream(relation)
        except duckdb.Error as error:
            raise _query_error(error) from error
        except NanoarrowException as error:  # What DuckDB says while rows are drawn comes wrapped.
            reason = "memory" if "Out of Memory" in str(error) else "failed"
            raise QueryError(_first_line(error), reason=reason) from error

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A read-only transaction: nothing can be written in the block, and it sees one state of the tables."""
        self._raw.execute("BEGIN TRANSACTION READ ONLY")
        try:
            yield
        finally:
            with suppress(duckdb.Error):
                self._raw.execute("ROLLBACK")

    def cursor(self) -> Connection:
        """Another connection to the same database, for another thread."""
        return Connection(self._raw.cursor())

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
        # Connections of one process to one file share their settings, so the second finds them made.
        if not raw.execute("SELECT current_setting('lock_configuration')").fetchall()[0][0]:
            for statement in _LOCKDOWN:
                raw.execute(statement)
    except (duckdb.Error, OSError) as error:
        raise _cannot_open(path, str(error)) from error
    return Connection(raw)


def make_copy_file(path: Path) -> Connection:
    """A new database file for a copy of the tables: without the bounds on what statements may reach, so only for ours.

    Raises:
        ProjectionError: it cannot be made.
    """
    try:
        return Connection(duckdb.connect(str(path), config={"autoinstall_known_extensions": False}))
    except (duckdb.Error, OSError) as error:
        raise ProjectionError(f"{path} cannot be made: {_first_line(error)}") from error


class StatementCheck:
    """Says which statements of users may run; an empty database in memory reads them. For any thread."""

    def __init__(self) -> None:
        self._parser = duckdb.connect(
            config={"threads": 1, "async_threads": 0, "enable_external_access": False}
        )
        self._lock = threading.Lock()

    def check(self, sql: str) -> str:
        """Refuse what a user may not run. What is let through has still to run in a `Connection.snapshot`.

        Returns:
            The statement alone, without what ends it.

        Raises:
            QueryError: it is no SQL, not exactly one statement, no SELECT, or calls what reaches out of the tables.
        """
        try:
            with self._lock:
                statements = self._parser.extract_statements(sql)
                kinds = [statement.type for statement in statements]
                if len(kinds) != 1:
                    raise QueryError(f"exactly one statement is allowed, not {len(kinds)}", reason="syntax")
                if kinds[0] is not duckdb.StatementType.SELECT:
                    raise QueryError(f"only SELECT is allowed, not {kinds[0].name}", reason="not_read_only")
                [(serialized,)] = self._parser.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
        except duckdb.Error as error:
            raise _query_error(error) from error
        try:
            tree = json.loads(serialized)
        except RecursionError:
            raise QueryError(_TOO_DEEP, reason="syntax") from None
        if tree["error"]:
            raise QueryError(str(tree.get("error_message")), reason="syntax")
        _check_functions(tree["statements"])
        return _without_end(statements[0].query)

    def close(self) -> None:
        """Close; idempotent."""
        with self._lock:
            self._parser.close()


def _without_end(statement: str) -> str:
    """A statement up to the semicolon that ends it, which a comment may follow."""
    text = statement.encode()
    ends = (
        at
        for at, kind in duckdb.tokenize(statement)
        if text[at : at + 1] == b";" and kind == duckdb.token_type.operator
    )
    return text[: next(ends, None)].decode()


def _check_functions(tree: Any) -> None:
    """Walk a serialized statement; level by level, since it may be deep."""
    level = [tree]
    for _ in range(_TREE_DEPTH_MAX):
        if not level:
            return
        below: list[Any] = []
        for node in level:
            if isinstance(node, list):
                below += node
            elif isinstance(node, dict):
                below += node.values()
                _check_node(node)
        level = below
    raise QueryError(_TOO_DEEP, reason="syntax")


def _check_node(node: dict[str, Any]) -> None:
    kind = str(node.get("type"))
    if kind.endswith("_QUERY_NODE"):
        raise QueryError(
            f"only SELECT is allowed, not {kind.removesuffix('_QUERY_NODE')}", reason="not_read_only"
        )
    if kind == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name")).lower()
        if name not in _TABLE_FUNCTIONS and not name.startswith("cas_"):
            raise QueryError(f"the table function {name} is not allowed", reason="forbidden")
    elif str(node.get("function_name")).lower() in _FORBIDDEN_FUNCTIONS:
        raise QueryError(f"the function {node['function_name']} is not allowed", reason="forbidden")


def _shown(position: int, type_: str) -> str:
    """A column as it is fetched: DuckDB needs a package that we do not have to hand over times with zones."""
    return f"#{position}::TIMESTAMP" if type_ == "TIMESTAMP WITH TIME ZONE" else f"#{position}"


def _bindable(params: Sequence[object] | Mapping[str, object]) -> Any:
    return (dict(params) if isinstance(params, Mapping) else list(params)) or None


def _query_error(error: duckdb.Error) -> QueryError:
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return QueryError(_first_line(error), reason=reason)
    return QueryError(_first_line(error), reason="failed")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _cannot_open(path: Path, problem: str) -> ProjectionError:
    holder = re.search(r"Conflicting lock is held in .*?\(PID (\d+)\)", problem)
    if holder:
        return FileInUseError(str(path), int(holder[1]))
    if "does not exist" in problem:
        return ProjectionError(f"{path} does not exist; start a projector (`cas projector`) first")
    return ProjectionError(
        f"{path} cannot be opened: {problem.partition(chr(10))[0]}; if it is damaged, `cas rebuild` makes it anew from the log"
    )


def _literal(value: object) -> str:
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    raise TypeError(f"no literal for {value!r}")
