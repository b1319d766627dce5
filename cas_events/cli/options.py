"""Options that several commands share, so that they read alike everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

from cas_events.settings import LOOPBACK, MetricsAddress, Settings

Json = Annotated[
    bool, typer.Option("--json", help="Print JSON for programs: a listing as one array, a stream as lines.")
]
TaskFilter = Annotated[str | None, typer.Option("--task", metavar="TASK", help="Only this task.")]
AgentFilter = Annotated[str | None, typer.Option("--agent", metavar="AGENT", help="Only this agent.")]
EventType = Annotated[
    str | None,
    typer.Option(
        "--type",
        metavar="TYPE",
        help="Only events of this type, such as `log`, or `task.*` for all of a kind.",
    ),
]
LogLevel = Annotated[
    str,
    typer.Option(
        "--log-level",
        metavar="LEVEL",
        help="Of the process's own log on stderr: debug, info, warning or error.",
    ),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        metavar="N",
        min=0,
        max=65535,
        help="Serve /metrics for Prometheus, /healthz and /readyz there; 0 takes a free port. Default: CAS_METRICS_PORT.",
    ),
]
MetricsHost = Annotated[
    str,
    typer.Option(
        "--metrics-host",
        metavar="HOST",
        help="Where the metrics port listens: on loopback, unless you name another address. Default: CAS_METRICS_HOST.",
    ),
]
TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="The task's id; `cas tasks` lists them.")]
AsOf = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        metavar="SEQ|TIME",
        help="The tables as they were after this event, or after the last one stored until this time (UTC).",
    ),
]


def as_of_value(text: str | None) -> int | str | None:
    """What `--as-of` was given: a sequence, or a time as text."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else text


def metrics_address(settings: Settings, port: int | None, host: str) -> MetricsAddress | None:
    """Where metrics are served: as the options say, else as the settings do; None for nowhere."""
    known = settings.metrics
    if port is None and known is None:
        return None
    return MetricsAddress(
        known.port if port is None and known is not None else port or 0,
        host or (known.host if known is not None else LOOPBACK),
    )
