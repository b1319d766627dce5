"""Asking a running projector, from any process: the other end of `projections.service`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cas_events.errors import ConnectionLostError, NoRespondersError, ProjectionError, QueryError
from cas_events.jetstream.connection import Connection
from cas_events.wire.rows import QueryResult, decode_any
from cas_events.wire.subjects import Names


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
    subject = Names(deployment).sql_service
    try:
        async with asyncio.timeout(timeout_s):
            return await _collect(connection, subject, request, timeout_s)
    except NoRespondersError as error:
        raise ProjectionError(
            f"no projector of {deployment} is running; start one with `cas projector`"
        ) from error
    except (TimeoutError, ConnectionLostError) as error:
        raise ProjectionError(f"the projector did not answer within {timeout_s:g} s") from error


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
    message = await connection.request(subject, msgspec.json.encode(request), timeout_s=timeout_s)
    failure = message.header_value("Nats-Service-Error")
    if failure:
        raise QueryError(f"the projector failed: {failure}")
    answer: dict[str, Any] = decode_any(message.data)
    if "error" in answer:
        raise QueryError(answer["error"]["message"], reason=answer["error"]["reason"])
    return answer
