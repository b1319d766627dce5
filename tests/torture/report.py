"""What a torture prints, and the page in docs/ that keeps its last report."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.torture.run import Outcome

VIOLATIONS_SHOWN = 50
ONE, THREE, COUNTS = "One server", "Three servers", "Fault tests at their full counts"
HEADER = """\
# Torture: the last report

Written by `scripts/torture --report`, never by hand. Faults and workload come from the seed; what the processes do in
between is theirs. After the faults every task must end, and `tests/harness/history` checks each promise against the
streams, each follower against the log, and the projection against both.
"""


@dataclass(frozen=True)
class Case:
    """One fault test at its full count, with how much it did and what it measured, if it says."""

    kind: str
    name: str
    outcome: str
    took_s: float
    cases: str = ""
    measured: Mapping[str, str] = field(default_factory=dict)


def text_of(outcome: Outcome) -> str:
    """A run in lines."""
    lines = [
        f"{outcome.kind}, {outcome.minutes:g} minutes, seed {outcome.seed}",
        f"  faults      {sum(outcome.faults.values())}: {_list(outcome.faults)}",
        f"  tasks       {sum(outcome.tasks.values())}: {_list(outcome.tasks)}",
        f"  attempts    {outcome.attempts}, events {outcome.events}, followers {outcome.followers}",
        f"  refused     {_list(outcome.refused) or 'none'}",
        f"  pause       {outcome.longest_pause_s:.1f} s at most without an acknowledgement",
        f"  rest        {outcome.rest_s:.1f} s after the last fault, checks included",
        f"  violations  {len(outcome.violations)}",
    ]
    return "\n".join(lines + [f"    {text}" for text in outcome.violations[:VIOLATIONS_SHOWN]])


def page_of(outcomes: Sequence[Outcome], cases: Sequence[Case], command: str, *, previous: str = "") -> str:
    """The whole page, Markdown: a section for each run, those that were not run this time as they were."""
    sections = _sections(previous)
    for outcome in outcomes:
        title = f"{outcome.kind.capitalize()}: {outcome.minutes:g} minutes, seed {outcome.seed}"
        sections[title] = [*_told(command), *_table(outcome)]
    if cases:
        sections[COUNTS] = [*_told(command), *_counted(cases, sections.get(COUNTS, []))]
    lines = [HEADER]
    for kind in (ONE, THREE, COUNTS):
        for title in sections:
            if title.startswith(kind):
                lines += [f"## {title}", "", *sections[title], ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _sections(page: str) -> dict[str, list[str]]:
    """The sections of a page by their titles."""
    parts = [part.strip("\n").split("\n") for part in page.split("\n## ")[1:]]
    return {part[0]: part[2:] for part in parts}


def _told(command: str) -> list[str]:
    machine = f"{platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} cores"
    return [f"`{command}` on {datetime.now(UTC).date().isoformat()} ({machine}, shared with other work)", ""]


def _table(outcome: Outcome) -> list[str]:
    rows = [
        ("**violations**", f"**{len(outcome.violations)}**"),
        ("faults injected", str(sum(outcome.faults.values()))),
        *((f"· {name}", str(count)) for name, count in sorted(outcome.faults.items())),
        ("tasks", str(sum(outcome.tasks.values()))),
        *((f"· {name}", str(count)) for name, count in sorted(outcome.tasks.items())),
        ("attempts opened", str(outcome.attempts)),
        ("events stored", str(outcome.events)),
        ("followers compared with the log", str(outcome.followers)),
        ("errors instead of an acknowledgement", _list(outcome.refused) or "none"),
        ("longest time without an acknowledgement", f"{outcome.longest_pause_s:.1f} s"),
        ("from the last fault until all was at rest and checked", f"{outcome.rest_s:.1f} s"),
    ]
    found = ["| | |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows)]
    if outcome.violations:
        found += ["", *(f"- {text}" for text in outcome.violations[:VIOLATIONS_SHOWN])]
    return found


def _counted(cases: Sequence[Case], previous: Sequence[str]) -> list[str]:
    """By kind of fault, which is the file: a line in bold for the kind, then its tests; others stay as they were."""
    kinds = _kinds(previous)
    for kind in dict.fromkeys(case.kind for case in cases):
        kinds[kind.removeprefix("test_")] = _of_kind(kind, [case for case in cases if case.kind == kind])
    head = ["| fault, test | cases | seconds | violations | measured |", "|---|---|---:|---:|---|"]
    return head + [line for kind in sorted(kinds) for line in kinds[kind]]


def _of_kind(kind: str, cases: Sequence[Case]) -> list[str]:
    took_s, failed = sum(case.took_s for case in cases), sum(case.outcome != "passed" for case in cases)
    day = datetime.now(UTC).date().isoformat()
    lines = [
        f"| **{kind.removeprefix('test_')}** | {len(cases)} tests, {day} | {took_s:.0f} | **{failed}** | |"
    ]
    for case in cases:
        measured = ", ".join(f"{name} {value}" for name, value in case.measured.items())
        violations = 0 if case.outcome == "passed" else case.outcome
        lines.append(f"| `{case.name}` | {case.cases} | {case.took_s:.1f} | {violations} | {measured} |")
    return lines


def _kinds(section: Sequence[str]) -> dict[str, list[str]]:
    """The lines of an earlier table by kind."""
    kinds: dict[str, list[str]] = {}
    kind = ""
    for line in section:
        if line.startswith("| **"):
            kind = line.split("**")[1]
        if kind and line.startswith("|"):
            kinds.setdefault(kind, []).append(line)
    return kinds


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
