"""From what the rounds measured to the figures of the report: pure.

A figure is the median over the rounds of each round's own value, and so is a ratio: the two sides of a round ran next
to each other, so their ratio is steadier than either. Goals are those of the project; `better` says which way is good.
"""

from __future__ import annotations

# ruff: noqa: RUF001 - the multiplication sign is meant
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from benchmarks.rounds import Round

Better = Literal["lower", "higher"]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the report.

    Attributes:
        name: what was measured.
        unit: of ``ours`` and ``floor``.
        ours: the runtime.
        floor: what it is compared with; None if there is nothing.
        ratio: ours to the floor.
        ratio_low: smallest ratio of a round.
        ratio_high: largest ratio of a round.
        goal: in words; empty if there is none.
        is_met: whether the goal is reached; None if there is none.
        n: how many single measurements are behind ``ours``.
    """

    name: str
    unit: str
    ours: float
    floor: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    goal: str = ""
    is_met: bool | None = None
    n: int = 0


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(samples)
    rank = max(1, -(-len(ordered) * percent // 100))  # rounded up
    return ordered[int(rank) - 1]


def p50(samples: Sequence[float]) -> float:
    """The median."""
    return statistics.median(samples)


def p99(samples: Sequence[float]) -> float:
    """The 99th percentile."""
    return percentile(samples, 99)


def from_rounds(rounds: Sequence[Round]) -> list[Figure]:
    """Every figure that the rounds have the measurements for."""
    rows = [
        _row(rounds, "no-op task, latency p50", "ms", "noop_ms", p50, goal=1.0),
        _row(rounds, "no-op task, latency p99", "ms", "noop_ms", p99),
        _row(rounds, "no-op tasks, one worker process", "1/s", "tasks_per_s", p50, goal=1.0, then=1.3),
        _row(rounds, "progress tick to a follower, p50", "ms", "tick_ms", p50, goal=1.15),
        _row(rounds, "progress tick to a follower, p99", "ms", "tick_ms", p99),
        _row(
            rounds, "cancel to terminal event, p50", "ms", "cancel_ms", p50, floor=("noop_ms", p50), goal=1.0
        ),
        _row(rounds, "cancel to terminal event, p99", "ms", "cancel_ms", p99, limit=15.0),
        _row(rounds, "cancel of an async graph node, p50", "ms", "graph_cancel_ms", p50, limit=5.0),
        _row(rounds, "acknowledged events, one publisher", "1/s", "events_per_s", float, goal=1.3),
        _row(rounds, "LangGraph task with one node, p50", "ms", "graph_ms", p50, floor=("noop_ms", p50)),
        _row(rounds, "LangGraph task with one node, p99", "ms", "graph_ms", p99, floor=("noop_ms", p99)),
        _row(rounds, "checkpointed run in process, 1 node, p50", "ms", "checkpoint_1_ms", p50, goal=2.5),
        _row(rounds, "checkpointed run in process, 5 nodes, p50", "ms", "checkpoint_5_ms", p50, goal=2.5),
        _row(rounds, "checkpointed runs, 1 node, 50 at once", "1/s", "checkpoints_per_s", float, limit=300.0),
        _row(
            _against_itself(rounds, "five_unseen_ms"),
            "5-node graph with events, against without, p50",
            "ms",
            "five_ms",
            p50,
            floor=("five_unseen_ms", p50),
            goal=1.2,
        ),
        *(
            _row(rounds, f"CPU of the {process} per no-op task", "µs", "cpu_us", _of(process))
            for process in ("worker", "client", "server")
        ),
        *(
            _row(rounds, f"CPU of the {process} per event", "µs", "event_cpu_us", _of(process))
            for process in ("client", "server")
        ),
    ]
    return [row for row in rows if row is not None]


def _against_itself(rounds: Sequence[Round], key: str) -> list[Round]:
    """The rounds with one measurement of ours in the place of the floor."""
    return [{**each, "floor": {key: each["ours"][key]}} for each in rounds if key in each["ours"]]


def _of(process: str) -> Callable[[Any], float]:
    return lambda measured: float(measured[process])


def _row(
    rounds: Sequence[Round],
    name: str,
    unit: str,
    key: str,
    value: Callable[[Any], float],
    *,
    floor: tuple[str, Callable[[Any], float]] | None = None,
    goal: float | None = None,
    then: float | None = None,
    limit: float | None = None,
) -> Figure | None:
    """A figure from one measurement; None if it was not taken."""
    floor_key, floor_value = floor or (key, value)
    taken = [each for each in rounds if key in each["ours"]]
    if not taken:
        return None
    ours = [value(each["ours"][key]) for each in taken]
    floors = [floor_value(each["floor"][floor_key]) for each in taken if floor_key in each["floor"]]
    ratios = [mine / other for mine, other in zip(ours, floors, strict=True)] if floors else []
    better: Better = "higher" if unit == "1/s" else "lower"
    ratio = statistics.median(ratios) if ratios else None
    met = (
        _is_met(ratio, goal, better) if goal is not None else _is_met(statistics.median(ours), limit, better)
    )
    return Figure(
        name=name,
        unit=unit,
        ours=statistics.median(ours),
        floor=statistics.median(floors) if floors else None,
        ratio=ratio,
        ratio_low=min(ratios, default=None),
        ratio_high=max(ratios, default=None),
        goal=_goal_words(goal, then, limit, unit, better),
        is_met=met,
        n=sum(len(each["ours"][key]) if isinstance(each["ours"][key], list) else 1 for each in taken),
    )


def _is_met(value: float | None, goal: float | None, better: Better) -> bool | None:
    if value is None or goal is None:
        return None
    return value >= goal if better == "higher" else value <= goal


def _goal_words(
    goal: float | None, then: float | None, limit: float | None, unit: str, better: Better
) -> str:
    sign = "≥" if better == "higher" else "≤"
    if limit is not None:
        return f"{sign} {limit:g} {unit}"
    if goal is None:
        return ""
    return f"{sign} {goal:g}×" + (f", then {then:g}×" if then is not None else "")


def from_replay(report: dict[str, Any]) -> list[Figure]:
    """The figures of the projector's benchmark."""
    rows = []
    for size in report.get("sizes", ()):
        count, speed, ratio = size["events"], size["both_per_s"], size["both_to_reader"]
        rows.append(
            Figure(
                name=f"projector replay, {count:,} events",
                unit="1/s",
                ours=speed,
                floor=size["reader_per_s"],
                ratio=ratio,
                goal="≥ 75,000 1/s and ≥ 0.4×",
                is_met=speed >= 75_000 and ratio >= 0.4,
                n=1,
            )
        )
        rows.append(
            Figure(name=f"projector memory, {count:,} events", unit="MB", ours=size["projector_rss_mb"], n=1)
        )
    lag = report.get("lag")
    if lag:
        for word, limit in (("p50", 60.0), ("p99", 250.0)):
            value = lag[f"{word}_ms"]
            rows.append(
                Figure(
                    name=f"event to row at {lag['events_per_s']:,} a second, {word}",
                    unit="ms",
                    ours=value,
                    goal=f"≤ {limit:g} ms",
                    is_met=value <= limit,
                    n=lag["n"],
                )
            )
    return rows


def from_asking(report: dict[str, Any]) -> list[Figure]:
    """The figures of questions to large tables."""
    if not report:
        return []
    rows = [
        _limited(
            f"cas_tasks as of the middle of {log['events']:,} events{which}", log["cas_tasks_ms"], 1_000.0, 5
        )
        for which, log in (("", report["as_of"]), (", all tasks open", report["as_of_open_tasks"]))
    ]
    lookup = report["lookup"]
    for word in ("p50", "p99"):
        name = f"task by its id among {lookup['tasks']:,}, {word}"
        rows.append(_limited(name, lookup[f"{word}_ms"], 5.0, lookup["n"]))
    return rows


# In words, and whether the goal holds for it: to trace every task of a millisecond is nobody's need.
_OBSERVED = {
    "metrics": ("with metrics", True),
    "tracing": ("with metrics and traces", True),
    "sampled": ("with metrics and 1 % of traces", True),
    "traced": ("with metrics and all traces", False),
}


def from_observing(report: dict[str, Any]) -> list[Figure]:
    """What being looked at costs; the floor is not being looked at, and a ratio is that of two turns of one cycle."""
    if not report:
        return []
    off = report["variants"]["off"]
    rows = []
    for variant, (words, has_goal) in _OBSERVED.items():
        measured = report["variants"][variant]
        for key, name, unit, goal in (
            ("noop_ms", "no-op task, latency p50", "ms", 1.1),
            ("tasks_per_s", "no-op tasks, bursts of 300", "1/s", 0.9),
            ("worker_us", "CPU of the worker per no-op task", "µs", None),
            ("client_us", "CPU of the client per no-op task", "µs", None),
        ):
            ratios = [ours / theirs for ours, theirs in zip(measured[key], off[key], strict=True)]
            better: Better = "higher" if unit == "1/s" else "lower"
            wanted = goal if has_goal else None
            rows.append(
                Figure(
                    name=f"{name}, {words}",
                    unit=unit,
                    ours=p50(measured[key]),
                    floor=p50(off[key]),
                    ratio=p50(ratios),
                    ratio_low=min(ratios),
                    ratio_high=max(ratios),
                    goal=_goal_words(wanted, None, None, unit, better),
                    is_met=_is_met(p50(ratios), wanted, better),
                    n=len(ratios),
                )
            )
    return rows


def _limited(name: str, ms: float, limit: float, n: int) -> Figure:
    return Figure(name=name, unit="ms", ours=ms, goal=f"≤ {limit:,g} ms", is_met=ms <= limit, n=n)
