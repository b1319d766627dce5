"""Asking a running projector, from any process: the other end of `projections.service`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, TypeVar, Unpack

import msgspec

from cas_events.errors import ConnectionLostError, NoRespondersError, ProjectionError, QueryError
from cas_events.jetstream.connection import Connection, Message
from cas_events.wire.rows import QueryResult, decode_any
from cas_events.wire.subjects import Names

T = TypeVar("T")
Params = Sequence[object] | Mapping[str, object]

TIMEOUT_S = 20.0


class ArrowResult(NamedTuple):
    """Rows as one Arrow IPC stream, for whatever reads that: DuckDB, Polars, pandas, nanoarrow.

    Attributes:
        data: the stream's bytes.
        as_of: up to which sequence of the event stream the tables were when asked.
    """

    data: bytes
    as_of: int


class SqlOptions(TypedDict, total=False):
    """How a question is put.

    Attributes:
        wait_for: answer only when the tables hold the events up to this sequence (read your writes).
        limit: rows at most; what is beyond is cut without an error.
        as_of: a sequence of the event stream, or a time in ISO 8601 (UTC without an offset): the tables as they were then.
        timeout_s: bound of the whole, in seconds; 20 without it.
    """

    wait_for: int
    limit: int | None
    as_of: int | str | None
    timeout_s: float


async def query(
    connection: Connection,
    deployment: str,
    sql: str,
    params: Params = (),
    **options: Unpack[SqlOptions],
) -> QueryResult:
    """Ask the projector of a deployment.

    Args:
        connection: to the server that it is connected to as well.
        deployment: whose tables.
        sql: one SELECT.
        params: values for ``?`` and ``$1`` (a sequence), or for ``$name`` (a mapping).
        **options: see `SqlOptions`.

    Raises:
        QueryError: it was refused or failed; ``reason`` says which.
        ProjectionError: no projector answers.
    """
    return await _bounded(_collect, connection, deployment, _request(sql, params, options), options)


async def query_arrow(
    connection: Connection,
    deployment: str,
    sql: str,
    params: Params = (),
    **options: Unpack[SqlOptions],
) -> ArrowResult:
    """As `query`, with the rows as Arrow."""
    request = _request(sql, params, options) | {"format": "arrow"}
    return await _bounded(_collect_arrow, connection, deployment, request, options)


def _request(sql: str, params: Params, options: SqlOptions) -> dict[str, Any]:
    values = dict(params) if isinstance(params, Mapping) else list(params)
    asked = {name: options.get(name) for name in ("wait_for", "limit", "as_of")}
    return {"sql": sql, "params": values} | {
        name: value for name, value in asked.items() if value is not None and (name, value) != ("wait_for", 0)
    }


async def _bounded(
    collect: Callable[[Connection, str, dict[str, Any], float], Awaitable[T]],
    connection: Connection,
    deployment: str,
    request: dict[str, Any],
    options: SqlOptions,
) -> T:
    timeout_s = options.get("timeout_s", TIMEOUT_S)
    try:
        async with asyncio.timeout(timeout_s):
            return await collect(connection, Names(deployment).sql_service, request, timeout_s)
    except NoRespondersError as error:
        raise ProjectionError(
            f"no projector of {deployment} is running; start one with `cas projector`"
        ) from error
    except (TimeoutError, ConnectionLostError) as error:
        raise ProjectionError(f"the projector did not answer within {timeout_s:g} s") from error


async def _collect_arrow(
    connection: Connection, subject: str, request: dict[str, Any], timeout_s: float
) -> ArrowResult:
    """The whole stream, whose parts are asked for one after the other."""
    parts: list[bytes] = []
    while True:
        message = await _send(connection, subject, request, timeout_s)
        if message.header_value("Cas-Format") != "arrow":
            _checked(decode_any(message.data))
            raise QueryError("the projector does not know Arrow; it may be of an older version")
        parts.append(message.data)
        more = message.header_value("Cas-More")
        if more is None:
            return ArrowResult(b"".join(parts), int(message.header_value("Cas-As-Of") or 0))
        request = {"more": more}


async def _collect(
    connection: Connection, subject: str, request: dict[str, Any], timeout_s: float
) -> QueryResult:
    """The whole answer, whose parts are asked for one after the other."""
    answer = await _ask(connection, subject, request, timeout_s)
    rows = answer["rows"]
    part = answer
    while "more" in part:
        part = await _ask(connection, subject, {"more": part["more"]}, timeout_s)
        rows += part["rows"]
    return QueryResult(answer["columns"], answer["types"], [tuple(row) for row in rows], answer["as_of"])


async def _ask(
    connection: Connection, subject: str, request: dict[str, Any], timeout_s: float
) -> dict[str, Any]:
    message = await _send(connection, subject, request, timeout_s)
    return _checked(decode_any(message.data))


async def _send(connection: Connection, subject: str, request: dict[str, Any], timeout_s: float) -> Message:
    message = await connection.request(subject, msgspec.json.encode(request), timeout_s=timeout_s)
    failure = message.header_value("Nats-Service-Error")
    if failure:
        raise QueryError(f"the projector failed: {failure}")
    return message


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise QueryError(answer["error"]["message"], reason=answer["error"]["reason"])
    return answer
