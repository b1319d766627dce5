"""SQL for commands: from the projector, or from its file when none runs.

The file is a second best, since it stands still: a note on stderr says so. Without a server that anybody named, the
file alone answers; with one that is named and cannot be reached, that is the error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from cas_events.cli.output import note
from cas_events.errors import NoRespondersError, ProjectionError, QueryError, ServerNotConfiguredError
from cas_events.settings import Settings

if TYPE_CHECKING:
    from cas_events.jetstream.connection import Connection
    from cas_events.wire.rows import QueryResult


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Connection | None]:
    """A connection; None when no server is named and none runs here, but there are tables to read.

    Raises:
        ServerNotConfiguredError: there are no tables either.
        ServerUnreachableError: the server does not answer.
    """
    from cas_events.jetstream.connection import Connection  # noqa: PLC0415 - see the package's docstring

    try:
        url = settings.url()
    except ServerNotConfiguredError:
        if not settings.database_path.exists():
            raise
        yield None
        return
    async with await Connection.open(url, name="cas-command") as connection:
        yield connection


async def query(
    settings: Settings,
    connection: Connection | None,
    sql: str,
    params: Sequence[Any] = (),
    *,
    wait_for: int = 0,
    limit: int | None = None,
    as_of: int | str | None = None,
) -> QueryResult:
    """Answer one read-only statement.

    Raises:
        QueryError: it was refused or failed.
        ProjectionError: neither a projector nor its file answers.
    """
    from cas_events import sql_client as ask  # noqa: PLC0415 - see the package's docstring

    if connection is None:
        return await _query_file(settings, sql, params, limit, as_of)
    try:
        return await ask.query(
            connection, settings.deployment, sql, params, wait_for=wait_for, limit=limit, as_of=as_of
        )
    except ProjectionError as error:
        if not _may_read_file(error, settings, wait_for):
            raise
        return await _query_file(settings, sql, params, limit, as_of)


async def query_arrow(
    settings: Settings,
    connection: Connection | None,
    sql: str,
    params: Sequence[Any] = (),
    *,
    wait_for: int = 0,
    as_of: int | str | None = None,
) -> bytes:
    """As `query`, with the rows as an Arrow IPC stream."""
    from cas_events import sql_client as ask  # noqa: PLC0415 - see the package's docstring
    from projections.queries import reading  # noqa: PLC0415

    if connection is not None:
        try:
            answer = await ask.query_arrow(
                connection, settings.deployment, sql, params, wait_for=wait_for, as_of=as_of
            )
        except ProjectionError as error:
            if not _may_read_file(error, settings, wait_for):
                raise
        else:
            return answer.data
    async with reading(settings.database_path) as queries:
        found = await queries.run(sql, params, as_of=as_of, arrow=True)
    note(f"no projector runs; read from {settings.database_path} as of sequence {found.as_of}")
    return found.arrow


def _may_read_file(error: ProjectionError, settings: Settings, wait_for: int) -> bool:
    """Whether nobody answers, and the file may instead."""
    is_silent = not isinstance(error, QueryError) and isinstance(error.__cause__, NoRespondersError)
    return is_silent and not wait_for and settings.database_path.exists()


async def _query_file(
    settings: Settings, sql: str, params: Sequence[Any], limit: int | None, as_of: int | str | None
) -> QueryResult:
    from projections.queries import query_file  # noqa: PLC0415 - see the package's docstring

    answer = await query_file(settings.database_path, sql, params, limit=limit, as_of=as_of)
    note(f"no projector runs; read from {settings.database_path} as of sequence {answer.as_of}")
    return answer


async def last_seq(settings: Settings) -> int:
    """The newest sequence of the event stream."""
    from cas_events.jetstream.api import JetStream  # noqa: PLC0415 - see the package's docstring
    from cas_events.jetstream.connection import Connection  # noqa: PLC0415
    from cas_events.wire.subjects import Names  # noqa: PLC0415

    async with await Connection.open(settings.url(), name="cas-command") as connection:
        info = await JetStream(connection).stream_info(Names(settings.deployment).events)
        return info.state.last_seq
