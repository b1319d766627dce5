"""`cas up`: everything on this machine with one command, and gone with one Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cas_events.cli import logs
from cas_events.cli.options import Json, LogLevel, MetricsHost, MetricsPort, metrics_address
from cas_events.cli.output import console, print_json_line
from cas_events.settings import DEFAULT_HOME, Settings

if TYPE_CHECKING:
    from cas_events.cli.stack import Plan, Stack

READY_S = 60.0

TRY = (
    """cas run echo '{"steps": 5, "delay_s": 0.3}'""",
    """cas run security-audit '{"path": "."}'""",
    """cas run content-strategy '{"path": "README.md"}'""",
    "cas tasks",
    "cas tail",
    """cas sql "SELECT status, count(*) FROM cas_tasks GROUP BY ALL\"""",
)


def bring_up(
    home: Annotated[
        Path | None,
        typer.Option("--home", metavar="DIR", help="Where it keeps everything; default: CAS_HOME, or .cas."),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="0 takes a free one.")
    ] = 0,
    sync_interval: Annotated[
        str,
        typer.Option(
            "--sync-interval",
            metavar="TIME",
            help="How often writes reach the disk: 1s, or always before each answer.",
        ),
    ] = "1s",
    no_projector: Annotated[bool, typer.Option("--no-projector", help="No tables.")] = False,
    log_level: LogLevel = "",
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "",
    json: Json = False,
) -> None:
    """Start a NATS server on loopback, a runner with the sample agents and a projector; Ctrl-C ends them all.

    Other commands find the server by themselves: it is written to server.json in the home. What dies is started
    again. The log and the tables stay in the home for the next time. A metrics port is the runner's; the projector
    takes the next one.
    """
    from cas_events.cli.stack import Plan  # noqa: PLC0415 - see the package's docstring

    settings = Settings.from_env()
    settings = replace(settings, home=home or settings.home, log_level=log_level or settings.log_level)
    logs.configure_process(settings.log_level or "warning", service="up")
    plan = Plan(
        settings=settings,
        port=port,
        sync_interval=sync_interval,
        with_projector=not no_projector,
        metrics=metrics_address(settings, metrics_port, metrics_host),
    )
    asyncio.run(_up(plan, json=json))


async def _up(plan: Plan, *, json: bool) -> None:
    from cas_events.cli.stack import Stack  # noqa: PLC0415 - see the package's docstring

    stack = Stack(plan)
    heard = _listen(stack)
    async with stack:
        stopped = asyncio.create_task(heard.wait())
        ready = asyncio.create_task(stack.wait_ready(READY_S))
        failed = asyncio.create_task(stack.failed())
        try:
            await asyncio.wait((stopped, ready, failed), return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and not stopped.done():
                _say_up(plan, stack, await ready, json=json)
            await asyncio.wait((stopped, failed), return_when=asyncio.FIRST_COMPLETED)
            if failed.done():
                await failed
        finally:
            for waiting in (stopped, ready, failed):
                waiting.cancel()
        if not json:
            console().print("ending: runner, projector, server", style="dim")
    if heard.number == signal.SIGINT:
        raise KeyboardInterrupt


class _Heard(asyncio.Event):
    """Set at the first signal; knows which."""

    number: signal.Signals | None = None


def _listen(stack: Stack) -> _Heard:
    """The first signal asks for an orderly end, the second for a quick one."""
    heard = _Heard()

    def hear(number: signal.Signals) -> None:
        if heard.is_set():
            stack.hurry.set()
        heard.number = heard.number or number
        heard.set()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` wants it to outlive the terminal.
        numbers.append(signal.SIGHUP)
    for number in numbers:
        asyncio.get_running_loop().add_signal_handler(number, hear, number)
    return heard


def _say_up(plan: Plan, stack: Stack, late: list[str], *, json: bool) -> None:
    pids = stack.pids()
    if json:
        said = {"url": stack.url, "home": str(stack.settings.home), "pids": pids, "late": late}
        print_json_line(said | ({"metrics": stack.metrics_urls()} if plan.metrics else {}))
        return
    target = console()
    places = {
        "server": f"{stack.url}, store {plan.settings.home / 'nats'}",
        "runner": "the sample agents and workflows",
        "projector": f"tables {plan.settings.database_path}",
    }
    target.print("CAS Events is up; Ctrl-C ends it", style="bold green")
    for name, pid in pids.items():
        line = Text(f"  {name:<10}", style="bold")
        line.append(f"process {pid:<8} {places[name]}", style="not bold")
        if name in late:
            line.append("  (does not answer yet)", style="yellow")
        target.print(line, soft_wrap=True)
    for name, url in stack.metrics_urls().items():
        target.print(Text(f"  metrics of the {name}: {url}/metrics"), soft_wrap=True)
    target.print("\nTry, in another terminal:", style="bold")
    for command in TRY:
        target.print(f"  {home_prefix(plan.settings.home)}{command}", soft_wrap=True)


def home_prefix(home: Path) -> str:
    """What a command line needs in front of it to find this home from the current folder."""
    return "" if home.absolute() == Path(DEFAULT_HOME).absolute() else f"CAS_HOME={_quoted(home.absolute())} "


def _quoted(path: Path) -> str:
    from shlex import quote  # noqa: PLC0415 - only here

    return quote(str(path))
