"""The JSON-able values that the audit's two agents exchange and return.

`AuditInput` is what a task is asked, `ScanReport` what `security` hands to `engineer`, `AuditResult` what the workflow
answers. All are bounded, because they travel through checkpoints and events; what a bound cut off is counted.
None has a field for text of the audited files except `ProposedDiff`, and files with a secret have no diff.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from cas_events.agents.security_audit.findings import Finding
from cas_events.agents.tree import Problem

PROBLEMS_MAX = 100
DIFF_CANDIDATES_MAX = 200
DIFFS_BYTES_MAX = (
    96 * 1024
)  # The result stays below the 256 KiB from which a value travels apart from its event.
DIFF_BYTES_MAX = 16 * 1024

Positive = Annotated[int, msgspec.Meta(ge=1)]


class AuditInput(msgspec.Struct, frozen=True, kw_only=True):
    """What to audit.

    Attributes:
        path: folder or file; relative ones are taken from the runner's working directory.
        max_files: files beyond it are counted, not scanned.
        max_findings: findings beyond it, the least severe, are logged and counted but get no remediation.
        max_remediations: how many the result holds.
    """

    path: Annotated[str, msgspec.Meta(min_length=1)]
    max_files: Positive = 20_000
    max_findings: Positive = 1_000
    max_remediations: Positive = 200


class FileCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many files were scanned, how many of them are Python, and what was left out, by reason."""

    scanned: int
    python: int
    skipped: dict[str, int]


class FindingCounts(msgspec.Struct, frozen=True, kw_only=True):
    """All findings, also those beyond a bound; ``ignored`` were left out on purpose, by reason."""

    total: int
    by_severity: dict[str, int]
    by_tool: dict[str, int]
    ignored: dict[str, int]


class ScanReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `security` found.

    Attributes:
        root: absolute folder that the findings' paths start from.
        path: what was audited, in printable form.
        findings: the worst first, at most ``max_findings``.
        diff_candidates: Python files with findings and without secrets, in the order of their worst finding.
        diffs_withheld: Python files with findings that get no diff because a secret was found in them.
        duration_s: wall time per tool, and ``total``.
    """

    root: str
    path: str
    files: FileCounts
    counts: FindingCounts
    findings: tuple[Finding, ...]
    findings_truncated: int
    problems: tuple[Problem, ...]
    problems_truncated: int
    diff_candidates: tuple[str, ...]
    diffs_withheld: int
    duration_s: dict[str, float]
    max_remediations: Positive = 200


class Remediation(msgspec.Struct, frozen=True, kw_only=True):
    """What to do about one weakness."""

    severity: str
    file: str
    line: int
    title: str
    rules: tuple[str, ...]
    tools: tuple[str, ...]
    remedy: str


class ProposedDiff(msgspec.Struct, frozen=True, kw_only=True):
    """A unified diff against the folder's root, for ``patch -p1``."""

    file: str
    diff: str


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What a chat model makes of the findings; it saw their places and kinds, never the code."""

    summary: Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]
    next_steps: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=500)], ...], msgspec.Meta(max_length=10)
    ]


class AuditResult(msgspec.Struct, frozen=True, kw_only=True):
    """The workflow's answer; ``…_truncated`` says how many more there are, ``advice`` is there with a model only."""

    path: str
    files: FileCounts
    findings: FindingCounts
    remediations: tuple[Remediation, ...]
    remediations_truncated: int
    diffs: tuple[ProposedDiff, ...]
    diffs_truncated: int
    diffs_withheld: int
    problems: tuple[Problem, ...]
    problems_truncated: int
    duration_s: dict[str, float]
    advice: Advice | None = None
