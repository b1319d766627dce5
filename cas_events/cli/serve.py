"""`cas worker` and `cas projector`: the long-lived processes, one command each, for a supervisor or a terminal.

SIGTERM ends them in order with exit code 0, Ctrl-C likewise. A second signal ends a runner at once: what it held is
delivered again.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cas_events.cli import logs
from cas_events.cli.options import LogLevel, MetricsHost, MetricsPort, metrics_address
from cas_events.settings import MetricsAddress, Settings

if TYPE_CHECKING:
    from cas_events.runner.worker import Runner


def worker(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:RUNNER | langgraph.json",
            help="The runner object, in a module (also of the current folder) or FILE.py; or a file that lists graphs.",
        ),
    ],
    log_level: LogLevel = "",
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "",
) -> None:
    """Serve the agents of a runner, or the graphs of a langgraph.json, until SIGTERM or Ctrl-C; unfinished tasks are handed over.

    Examples: `cas worker cas_events.agents.samples:runner`, `cas worker langgraph.json`
    """
    from cas_events.cli.langgraph_file import LangGraphFile, is_langgraph_file  # noqa: PLC0415 - see the package's docstring
    from cas_events.cli.loading import load_runner  # noqa: PLC0415 - the same

    graphs = LangGraphFile(target, Path.cwd()) if is_langgraph_file(target) else None
    if graphs is not None:
        graphs.apply_environment()  # Which may say where the server is.

    settings = Settings.from_env()
    logs.configure_process(log_level or settings.log_level, service="runner")
    settings.url()  # Says that there is no server before importing what may take a while.
    runner = load_runner(target, Path.cwd()) if graphs is None else graphs.runner()
    asyncio.run(_serve(runner, metrics_address(settings, metrics_port, metrics_host)))


def _settle_garbage() -> None:
    """Let the collector leave alone what is loaded by now, and look less often at what a task leaves.

    With LangGraph loaded, a full collection takes about 0.2 s; measured on no-op tasks, the process spent a fifth of
    its CPU on collections that found nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


async def _settle_garbage_of(runner: Runner) -> None:
    """Once before it serves and once when it does: by then it has loaded what was asked for, such as tracing."""
    _settle_garbage()
    await runner.ready.wait()
    _settle_garbage()


async def _serve(runner: Runner, metrics: MetricsAddress | None) -> None:
    """Run it, and stop it on a signal: in order at the first, at once at the second."""
    from cas_events.runner.shutdown import end_process  # noqa: PLC0415 - see the package's docstring

    loop, heard = asyncio.get_running_loop(), list[signal.Signals]()
    serving = loop.create_task(runner.run(handle_signals=False, metrics=metrics))
    settling = loop.create_task(_settle_garbage_of(runner))

    def hear(number: signal.Signals) -> None:
        heard.append(number)
        # Before it is ready there is nothing to hand over.
        if len(heard) > 1 or not runner.ready.is_set():
            serving.cancel()
        else:
            runner.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, hear, number)
    try:
        await serving
    except asyncio.CancelledError:
        if not heard:
            raise
    finally:
        settling.cancel()
    if runner.left_behind:
        end_process(runner.left_behind)
    if signal.SIGINT in heard:
        raise KeyboardInterrupt


def projector(
    audit_every: Annotated[
        int | None,
        typer.Option(
            "--audit-every",
            metavar="N",
            min=0,
            max=10_000,
            help="Sign the log after so many new messages; 0: never. Default: 5000 if the extra `audit` is installed.",
        ),
    ] = None,
    audit_within: Annotated[
        float,
        typer.Option(
            "--audit-within", metavar="SECONDS", min=0.1, help="Or after so long, if anything is new."
        ),
    ] = 60.0,
    log_level: LogLevel = "",
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "",
) -> None:
    """Keep the DuckDB tables up to date and answer SQL, until SIGTERM or Ctrl-C; sign the log for `cas audit`.

    The tables are in CAS_HOME, one file a deployment; they can be deleted and come back from the log. So is the key
    that signs.
    """
    from projections.process import run  # noqa: PLC0415 - see the package's docstring
    from projections.signing import plan  # noqa: PLC0415 - the same

    settings = Settings.from_env()
    logs.configure_process(log_level or settings.log_level, service="projector")
    signing = plan(settings.home, audit_every, audit_within)
    metrics = metrics_address(settings, metrics_port, metrics_host)
    asyncio.run(run(settings, signing=signing, metrics=metrics))
