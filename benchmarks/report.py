"""What a run found: as JSON, as a table on the terminal, as `docs/benchmarks.md`. Only the JSON is ever written by a run."""

from __future__ import annotations

# ruff: noqa: RUF001 - the multiplication sign is meant
from typing import Any

import msgspec
from rich.table import Table

from benchmarks.figures import Figure
from benchmarks.plan import Sizes


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A run, complete: ``rounds`` has every single measurement."""

    machine: dict[str, str]
    rounds_count: int
    sizes: Sizes
    seconds: float
    figures: list[Figure]
    rounds: list[dict[str, dict[str, Any]]] = []
    replay: dict[str, Any] = {}


HEADINGS = ("", "ours", "floor", "ratio", "of the rounds", "goal", "n")


def table(report: Report) -> Table:
    """The figures for a terminal."""
    shown = Table(
        title=_title(report), caption=", ".join(f"{key} {value}" for key, value in report.machine.items())
    )
    for number, heading in enumerate(HEADINGS):
        shown.add_column(heading, justify="left" if number in {0, 5} else "right")
    for figure in report.figures:
        style = {None: "", True: "green", False: "red"}[figure.is_met]
        shown.add_row(*cells(figure), style=style)
    return shown


def cells(figure: Figure) -> tuple[str, ...]:
    """One row, as text."""
    verdict = {None: "", True: " (met)", False: " (not met)"}[figure.is_met]
    span = "" if figure.ratio_low is None else f"{figure.ratio_low:.2f} to {figure.ratio_high:.2f}"
    return (
        figure.name,
        _amount(figure.ours, figure.unit),
        "" if figure.floor is None else _amount(figure.floor, figure.unit),
        "" if figure.ratio is None else f"{figure.ratio:.2f}×",
        span,
        figure.goal + verdict,
        f"{figure.n:,}",
    )


def _amount(value: float, unit: str) -> str:
    if unit == "1/s":
        return f"{value:,.0f}/s"
    return f"{value:,.2f} {unit}" if unit == "ms" else f"{value:,.0f} {unit}"


def _title(report: Report) -> str:
    return f"{report.rounds_count} rounds in {report.seconds:,.0f} s, medians of the rounds"


def markdown(report: Report) -> str:
    """The page in docs/, from the JSON of a run."""
    lines = [_MARKDOWN_HEAD, f"## The last run\n\n{_title(report)}.\n"]
    lines += [f"- {key}: {value}" for key, value in report.machine.items()]
    lines += ["", _markdown_row(HEADINGS), _markdown_row(["---"] + ["---:"] * 4 + ["---", "---:"])]
    lines += [_markdown_row(cells(figure)) for figure in report.figures]
    return "\n".join(lines) + "\n" + _MARKDOWN_TAIL


def _markdown_row(texts: Any) -> str:
    return "| " + " | ".join(texts) + " |"


_MARKDOWN_HEAD = """\
# Benchmarks

Written by `scripts/bench --write-docs` from the JSON of a run; changes by hand are lost.

    scripts/bench                      # everything, under 10 minutes
    scripts/bench --quick              # smaller and fewer rounds, under 2 minutes
    scripts/bench --only throughput    # one measurement; may be repeated
    scripts/bench --json run.json      # every single measurement, too
    scripts/bench --growth 10000,100000,1000000,10000000   # how the tables grow: rates, memory, the check, signing
    scripts/bench --write-docs         # this page, from the run; with --from run.json, from an earlier one
"""

_MARKDOWN_TAIL = """
## What is measured

Server, worker and client are processes of their own on one machine, as in real use; the server is the embedded one
with its default of a disk sync every second. The floor and ours take turns, round by round, on the same server. A
figure is the median of the rounds, and so is a ratio; the column beside it has the smallest and the largest ratio.

- **The floor** is the least that a durable design can do with nats-py: command published and acknowledged, one worker
  (work-queue stream, `fetch(64)`, one asyncio task a message), two events published and acknowledged, client on a core
  subscription. It has no lock, no lease, no retries, no cancel and no envelope, and its client also sees what the log
  refused; ours follows only what was stored.
- **Latency**: one task after another from one client, from the call of `execute_task` to its result.
- **Throughput**: 2,000 tasks at once from one client to one worker process with 100 places; n counts such bursts.
- **Tick**: from `ctx.progress` in the agent to the event in the hands of `stream_task`, in another process.
- **Cancel**: from the call of `cancel(wait=True)` to its return, which is the terminal event, while 100 tasks run. Its
  floor is the no-op task's latency.
- **Cancel of an async graph node**: the same, from when the node runs, with as many graphs running.
- **Acknowledged events**: one process encodes and publishes; ours is the pipelined publisher, the floor is a window of
  the same size over the public methods of nats-py, to the same stream.
- **LangGraph task**: a graph with one node; compared with the floor's no-op task.
- **Checkpointed run**: `graph.ainvoke` on a new thread in one process, without our runner; ours keeps checkpoints with
  `JetStreamSaver`, the floor with LangGraph's `InMemorySaver`, which keeps nothing.
- **5-node graph**: the task's latency with its stream turned into events, compared with the same graph whose stream
  gives none; the two take turns.
- **Replay and lag**: `benchmarks/replay.py`; replay is compared with a reader that does nothing.
- **With metrics, with traces**: `benchmarks/observing.py`. Five workers on one server take turns, a few tasks at a time; the floor is
  the worker that nobody looks at. Traces are bounded to 50 a second unless it says otherwise. The column beside a ratio has the smallest and largest of single turns.
- **Load** well above three means that others used the machine, too: then only CPU and, with more rounds, ratios say
  anything.
- **CPU** counts all threads of a process, by the kernel's own account; it is steadier than any time.
"""
