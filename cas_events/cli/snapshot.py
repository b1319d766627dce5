"""`cas snapshot`: a copy of the tables at one position, for an auditor who has neither NATS nor this program."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cas_events.cli.asking import connected
from cas_events.cli.options import AsOf, Json, as_of_value
from cas_events.cli.output import note, print_json_line, say
from cas_events.cli.session import ask
from cas_events.errors import NoRespondersError, ProjectionError, QueryError
from cas_events.settings import Settings

if TYPE_CHECKING:
    from projections.snapshot import Ask

_PAGE_S = 60.0


def snapshot(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE.duckdb", help="The new file; never one that exists.")
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(
            "--parquet", metavar="DIR", help="Also, or only, a new folder with one Parquet file a table."
        ),
    ] = None,
    as_of: AsOf = None,
    json: Json = False,
) -> None:
    """Copy all tables as of one event, while the projector goes on; any DuckDB opens the copy.

    The copy is written here, by this command: the projector is asked for rows, in pages, and writes nothing.
    """
    if file is None and parquet is None:
        raise typer.BadParameter("name a file, or a folder with --parquet", param_hint="FILE.duckdb")
    ask(_snapshot(file, parquet, as_of_value(as_of), json=json))


async def _snapshot(file: Path | None, parquet: Path | None, as_of: int | str | None, *, json: bool) -> None:
    from projections.snapshot import take_snapshot  # noqa: PLC0415 - see the package's docstring

    settings = Settings.from_env()
    async with _asking(settings) as asked:
        taken = await take_snapshot(
            asked, deployment=settings.deployment, file=file, parquet=parquet, as_of=as_of
        )
    targets = [str(target) for target in (file, parquet) if target is not None]
    if json:
        print_json_line({"as_of": taken.as_of, "rows": taken.rows, "targets": targets})
        return
    say(f"{' and '.join(targets)}: {sum(taken.rows.values()):,} rows as of sequence {taken.as_of}")


@asynccontextmanager
async def _asking(settings: Settings) -> AsyncIterator[Ask]:
    """The projector, or its file when none runs."""
    from cas_events import sql_client  # noqa: PLC0415 - see the package's docstring
    from projections.queries import reading  # noqa: PLC0415

    async with connected(settings) as connection:
        if connection is not None:
            nats = connection

            async def of_projector(
                sql: str, params: Sequence[object], *, as_of: int | str | None
            ) -> tuple[bytes, int]:
                return await sql_client.query_arrow(
                    nats, settings.deployment, sql, params, as_of=as_of, timeout_s=_PAGE_S
                )

            try:
                await of_projector("SELECT 1", (), as_of=None)
            except ProjectionError as error:
                is_silent = not isinstance(error, QueryError) and isinstance(
                    error.__cause__, NoRespondersError
                )
                if not is_silent or not settings.database_path.exists():
                    raise
            else:
                yield of_projector
                return
        async with reading(settings.database_path) as queries:
            note(f"no projector runs; copied from {settings.database_path}")

            async def of_file(
                sql: str, params: Sequence[Any], *, as_of: int | str | None
            ) -> tuple[bytes, int]:
                answer = await queries.run(sql, params, as_of=as_of, arrow=True)
                return answer.arrow, answer.as_of

            yield of_file
