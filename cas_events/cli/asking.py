"""SQL for commands: from the projector, or from its file when none runs.

The file is a second best, since it stands still: a note on stderr says so. Without a server that anybody named, the
file alone answers; with one that is named and cannot be reached, that is the error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Unpack

from cas_events.cli.output import note
from cas_events.errors import NoRespondersError, ProjectionError, QueryError, ServerNotConfiguredError
from cas_events.settings import Settings

if TYPE_CHECKING:
    from cas_events.jetstream.connection import Connection
    from cas_events.sql_client import SqlOptions
    from cas_events.wire.rows import QueryResult
    from projections.answering import Answer


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
    **options: Unpack[SqlOptions],
) -> QueryResult:
    """Answer one read-only statement.

    Raises:
        QueryError: it was refused or failed.
        ProjectionError: neither a projector nor its file answers.
    """
    from cas_events.sql_client import query as ask  # noqa: PLC0415 - see the package's docstring

    if connection is not None:
        with _or_file(settings, options):
            return await ask(connection, settings.deployment, sql, params, **options)
    return (await _ask_file(settings, sql, params, options, arrow=False)).decoded()


async def query_arrow(
    settings: Settings,
    connection: Connection | None,
    sql: str,
    params: Sequence[Any] = (),
    **options: Unpack[SqlOptions],
) -> bytes:
    """As `query`, with the rows as an Arrow IPC stream."""
    from cas_events.sql_client import query_arrow as ask  # noqa: PLC0415 - see the package's docstring

    if connection is not None:
        with _or_file(settings, options):
            return (await ask(connection, settings.deployment, sql, params, **options)).data
    return (await _ask_file(settings, sql, params, options, arrow=True)).arrow


@contextmanager
def _or_file(settings: Settings, options: SqlOptions) -> Iterator[None]:
    """Pass over that nobody answers, when the file may instead."""
    try:
        yield
    except ProjectionError as error:
        if not _may_read_file(error, settings, options.get("wait_for", 0)):
            raise


def _may_read_file(error: ProjectionError, settings: Settings, wait_for: int) -> bool:
    """Whether nobody answers, and the file may instead."""
    is_silent = not isinstance(error, QueryError) and isinstance(error.__cause__, NoRespondersError)
    return is_silent and not wait_for and settings.database_path.exists()


async def _ask_file(
    settings: Settings, sql: str, params: Sequence[Any], options: SqlOptions, *, arrow: bool
) -> Answer:
    from projections.queries import reading  # noqa: PLC0415 - see the package's docstring

    async with reading(settings.database_path) as queries:
        answer = await queries.run(
            sql, params, limit=options.get("limit"), as_of=options.get("as_of"), arrow=arrow
        )
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
