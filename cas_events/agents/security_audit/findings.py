"""What a security scan found: pure values, their order, and how several tools' findings become one.

Owns the severities, the finding, and which rules stand for a secret. The invariant that everything else leans on:
a finding has no field that could hold text of the scanned file. It names a place (file, line) and a kind (tool,
rule, title); titles come from the tools' rule catalogues, never from their messages, because bandit's B105 to B107
quote the literal. Does not know how the tools are started or what to do about a finding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

Severity = Literal["high", "medium", "low"]
Tool = Literal["ruff", "bandit", "detect-secrets"]

SEVERITIES: tuple[Severity, ...] = ("high", "medium", "low")
TOOLS: tuple[Tool, ...] = ("ruff", "bandit", "detect-secrets")

_RANK = {severity: rank for rank, severity in enumerate(SEVERITIES)}
_PASSWORD_WEAKNESSES = frozenset({105, 106, 107})
_ASSERT_WEAKNESS = 101
_TEST_FOLDERS = frozenset({"test", "tests", "testing"})
_TEST_FILE = re.compile(r"(test_.*|.*_test|conftest)\.py")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One weakness at one place, as one tool sees it.

    Attributes:
        file: path below the audited folder, in printable form.
        line: line number from 1; 0 when the tool named none.
        tool: who found it.
        rule: the tool's own code, such as ``S602`` or ``B602``; of detect-secrets the kind of secret.
        title: the rule's name in words.
        severity: how bad it is.
        secret: whether the line holds a secret.
    """

    file: str
    line: int
    tool: Tool
    rule: str
    title: str
    severity: Severity
    secret: bool = False


class Weakness(msgspec.Struct, frozen=True, kw_only=True):
    """The same weakness at the same place, as all tools together see it.

    Attributes:
        number: what ruff's S602 and bandit's B602 have in common; 0 for a secret.
        rules: the tools' codes, sorted.
        tools: who found it, sorted.
    """

    file: str
    line: int
    number: int
    title: str
    severity: Severity
    secret: bool
    rules: tuple[str, ...]
    tools: tuple[str, ...]


def weakness_number(rule: str) -> int:
    """The number that ruff's S rules took over from bandit's B rules; 0 for any other code."""
    prefix, digits = rule[:1], rule[1:]
    return int(digits) if prefix in {"S", "B"} and digits.isdecimal() else 0


def is_password_rule(rule: str) -> bool:
    """Whether the rule stands for a password literal (S105 to S107, B105 to B107)."""
    return weakness_number(rule) in _PASSWORD_WEAKNESSES


def is_assert_in_test(finding: Finding) -> bool:
    """Whether it is an ``assert`` in test code, where asserting is the point and not a weakness."""
    if weakness_number(finding.rule) != _ASSERT_WEAKNESS:
        return False
    *folders, name = finding.file.split("/")
    return bool(_TEST_FILE.fullmatch(name)) or not _TEST_FOLDERS.isdisjoint(folders)


def finding_order(finding: Finding) -> tuple[int, str, int, str, str, str, bool]:
    """Sort key: the worst first, then by place. Total, so that what a bound keeps does not depend on arrival."""
    place = (finding.file, finding.line, finding.tool)
    return (_RANK[finding.severity], *place, finding.rule, finding.title, finding.secret)


def severity_rank(severity: Severity) -> int:
    """0 for the worst severity."""
    return _RANK[severity]


def merge(findings: Iterable[Finding]) -> list[Weakness]:
    """Findings of several tools as weaknesses, one per place and kind, the worst first.

    All secrets of a line are one weakness: a keyword and a key pattern that match the same literal need one remedy.
    """
    groups: dict[tuple[str, int, bool, int], list[Finding]] = {}
    for finding in sorted(findings, key=finding_order):
        number = 0 if finding.secret else weakness_number(finding.rule)
        groups.setdefault((finding.file, finding.line, finding.secret, number), []).append(finding)
    return sorted((_merged(number, group) for (*_, number), group in groups.items()), key=_weakness_order)


def _merged(number: int, group: list[Finding]) -> Weakness:
    worst = group[0]  # The groups were filled in the order of findings.
    return Weakness(
        file=worst.file,
        line=worst.line,
        number=number,
        title=max((finding.title for finding in group), key=lambda title: (len(title), title)),
        severity=worst.severity,
        secret=worst.secret,
        rules=tuple(sorted({finding.rule for finding in group})),
        tools=tuple(sorted({finding.tool for finding in group})),
    )


def _weakness_order(weakness: Weakness) -> tuple[int, str, int, int, bool]:
    return (_RANK[weakness.severity], weakness.file, weakness.line, weakness.number, weakness.secret)
