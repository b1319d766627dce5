"""What the demo shows of an audit: its log lines, its result, the questions to the tables, the commands to go on."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from cas_events.cli.texts import clock, duration, one_line
from cas_events.cli.up import home_prefix
from cas_events.cli.view import log_line
from cas_events.domain.events import Event

SEVERITY_STYLES: Mapping[str, str] = {"high": "red", "medium": "yellow", "low": "cyan"}
REMEDIATIONS_SHOWN = 5
PROBLEMS_SHOWN = 3

_BY_STATUS = "SELECT status, count(*) AS tasks FROM cas_tasks GROUP BY status ORDER BY tasks DESC"
_BY_SEVERITY = (
    "SELECT metadata->>'severity' AS severity, count(*) AS findings FROM cas_agent_logs "
    "WHERE task_id = ? AND message = 'finding' GROUP BY ALL ORDER BY findings DESC"
)
_SLOWEST_STEPS = (
    "SELECT agent_id AS workflow, data->>'node' AS step, "
    "round(epoch(max(time)) - epoch(min(time)), 3) AS seconds, task_id FROM cas_agent_events "
    "WHERE type IN ('cas.step.started', 'cas.step.completed') "
    "GROUP BY task_id, agent_id, data->>'step_id', step ORDER BY seconds DESC LIMIT 5"
)
# Title, statement, and whether its `?` is the audit's task.
QUESTIONS = (
    ("Tasks by status", _BY_STATUS, False),
    ("Findings of this audit by severity, from its log lines", _BY_SEVERITY, True),
    ("Slowest steps", _SLOWEST_STEPS, False),
)
_BY_FILE = (
    "SELECT metadata->>'file' AS file, count(*) AS findings FROM cas_agent_logs "
    "WHERE message = 'finding' GROUP BY file ORDER BY findings DESC LIMIT 10"
)


# Log lines of a kind that the terminal gets; the log has all.
LINES_MAX = {"high": 10, "medium": 6, "low": 4}
LINES_MAX_OTHER = 3  # of each problem with files, and of each other message


class Sieve:
    """Lets the first log lines of a kind through to the terminal, and counts the rest.

    Attributes:
        hidden: how many lines were not shown.
    """

    def __init__(self) -> None:
        self.hidden = 0
        self._shown: Counter[str] = Counter()

    def __call__(self, event: Event) -> Text | None:
        """The line, or None when there were enough of its kind."""
        kind = _kind(event)
        if self._shown[kind] == LINES_MAX.get(kind, LINES_MAX_OTHER):
            self.hidden += 1
            return None
        self._shown[kind] += 1
        return _audit_line(event) if _is_audit_line(event) else log_line(event)


def _is_audit_line(event: Event) -> bool:
    return event.data.get("message") in {"finding", "not readable"}


def _fields(event: Event) -> dict[str, Any]:
    fields = event.data.get("metadata")
    return fields if isinstance(fields, dict) else {}


def _kind(event: Event) -> str:
    """Severity of a finding, problem with a file, or the message."""
    fields = _fields(event)
    audit = fields.get("severity") or fields.get("problem")
    return str(audit if _is_audit_line(event) and audit else event.data.get("message"))


def _audit_line(event: Event) -> Text:
    """A finding, or a file that could not be read: place and kind."""
    fields = _fields(event)
    word = str(fields.get("severity") or fields.get("problem") or "")
    line = Text(f"{clock(event.time)} ", style="dim")
    line.append(f"{one_line(word):<9}", style=SEVERITY_STYLES.get(word, "magenta"))
    line.append(_place(fields), style="not dim")
    what = one_line(str(fields.get("title") or "cannot be looked through"))
    by = " ".join(one_line(str(fields[name])) for name in ("tool", "rule") if fields.get(name))
    line.append(f"  {what}" + (f"  ({by})" if by else ""))
    return line


def _place(fields: Mapping[str, Any]) -> str:
    line = fields.get("line")
    return one_line(str(fields.get("file", ""))) + (f":{line}" if line else "")


def print_result(target: Console, result: Mapping[str, Any]) -> None:
    """The workflow's answer, in a few lines."""
    files, findings = result["files"], result["findings"]
    lines = {
        "files": f"{files['scanned']} scanned, {files['python']} of them Python"
        + _counts(files["skipped"], "; left out: "),
        "findings": f"{findings['total']}"
        + _counts(findings["by_severity"], ": ")
        + _counts(findings["by_tool"], "; by "),
        "unreadable": _problems(result),
        "proposals": f"{_total(result, 'remediations')} remediations, {_total(result, 'diffs')} diffs "
        f"({result['diffs_withheld']} withheld: a secret is near); nothing was changed",
        "took": duration(float(result["duration_s"].get("total", 0.0))),
    }
    target.print(Text("\nResult", style="bold"))
    for name, text in lines.items():
        target.print(Text(f"  {name:<12}{one_line(text)}"), soft_wrap=True)
    if result["remediations"]:
        target.print(Text("\nFirst things to do", style="bold"))
    for remediation in result["remediations"][:REMEDIATIONS_SHOWN]:
        _print_remediation(target, remediation)


def _print_remediation(target: Console, remediation: Mapping[str, Any]) -> None:
    severity = str(remediation["severity"])
    line = Text("  ")
    line.append(f"{severity:<8}", style=SEVERITY_STYLES.get(severity, ""))
    line.append(f"{_place(remediation)}  {one_line(remediation['title'])}")
    target.print(line, soft_wrap=True)
    target.print(Text(f"          {one_line(remediation['remedy'])}", style="dim"), soft_wrap=True)


def print_difference(target: Console, result: Mapping[str, Any], rows: Sequence[Sequence[Any]]) -> None:
    """Say it when the log has fewer findings than the result, which counts all of them."""
    logged, total = sum(int(row[-1]) for row in rows), int(result["findings"]["total"])
    if logged < total:
        text = f"  {logged} of {total} findings: the log of a task is bounded, the result counts them all"
        target.print(Text(text, style="dim"), soft_wrap=True)


def _total(result: Mapping[str, Any], name: str) -> int:
    """How many there are of a list whose end may have been cut off."""
    return len(result[name]) + int(result[f"{name}_truncated"])


def _problems(result: Mapping[str, Any]) -> str:
    total = _total(result, "problems")
    shown = [f"{problem['file']} ({problem['problem']})" for problem in result["problems"][:PROBLEMS_SHOWN]]
    if not shown:
        return "nothing"
    return ", ".join(shown) + (f" and {total - len(shown)} more" if total > len(shown) else "")


def _counts(counts: Mapping[str, int], lead: str) -> str:
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return lead + said if said else ""


def print_next_steps(target: Console, home: Path, task_id: str, path: Path, hidden: int) -> None:
    """Commands that work as they are printed, in the folder where the demo was started."""
    body = shlex.quote('{"path": ' + _json(str(path)) + "}")
    more = f"   # with the {hidden} lines that were not shown" if hidden else ""
    steps = (
        (
            "Every process has ended; the log and the tables are kept. To ask the tables:",
            "tasks",
            f'sql "{_BY_FILE}"',
        ),
        ("To bring everything up again (Ctrl-C ends it):", "up"),
        (
            "And then, in another terminal:",
            f"logs {shlex.quote(task_id)} --level warning{more}",
            f"replay --task {shlex.quote(task_id)}",
            f"run security-audit {body}",
        ),
    )
    cas = home_prefix(home) + _command()
    for title, *commands in steps:
        target.print(Text(f"\n{title}", style="bold"))
        for command in commands:
            target.print(Text(f"  {cas} {command}"), soft_wrap=True)


def _json(text: str) -> str:
    import msgspec  # noqa: PLC0415 - only here

    return msgspec.json.encode(text).decode()


def _command() -> str:
    """The `cas` of this interpreter, as short as it can be said from the current folder."""
    path = Path(sys.executable).parent / "cas"
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
