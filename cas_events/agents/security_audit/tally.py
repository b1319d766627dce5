"""Adds up what the scanners say, in bounded space, into one report.

Holds every count, but only the worst findings: the order of findings is total, so what is kept does not depend on the
order in which batches finish, and the same tree gives the same report. Decides which files may get a diff.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cas_events.agents.security_audit.findings import (
    SEVERITIES,
    TOOLS,
    Finding,
    finding_order,
    is_assert_in_test,
    severity_rank,
)
from cas_events.agents.security_audit.report import (
    DIFF_CANDIDATES_MAX,
    PROBLEMS_MAX,
    FileCounts,
    FindingCounts,
    ScanReport,
)
from cas_events.agents.tree import Problem, SourceFile, Tree, shown_path

ASSERT_IN_TEST = "assert in test code"


class Tally:
    """The running sum of an audit.

    Attributes:
        total: findings so far, without the ignored ones.
    """

    def __init__(self, tree: Tree, *, findings_max: int) -> None:
        self._tree = tree
        self._findings_max = findings_max
        self._worst: list[Finding] = []
        self._by_severity: Counter[str] = Counter()
        self._by_tool: Counter[str] = Counter()
        self._ignored: Counter[str] = Counter()
        self._problems: dict[tuple[str, str], Problem] = {}
        self._rank_of_file: dict[str, int] = {}
        self._secret_files: set[str] = set()
        self.total = 0

    def add_findings(self, findings: Iterable[Finding]) -> list[Finding]:
        """Count findings; returns those that are worth telling, in order."""
        told: list[Finding] = []
        for finding in sorted(findings, key=finding_order):
            if is_assert_in_test(finding):
                self._ignored[ASSERT_IN_TEST] += 1
            else:
                self._count(finding)
                told.append(finding)
        self._worst += told
        if len(self._worst) > 2 * self._findings_max:
            self._cut()
        return told

    def _count(self, finding: Finding) -> None:
        self.total += 1
        self._by_severity[finding.severity] += 1
        self._by_tool[finding.tool] += 1
        rank = severity_rank(finding.severity)
        self._rank_of_file[finding.file] = min(rank, self._rank_of_file.get(finding.file, rank))
        if finding.secret:
            self._secret_files.add(finding.file)

    def _cut(self) -> None:
        self._worst.sort(key=finding_order)
        del self._worst[self._findings_max :]

    def add_problems(self, problems: Iterable[Problem]) -> list[Problem]:
        """Remember problems, each kind once a file: that of the first tool by name, at its first line.

        Returns:
            Those that are new, without syntax errors that only follow from a broken encoding.
        """
        new: list[Problem] = []
        for problem in sorted(problems):
            key = (problem.file, problem.problem)
            if problem.problem == "syntax" and (problem.file, "encoding") in self._problems:
                continue
            if key not in self._problems:
                new.append(problem)
            self._problems[key] = min(problem, self._problems.get(key, problem))
        return new

    def report(self, *, path: str, duration_s: dict[str, float], max_remediations: int) -> ScanReport:
        """The sum as it stands."""
        self._cut()
        problems = sorted(self._problems.values())
        candidates, withheld = self._diff_candidates()
        return ScanReport(
            root=self._tree.root,
            path=path,
            files=_file_counts(self._tree),
            counts=FindingCounts(
                total=self.total,
                by_severity={severity: self._by_severity[severity] for severity in SEVERITIES},
                by_tool={tool: self._by_tool[tool] for tool in TOOLS},
                ignored=dict(self._ignored),
            ),
            findings=tuple(self._worst),
            findings_truncated=self.total - len(self._worst),
            problems=tuple(problems[:PROBLEMS_MAX]),
            problems_truncated=max(0, len(problems) - PROBLEMS_MAX),
            diff_candidates=tuple(candidates[:DIFF_CANDIDATES_MAX]),
            diffs_withheld=withheld,
            duration_s=duration_s,
            max_remediations=max_remediations,
        )

    def _diff_candidates(self) -> tuple[list[str], int]:
        """Files whose diff may be shown, the worst first, and how many may not.

        A diff repeats lines of its file. So a file in which a secret was found has none, whatever the line, for a
        key's body is not on the line that was named; nor has a file that a tool could not look through.
        """
        troubled = {file for file, _ in self._problems}
        affected = [
            file.shown for file in self._tree.files if file.is_python and file.shown in self._rank_of_file
        ]
        withheld = sum(file in self._secret_files for file in affected)
        kept = self._secret_files | troubled
        candidates = [
            file.shown
            for file in self._tree.files
            if file.is_python
            and file.shown in self._rank_of_file
            and file.shown not in kept
            and _is_plain(file)
        ]
        return sorted(candidates, key=lambda file: (self._rank_of_file[file], file)), withheld


def _is_plain(file: SourceFile) -> bool:
    """Whether the printable path is the path: only then can the file be found again by it."""
    return shown_path(file.path) == file.path and Path(file.path).suffix == ".py"


def _file_counts(tree: Tree) -> FileCounts:
    return FileCounts(
        scanned=len(tree.files),
        python=sum(file.is_python for file in tree.files),
        skipped=dict(sorted(tree.skipped.items())),
    )
