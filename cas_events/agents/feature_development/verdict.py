"""What the tools found in a version of the code, and what follows from it. Pure: parsers of their output."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

COVERAGE_MIN = 90.0
COMPLEXITY_MAX = 10
REASON_CHARS = 300

_OUTCOME = re.compile(r"^\S+::(?P<test>test_\w+)\S* (?P<outcome>PASSED|FAILED|ERROR)\b")
_REASON = re.compile(r"^(?:FAILED|ERROR) \S+::(?P<test>test_\w+) - (?P<reason>.*)")
_BROKEN = re.compile(r"^ERROR \S+\.py(?: - (?P<reason>.*))?$")
_TEST = re.compile(r"test_(?P<function>\w+)_(?P<number>\d+)")


class FailedTest(msgspec.Struct, frozen=True, kw_only=True):
    """An example that the code does not fulfil."""

    test: str
    function: str
    example: int
    reason: str


class TestReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the tests said.

    Attributes:
        passed: how many did.
        failed: those that did not.
        broken: why no test could run, or end; empty otherwise.
        coverage: share of the module's lines and branches that ran, in percent.
        missing: lines that did not run.
    """

    __test__ = False  # It is no test, whatever its name says to pytest.

    passed: int
    failed: tuple[FailedTest, ...]
    broken: str = ""
    coverage: float = 0.0
    missing: tuple[int, ...] = ()


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong with the code."""

    kind: Literal["test", "broken", "unclear", "lint", "complexity", "coverage"]
    message: str
    function: str = ""
    line: int = 0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The word on a version: accepted when nothing was found.

    Attributes:
        complexity: the highest of any function.
        comments: a model's; they decide nothing.
    """

    accepted: bool
    findings: tuple[Finding, ...]
    passed: int
    failed: int
    coverage: float
    complexity: int
    comments: tuple[str, ...] = ()


def read_outcomes(lines: Iterable[str], coverage: Mapping[str, Any], *, broken: str = "") -> TestReport:
    """Pytest's lines (``-vv --tb=no -rfE``) and coverage's JSON as a report."""
    outcomes: dict[str, str] = {}
    reasons: dict[str, str] = {}
    for line in lines:
        if found := _OUTCOME.match(line):
            outcomes[found["test"]] = found["outcome"]
        elif found := _REASON.match(line):
            reasons[found["test"]] = found["reason"][:REASON_CHARS]
        elif found := _BROKEN.match(line):
            broken = broken or (found["reason"] or "the tests cannot be loaded")[:REASON_CHARS]
    failed = sorted(test for test, outcome in outcomes.items() if outcome != "PASSED")
    files = list(coverage.get("files", {}).values())
    return TestReport(
        passed=len(outcomes) - len(failed),
        failed=tuple(_failed(test, reasons.get(test, "")) for test in failed),
        broken=broken or ("" if outcomes else "no test ran"),
        coverage=round(float(coverage.get("totals", {}).get("percent_covered", 0.0)), 1),
        missing=tuple(line for file in files for line in file["missing_lines"])[:50],
    )


def _failed(test: str, reason: str) -> FailedTest:
    found = _TEST.fullmatch(test)
    return FailedTest(
        test=test,
        function=found["function"] if found else "",
        example=int(found["number"]) if found else 0,
        reason=reason,
    )


def judge(report: TestReport, *, unclear: Iterable[str], lint: bytes, complexity: bytes) -> Verdict:
    """The verdict, from the tests and from the JSON that ruff and radon printed."""
    blocks = {block["name"]: int(block["complexity"]) for block in _blocks(complexity)}
    findings = [
        *(Finding(kind="broken", message=report.broken) for _ in range(bool(report.broken))),
        *(
            Finding(kind="test", function=test.function, message=f"{test.test}: {test.reason}")
            for test in report.failed
        ),
        *(
            Finding(kind="unclear", function=rule.partition(":")[0], message=f"not understood: {rule}")
            for rule in unclear
        ),
        *_lint(lint),
        *(
            Finding(kind="complexity", function=name, message=f"complexity {value}, over {COMPLEXITY_MAX}")
            for name, value in blocks.items()
            if value > COMPLEXITY_MAX
        ),
    ]
    if report.coverage < COVERAGE_MIN and not report.broken:
        lines = ", ".join(map(str, report.missing)) or "some branches"
        message = f"only {report.coverage:g} % ran, no example reaches {lines}"
        findings.append(Finding(kind="coverage", message=message, line=next(iter(report.missing), 0)))
    return Verdict(
        accepted=not findings,
        findings=tuple(findings),
        passed=report.passed,
        failed=len(report.failed),
        coverage=report.coverage,
        complexity=max(blocks.values(), default=0),
    )


def _lint(output: bytes) -> list[Finding]:
    return [
        Finding(
            kind="lint",
            message=f"{problem.get('code') or 'syntax'}: {problem['message']}"[:REASON_CHARS],
            line=int((problem.get("location") or {}).get("row", 0)),
        )
        for problem in json.loads(output or b"[]")
    ][:50]


def _blocks(output: bytes) -> list[dict[str, Any]]:
    found = json.loads(output or b"{}")
    return [block for blocks in found.values() if isinstance(blocks, list) for block in blocks]


def failed_examples(report: TestReport) -> dict[str, list[int]]:
    """Which examples of which functions failed."""
    failed: dict[str, list[int]] = {}
    for test in report.failed:
        if test.example:
            failed.setdefault(test.function, []).append(test.example)
    return failed
