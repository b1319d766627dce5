"""ruff, bandit and detect-secrets: how each is called, and how its JSON becomes findings.

Owns the command lines and the parsers. Each scanner is pure apart from `scan`, which runs it on a batch of files and
halves the batch when the tool fails on it, so that one hostile file costs its own result and nobody else's.
No free text leaves a parser: of each tool's output only codes, places and catalogue names are read.

Facts that the command lines rest on (ruff 0.17.6, bandit 1.9.4, detect-secrets 1.5.0, all tried):

- detect-secrets *verifies* what it finds by sending it to the service that it belongs to; ``--no-verify`` keeps it here.
- detect-secrets resolves paths against ``-C`` by cutting a prefix, works on ``/``-separated names when it gets a
  single file, and starts a worker per core unless told otherwise.
- bandit drops a file whose *path* contains ``.git`` or ``CVS`` anywhere, unless ``-x`` says otherwise.
- ruff reads the configuration of the tree that it looks at unless ``--isolated``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cas_events.agents.process import run_module
from cas_events.agents.security_audit.findings import (
    Finding,
    Severity,
    Tool,
    is_password_rule,
    weakness_number,
)
from cas_events.agents.tree import Problem, SourceFile
from cas_events.errors import ToolFailedError, ToolsMissingError

DEADLINE_S = (
    20.0  # for a batch, and DEADLINE_PER_FILE_S for each file in it; the slowest tool takes 0.05 s a file
)
DEADLINE_PER_FILE_S = 1.0

# bandit grades by what it sees in the call; ruff has no grades, so its rules get those that bandit starts from.
_HIGH = frozenset({201, 202, 304, 312, 321, 324, 401, 402, 413, 415, 501, 502, 505, 507, 602, 605, 609, 701})
_LOW = frozenset({101, 110, 112, 311, 403, 404, 405, 406, 407, 408, 409, 504, 603, 606, 607})
_BANDIT_SEVERITIES: dict[str, Severity] = {"HIGH": "high", "MEDIUM": "medium", "LOW": "low"}
# What a guess from entropy or a keyword says is less sure than the shape of a provider's key.
_SECRET_SEVERITIES: dict[str, Severity] = {
    "Base64 High Entropy String": "low",
    "Hex High Entropy String": "low",
    "Public IP (ipv4)": "low",
    "Secret Keyword": "medium",
}
_BANDIT_PROBLEMS = {
    "syntax error while parsing AST from file": "syntax",
    "exception while scanning file": "crashed",
}


@dataclass(slots=True, kw_only=True)
class Scan:
    """What one tool says about some files."""

    findings: list[Finding] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add(self, other: Scan) -> None:
        """Take in what was found in other files."""
        self.findings += other.findings
        self.problems += other.problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """One tool.

    Attributes:
        name: as findings call it.
        module: what ``python -m`` runs.
        python_only: whether it can read nothing but Python.
        args: command line for some files of a tree.
        parse: the tool's decoded JSON, for the files that it was given.
    """

    name: Tool
    module: str
    python_only: bool
    args: Callable[[str, Sequence[SourceFile]], list[str]]
    parse: Callable[[str, Sequence[SourceFile], Any], Scan]


def _ruff_args(_root: str, files: Sequence[SourceFile]) -> list[str]:
    fixed = [
        "check",
        "--isolated",
        "--no-cache",
        "--quiet",
        "--exit-zero",
        "--select=S",
        "--output-format=json",
    ]
    return [*fixed, "--", *(file.path for file in files)]


def _parse_ruff(_root: str, files: Sequence[SourceFile], document: Any) -> Scan:
    # ruff writes undecodable bytes of a path as replacement characters.
    by_path = {os.fsencode(file.path).decode("utf-8", "replace"): file for file in files}
    scan = Scan()
    for item in document:
        file, line, rule = by_path[item["filename"]], int(item["location"]["row"]), item["code"]
        if rule is None or weakness_number(rule) == 0:
            scan.problems.append(Problem(file=file.shown, problem="syntax", tool="ruff", line=line))
            continue
        title = str(item["name"]).replace("-", " ")
        severity = ruff_severity(rule)
        secret = is_password_rule(rule)
        scan.findings.append(
            Finding(
                file=file.shown,
                line=line,
                tool="ruff",
                rule=rule,
                title=title,
                severity=severity,
                secret=secret,
            )
        )
    return scan


def ruff_severity(rule: str) -> Severity:
    """The grade of one of ruff's S rules."""
    number = weakness_number(rule)
    return "high" if number in _HIGH else "low" if number in _LOW else "medium"


def _bandit_args(_root: str, files: Sequence[SourceFile]) -> list[str]:
    # "//" is in no normalised path: bandit's own list of excluded path parts is replaced by nothing.
    return ["-q", "-f", "json", "-n", "1", "--exit-zero", "-x", "//", "--", *(file.path for file in files)]


def _parse_bandit(_root: str, files: Sequence[SourceFile], document: Any) -> Scan:
    by_path = {file.path: file for file in files}
    scan = Scan()
    for item in document["errors"]:
        problem = _BANDIT_PROBLEMS.get(item["reason"], "unreadable")
        scan.problems.append(Problem(file=by_path[item["filename"]].shown, problem=problem, tool="bandit"))
    for item in document["results"]:
        rule = str(item["test_id"])
        secret = is_password_rule(rule)
        severity = "medium" if secret else _BANDIT_SEVERITIES.get(item["issue_severity"], "low")
        scan.findings.append(
            Finding(
                file=by_path[item["filename"]].shown,
                line=int(item["line_number"]),
                tool="bandit",
                rule=rule,
                title=_bandit_title(item),
                severity=severity,
                secret=secret,
            )
        )
    return scan


def _bandit_title(item: dict[str, Any]) -> str:
    """The rule's name; rules that share the name "blacklist" are told apart by the anchor of their manual page."""
    name = str(item["test_name"])
    if name == "blacklist":
        name = str(item["more_info"]).rpartition("#")[2].partition("-")[2] or name
    return name.replace("_", " ").replace("-", " ")


def _secrets_args(root: str, files: Sequence[SourceFile]) -> list[str]:
    # The filter for "swagger" looks at whole paths, also above the tree. A lone file goes through code that trips
    # over backslashes, so it is given twice: results are sets.
    paths = [file.path for file in files]
    return [
        *("-c", "1", "-C", root, "scan", "--all-files", "--no-verify"),
        *("--disable-filter", "detect_secrets.filters.heuristic.is_swagger_file"),
        *("--", *paths, *(paths if len(paths) == 1 else [])),
    ]


def _parse_secrets(root: str, files: Sequence[SourceFile], document: Any) -> Scan:
    by_path = {os.path.relpath(file.path, root): file for file in files}
    scan = Scan()
    for path, items in document["results"].items():
        for item in items:
            kind = str(item["type"])
            scan.findings.append(
                Finding(
                    file=by_path[path].shown,
                    line=int(item["line_number"]),
                    tool="detect-secrets",
                    rule=kind,
                    title=kind,
                    severity=_SECRET_SEVERITIES.get(kind, "high"),
                    secret=True,
                )
            )
    return scan


RUFF = Scanner(name="ruff", module="ruff", python_only=True, args=_ruff_args, parse=_parse_ruff)
BANDIT = Scanner(name="bandit", module="bandit", python_only=True, args=_bandit_args, parse=_parse_bandit)
DETECT_SECRETS = Scanner(
    name="detect-secrets",
    module="detect_secrets",
    python_only=False,
    args=_secrets_args,
    parse=_parse_secrets,
)
SCANNERS = (RUFF, BANDIT, DETECT_SECRETS)


def require_tools(scanners: Iterable[Scanner] = SCANNERS) -> None:
    """Make sure that the tools are there before any work starts.

    Raises:
        ToolsMissingError: at least one is not installed.
    """
    missing: list[str] = [
        scanner.name for scanner in scanners if importlib.util.find_spec(scanner.module) is None
    ]
    if missing:
        raise ToolsMissingError(missing, extra="demo")


async def scan(scanner: Scanner, root: str, files: Sequence[SourceFile]) -> Scan:
    """Run a scanner over some files; a file that it fails on is a problem, not an error.

    Cancelling ends the tool at once.
    """
    wanted = [file for file in files if file.is_python or not scanner.python_only]
    if not wanted:
        return Scan()
    try:
        return await _scan_once(scanner, root, wanted)
    except ToolFailedError as failed:
        if len(wanted) == 1:
            return Scan(problems=[Problem(file=wanted[0].shown, problem=failed.reason, tool=scanner.name)])
    halves = Scan()
    for half in (wanted[: len(wanted) // 2], wanted[len(wanted) // 2 :]):
        halves.add(await scan(scanner, root, half))
    return halves


async def _scan_once(scanner: Scanner, root: str, files: Sequence[SourceFile]) -> Scan:
    timeout_s = DEADLINE_S + DEADLINE_PER_FILE_S * len(files)
    finished = await run_module(scanner.module, scanner.args(root, files), timeout_s=timeout_s)
    if finished.returncode != 0:
        raise ToolFailedError(scanner.name, "crashed", f"exit status {finished.returncode}")
    # Megabytes of JSON would hold the event loop for a noticeable time.
    return await asyncio.to_thread(_parse, scanner, root, files, finished.stdout)


def _parse(scanner: Scanner, root: str, files: Sequence[SourceFile], stdout: bytes) -> Scan:
    try:
        return scanner.parse(root, files, json.loads(stdout))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ToolFailedError(scanner.name, "unreadable_output", type(error).__name__) from error
