"""Asking a running projector, from any process: the other end of `projections.service`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from cas_events.errors import ConnectionLostError, NoRespondersError, ProjectionError, QueryError
from cas_events.jetstream.connection import Connection, Message
from cas_events.wire.rows import QueryResult, decode_any
from cas_events.wire.subjects import Names

T = TypeVar("T")


class ArrowResult(NamedTuple):
    """Rows as one Arrow IPC stream, for whatever reads that: DuckDB, Polars, pandas, nanoarrow.

    Attributes:
        data: the stream's bytes.
        as_of: up to which sequence of the event stream the tables were when asked.
    """

    data: bytes
    as_of: int


async def query(
    connection: Connection,
    deployment: str,
    sql: str,
    params: Sequence[object] | Mapping[str, object] = (),
    *,
    wait_for: int = 0,
    limit: int | None = None,
    as_of: int | str | None = None,
    timeout_s: float = 20.0,
) -> QueryResult:
    """Ask the projector of a deployment.

    Args:
        connection: to the server that it is connected to as well.
        deployment: whose tables.
        sql: one SELECT.
        params: values for ``?`` and ``$1`` (a sequence), or for ``$name`` (a mapping).
        wait_for: answer only when the tables hold the events up to this sequence.
        limit: rows at most.
        as_of: a sequence of the event stream, or a time in ISO 8601 (UTC without an offset): the tables as they were then.
        timeout_s: bound of the whole, in seconds.

    Raises:
        QueryError: it was refused or failed; ``reason`` says which.
        ProjectionError: no projector answers.
    """
    request = _request(sql, params, wait_for, limit, as_of)
    return await _bounded(
        deployment, timeout_s, lambda subject: _collect(connection, subject, request, timeout_s)
    )


async def query_arrow(
    connection: Connection,
    deployment: str,
    sql: str,
    params: Sequence[object] | Mapping[str, object] = (),
    *,
    wait_for: int = 0,
    limit: int | None = None,
    as_of: int | str | None = None,
    timeout_s: float = 20.0,
) -> ArrowResult:
    """As `query`, with the rows as Arrow."""
    request = _request(sql, params, wait_for, limit, as_of) | {"format": "arrow"}
    return await _bounded(
        deployment, timeout_s, lambda subject: _collect_arrow(connection, subject, request, timeout_s)
    )


def _request(
    sql: str,
    params: Sequence[object] | Mapping[str, object],
    wait_for: int,
    limit: int | None,
    as_of: int | str | None,
) -> dict[str, Any]:
    request: dict[str, Any] = {
        "sql": sql,
        "params": dict(params) if isinstance(params, Mapping) else list(params),
    }
    if wait_for:
        request["wait_for"] = wait_for
    if limit is not None:
        request["limit"] = limit
    if as_of is not None:
        request["as_of"] = as_of
    return request


async def _bounded(deployment: str, timeout_s: float, ask: Callable[[str], Awaitable[T]]) -> T:
    try:
        async with asyncio.timeout(timeout_s):
            return await ask(Names(deployment).sql_service)
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
