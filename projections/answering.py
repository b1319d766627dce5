"""One question, answered on one connection: checked, in a read-only snapshot, bounded in rows and bytes.

Blocking, and without any bound on time and memory: those are the process's in which it runs (`reader_process`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cas_events.errors import QueryError
from cas_events.wire.rows import QueryResult, decode_rows, encode_rows
from projections.past import AsOf, in_the_past, sequence_of
from projections.store import Connection, StatementCheck

Params = Sequence[object] | Mapping[str, object]

SQL_BYTES_MAX = 256 * 1024
_POSITION = "SELECT last_seq FROM cas_projection WHERE stream = ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one query may take.

    Attributes:
        time_s: then it is ended.
        memory_bytes: beyond what the tables take anyway; half a gigabyte of it may be a single value.
        rows: at most.
        result_bytes: of the encoded rows, at most.
    """

    time_s: float = 10.0
    memory_bytes: int = 1024 * 1024 * 1024
    rows: int = 100_000
    result_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked; see `queries.Queries.run`."""

    sql: str
    params: Params
    limit: int | None
    as_of: AsOf
    arrow: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """A query's result with its rows already encoded: each as a JSON array, or all as one Arrow IPC stream."""

    columns: list[str]
    types: list[str]
    rows: list[bytes]
    as_of: int
    arrow: bytes = b""

    def decoded(self) -> QueryResult:
        """The same as values."""
        return QueryResult(
            self.columns, self.types, decode_rows(b"[" + b",".join(self.rows) + b"]"), self.as_of
        )


class Answering:
    """Answers questions one after the other, on a connection that is made for the first of them.

    Args:
        connect: makes the connection.
        events_stream: whose stored position is `as_of`.
        limits: of each question.
        statements: says what may run.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        *,
        events_stream: str,
        limits: Limits,
        statements: StatementCheck,
    ) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._events_stream = events_stream
        self._limits = limits
        self._statements = statements

    def answer(self, question: Question) -> Answer:
        """Answer one.

        Raises:
            QueryError: it was refused or failed; ``reason`` says which.
        """
        if len(question.sql) > SQL_BYTES_MAX:
            raise QueryError(f"the statement is over {SQL_BYTES_MAX} characters", reason="syntax")
        statement = self._statements.check(question.sql)
        connection = self._connection = self._connection or self._connect()
        with connection.snapshot():
            [(seq,)] = connection.select(_POSITION, (self._events_stream,), limit=1)[2]
            if question.as_of is not None:
                seq = sequence_of(connection, question.as_of, seq)
                statement = in_the_past(statement, seq)
            return self._selected(connection, statement, question, seq)

    def _selected(self, connection: Connection, statement: str, question: Question, seq: int) -> Answer:
        limit = question.limit
        most = self._limits.rows if limit is None else min(limit, self._limits.rows)
        fetched = most + (limit is None)
        if question.arrow:
            stream, count = connection.select_arrow(statement, question.params, limit=fetched)
            self._require_small(count, most, len(stream))
            return Answer([], [], [], seq, stream)
        columns, types, rows = connection.select(statement, question.params, limit=fetched)
        self._require_small(len(rows), most, 0)
        encoded = encode_rows(types, rows)
        self._require_small(len(rows), most, sum(map(len, encoded)))
        return Answer(columns, types, encoded, seq)

    def _require_small(self, rows: int, most: int, size: int) -> None:
        if rows > most:
            raise QueryError(
                f"more than {most} rows; add a LIMIT, or ask for parts by last_seq or seq",
                reason="too_many_rows",
            )
        if size > self._limits.result_bytes:
            raise QueryError(
                f"more than {self._limits.result_bytes} bytes; ask for less", reason="too_many_rows"
            )
