"""Asking the projector SQL over NATS: one request on ``<deployment>.svc.sql``."""

from __future__ import annotations

from typing import Any

import msgspec

from cas_events.errors import ConnectionLostError, NoRespondersError, ProjectionError, QueryError
from cas_events.jetstream.connection import Connection
from cas_events.wire.subjects import Names


class SqlAnswer(msgspec.Struct, frozen=True):
    """The rows of a query, and the `CAS_EVENTS` position that they were read at."""

    columns: list[str] = []
    types: list[str] = []
    rows: list[list[Any]] = []
    as_of: int = 0
    error: dict[str, str] | None = None


async def query(
    connection: Connection,
    names: Names,
    statement: str,
    params: list[Any] | None = None,
    *,
    wait_for: int = 0,
    timeout_s: float = 15.0,
) -> SqlAnswer:
    """Ask the projector.

    Raises:
        QueryError: the statement was refused or failed.
        ProjectionError: no projector answers.
    """
    request = {"sql": statement, "params": params or [], "wait_for": wait_for}
    try:
        message = await connection.request(
            names.sql_service, msgspec.json.encode(request), timeout_s=timeout_s
        )
    except NoRespondersError:
        raise ProjectionError("no projector is running; start one with `cas projector` or `cas up`") from None
    except ConnectionLostError as error:
        raise ProjectionError(f"the projector did not answer within {timeout_s:g} s") from error
    answer = msgspec.json.decode(message.data, type=SqlAnswer)
    if answer.error is not None:
        raise QueryError(answer.error.get("message", "failed"), reason=answer.error.get("reason", "failed"))
    return answer
