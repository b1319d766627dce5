"""`scripts/demo`: the whole way once, on a real source tree, with nothing running before and nothing left after.

Brings up a server, a runner process and a projector process under CAS_HOME, has the `security-audit` workflow look
through a folder, follows it, asks the tables three questions, says how to go on and ends every process. Findings are
what it is for, so they are no failure. The processes' own logs go to files in the home.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from cas_events import Client, Task, TaskResult
from cas_events.cli import demo_report, entry, logs
from cas_events.cli.asking import query
from cas_events.cli.output import console, print_table
from cas_events.cli.problems import TaskNotCompletedError
from cas_events.cli.stack import Plan, Stack
from cas_events.cli.texts import failure_text
from cas_events.cli.view import TaskView
from cas_events.errors import CasEventsError, PathNotFoundError, ProjectionError
from cas_events.jetstream.connection import Connection
from cas_events.settings import Settings

AGENT = "security-audit"
READY_S = 60.0
CANCEL_S = 3.0

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def demo(
    path: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder, or the file, to look through.")
    ] = Path(),
) -> None:
    """Audit a source tree through the log, and ask the tables what came out. The tree is only read."""
    if not path.exists():
        raise PathNotFoundError(str(path))
    settings = Settings.from_env()
    logs.configure_command(settings.log_level)
    asyncio.run(_demo(path.absolute(), settings))


async def _demo(path: Path, settings: Settings) -> None:
    target = console()
    folder = settings.home / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    async with Stack(Plan(settings=settings, log_folder=folder, agent=AGENT)) as stack:
        await _wait_ready(target, stack)
        result, shown = await _audit(target, stack.settings, path)
        demo_report.print_result(target, result.output)
        await _ask_tables(target, stack.settings, result)
    demo_report.print_next_steps(target, settings.home, result.task_id, path, shown)


async def _wait_ready(target: Console, stack: Stack) -> None:
    with target.status("starting server, runner and projector"):
        late = await stack.wait_ready(READY_S)
    if late:
        folder = stack.settings.home / "logs"
        raise CasEventsError(f"{' and '.join(late)} did not answer within {READY_S:g} s; see {folder}")
    for name, pid in stack.pids().items():
        place = f", {stack.url}" if name == "server" else ""
        target.print(Text(f"{name:<10}process {pid}{place}", style="dim"))


# --- the task --------------------------------------------------------------------------------------------------------


async def _audit(target: Console, settings: Settings, path: Path) -> tuple[TaskResult, int]:
    """Run the workflow; its result, and how many log lines were not shown."""
    sieve = demo_report.Sieve()
    async with Client(settings=settings) as cas:
        task = await cas.submit_task(AGENT, {"path": str(path)}, wait_for_runner_s=READY_S)
        target.print(Text(f"\n{AGENT} of {path}, task {task.task_id}", style="bold"), soft_wrap=True)
        async with _cancelled_with_us(task):
            with TaskView(target, AGENT, log_line=sieve) as view:
                async for last in task.events():
                    view.show(last)
            result = await task.result()
    if sieve.hidden:
        target.print(Text(f"{sieve.hidden} further lines are in the log", style="dim"))
    if not result.is_success:
        raise TaskNotCompletedError(task.task_id, result.status, failure_text(last))
    return result, sieve.hidden


@asynccontextmanager
async def _cancelled_with_us(task: Task) -> AsyncIterator[None]:
    """After Ctrl-C the audit is of no more use; left alone, it would go on with the next demo."""
    try:
        yield
    except asyncio.CancelledError:
        with suppress(TimeoutError, CasEventsError):
            async with asyncio.timeout(CANCEL_S):
                await task.cancel("the demo was interrupted", requested_by="scripts/demo", wait=True)
        raise


# --- the tables ------------------------------------------------------------------------------------------------------


async def _ask_tables(target: Console, settings: Settings, result: TaskResult) -> None:
    """Three answers that include the audit's last event."""
    async with await Connection.open(settings.url(), name="cas-demo") as connection:
        for title, sql, takes_task in demo_report.QUESTIONS:
            target.print(Text(f"\n{title}", style="bold"))
            target.print(Text(f"  {sql}", style="dim"), soft_wrap=True)
            params: list[Any] = [result.task_id] if takes_task else []
            try:
                answer = await query(settings, connection, sql, params, wait_for=result.seq)
            except ProjectionError as error:
                raise CasEventsError(f"{title}: {error}") from error
            print_table(answer.columns, answer.rows, types=answer.types, indent=2)
            if takes_task:
                demo_report.print_difference(target, result.output, answer.rows)


def main() -> None:
    """Run it as the process."""
    entry.main(app, "scripts/demo")
