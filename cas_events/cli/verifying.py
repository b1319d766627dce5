"""`cas verify`: the tables against the log, with a second fold in plain Python."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cas_events.cli.options import Json
from cas_events.cli.output import json_bytes, note, print_table, say
from cas_events.cli.session import ask
from cas_events.errors import NoRespondersError, ProjectionError, VerificationError
from cas_events.settings import Settings

if TYPE_CHECKING:
    from cas_events.jetstream.connection import Connection
    from cas_events.wire.rows import QueryResult
    from projections.verify.check import Ask, Report

_TELL_EVERY = 100_000  # messages


def verify(
    show: Annotated[
        int, typer.Option("--show", metavar="N", min=0, max=100, help="Print at most so many differences.")
    ] = 20,
    json: Json = False,
) -> None:
    """Check the tables against the log, row for row, and every task's lifecycle against the state machine.

    The log is folded a second time, by other code. The projector may run on meanwhile; without one its file is read.
    The exit code is 1 when anything is not as it must be.
    """
    ask(_verify(show, json=json))


async def _verify(show: int, *, json: bool) -> None:
    from cas_events.jetstream.connection import Connection  # noqa: PLC0415 - see the package's docstring
    from cas_events.wire.subjects import Names  # noqa: PLC0415
    from projections.verify.check import Check  # noqa: PLC0415

    settings = Settings.from_env()
    async with (
        await Connection.open(settings.url(), name="cas-command") as connection,
        _tables(settings, connection) as put,
    ):
        report = await Check(connection, Names(settings.deployment), put, _teller()).run()
    if json:
        say(json_bytes(report).decode())
    else:
        _print(report, show)
    if not report.is_good:
        raise VerificationError(report.difference_count, report.complaint_count)


@asynccontextmanager
async def _tables(settings: Settings, connection: Connection) -> AsyncIterator[Ask]:
    """Whoever answers: the projector, or its file when none runs, which is opened once and stands still."""
    from cas_events import sql_client  # noqa: PLC0415 - see the package's docstring
    from projections.queries import reading  # noqa: PLC0415

    async def of_projector(sql: str, params: Sequence[object]) -> QueryResult:
        return await sql_client.query(connection, settings.deployment, sql, params)

    try:
        await of_projector("SELECT 1", ())
    except ProjectionError as error:
        if not isinstance(error.__cause__, NoRespondersError) or not settings.database_path.exists():
            raise
        async with reading(settings.database_path) as queries:

            async def of_file(sql: str, params: Sequence[object]) -> QueryResult:
                return (await queries.run(sql, params)).decoded()

            yield of_file
    else:
        yield of_projector


def _print(report: Report, show: int) -> None:
    rows = sum(report.rows.values())
    say(
        f"{rows:,} rows compared with {report.commands:,} commands and {report.events:,} events: "
        f"{report.difference_count:,} differences; {report.complaint_count:,} lifecycles out of order"
    )
    if report.log_begins > 1:
        note(f"the log begins at event {report.log_begins:,}; what retention took before cannot be checked")
    if report.unverified:
        note(
            f"{report.unverified:,} rows could not be compared: too large, changing, or made of what the log has lost"
        )
    if report.differences[:show]:
        cells = [[d.table, d.key, d.column, d.expected, d.found] for d in report.differences[:show]]
        print_table(["table", "key", "column", "expected", "found"], cells)
    for text in report.complaints[:show]:
        say(text)


def _teller() -> Callable[[int, int], None]:
    told = 0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if done < told:
            told = 0  # The other stream.
        if done - told >= _TELL_EVERY:
            told = done
            note(f"{done:,} of {total:,} messages")

    return tell
