"""The `security` agent: three scanners over a tree, each finding an event.

Owns the order of work: list the tree, run the scanners on batches of files side by side, tell findings and progress
as they come. Log lines are paced below the runner's own limit, since a line over that limit would be dropped and the
tables would disagree with the result. Ends its subprocesses when cancelled. Judges nothing and changes nothing.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cas_events.agents.progress import Progress
from cas_events.agents.security_audit.findings import Finding
from cas_events.agents.security_audit.report import AuditInput, ScanReport
from cas_events.agents.security_audit.scanners import SCANNERS, Scan, Scanner, require_tools, scan
from cas_events.agents.security_audit.tally import Tally
from cas_events.agents.tree import (
    Problem,
    SourceFile,
    Tree,
    batches,
    list_tree,
    resolve_root,
    shown_path,
)
from cas_events.agents.values import read_input, to_json_value
from cas_events.domain.limits import LOG_BURST, LOG_PER_S, TokenBucket
from cas_events.errors import ToolFailedError
from cas_events.runner.context import TaskContext

FINDINGS_TOLD_MAX = 20_000  # log lines of one audit; more are counted only
CONCURRENT_BATCHES = min(
    4, os.cpu_count() or 1
)  # A batch is one process a tool; the slowest two use a core each.

_PACE = 0.8  # of the runner's limits, which the audit shares with whatever else the task logs


async def security(ctx: TaskContext, input: Mapping[str, Any]) -> dict[str, Any]:
    """Scan ``{"path": …}`` with ruff's S rules, bandit and detect-secrets.

    Returns:
        A `ScanReport` as a JSON value.

    Raises:
        PathNotFoundError: there is nothing at the path.
        InvalidCommandError: the input has a wrong shape.
        ToolsMissingError: the extra ``demo`` is not installed.
        ToolFailedError: a scanner does not work at all.
    """
    return to_json_value(await scan_path(ctx, read_input(AuditInput, input), ctx.progress))


async def scan_path(ctx: TaskContext, request: AuditInput, progress: Progress) -> ScanReport:
    """What `security` does, with the progress going where the caller wants it."""
    require_tools()
    started_s = time.perf_counter()
    await progress(0.0, "listing files")
    tree = await _list(request)
    python = sum(file.is_python for file in tree.files)
    ctx.log.info("files listed", files=len(tree.files), python=python, skipped=dict(tree.skipped))
    audit = _Audit(ctx, tree, request, progress)
    await audit.run()
    audit.duration_s["total"] = time.perf_counter() - started_s
    shown = shown_path(str(resolve_root(request.path)))
    report = audit.tally.report(
        path=shown,
        duration_s={name: round(seconds, 3) for name, seconds in audit.duration_s.items()},
        max_remediations=request.max_remediations,
    )
    ctx.log.info("scan finished", findings=report.counts.total, **report.counts.by_severity)
    await progress(1.0, f"{report.counts.total} findings in {report.files.scanned} files")
    return report


async def _list(request: AuditInput) -> Tree:
    """List the tree in a thread that ends when the task does."""
    stop = threading.Event()
    try:
        root = await asyncio.to_thread(resolve_root, request.path)
        return await asyncio.to_thread(list_tree, root, files_max=request.max_files, stop=stop)
    finally:
        stop.set()


class _Audit:
    """One run over one tree: what is shared by the batches."""

    def __init__(self, ctx: TaskContext, tree: Tree, request: AuditInput, progress: Progress) -> None:
        self._ctx = ctx
        self._tree = tree
        self._progress = progress
        self._pace = TokenBucket.full(
            per_s=LOG_PER_S * _PACE, burst=LOG_BURST * _PACE, now_s=time.monotonic()
        )
        self._places = asyncio.Semaphore(CONCURRENT_BATCHES)
        self._told = 0
        self._scanned = 0
        self.tally = Tally(tree, findings_max=request.max_findings)
        self.duration_s: dict[str, float] = {scanner.name: 0.0 for scanner in SCANNERS}

    async def run(self) -> None:
        """Scan all batches; the first error ends them all."""
        await self._tell_problems(self._tree.problems)
        try:
            async with asyncio.TaskGroup() as group:
                for batch in batches(self._tree.files):
                    # Waiting for a place here keeps no more tasks than places.
                    await self._places.acquire()
                    group.create_task(self._batch(batch))
        except ExceptionGroup as failed:
            raise _first_error(failed) from failed

    async def _batch(self, batch: list[SourceFile]) -> None:
        try:
            await self._tell(await self._scan_batch(batch))
        finally:
            self._places.release()
        self._scanned += len(batch)
        share = self._scanned / len(self._tree.files)
        await self._progress(share, f"{self._scanned} of {len(self._tree.files)} files scanned")

    async def _scan_batch(self, batch: list[SourceFile]) -> Scan:
        """All tools on the batch, side by side."""
        async with asyncio.TaskGroup() as group:
            scans = [group.create_task(self._timed(scanner, batch)) for scanner in SCANNERS]
        together = Scan()
        for finished in scans:
            together.add(finished.result())
        return together

    async def _tell(self, together: Scan) -> None:
        """Count what a batch brought, and log it."""
        await self._tell_problems(together.problems)
        for finding in self.tally.add_findings(together.findings):
            await self._tell_finding(finding)

    async def _timed(self, scanner: Scanner, batch: list[SourceFile]) -> Scan:
        started_s = time.perf_counter()
        result = await scan(scanner, self._tree.root, batch)
        self.duration_s[scanner.name] += time.perf_counter() - started_s
        _refuse_broken(scanner, batch, result)
        return result

    async def _tell_finding(self, finding: Finding) -> None:
        if not await self._may_tell():
            return
        self._ctx.log.warning(
            "finding",
            tool=finding.tool,
            rule=finding.rule,
            title=finding.title,
            severity=finding.severity,
            file=finding.file,
            line=finding.line,
        )

    async def _tell_problems(self, problems: Sequence[Problem]) -> None:
        for problem in self.tally.add_problems(problems):
            if await self._may_tell():
                self._ctx.log.warning(
                    "not readable",
                    problem=problem.problem,
                    file=problem.file,
                    line=problem.line,
                    tool=problem.tool,
                )

    async def _may_tell(self) -> bool:
        """Wait for the pace of log lines; False once there were too many."""
        self._told += 1
        if self._told > FINDINGS_TOLD_MAX:
            if self._told == FINDINGS_TOLD_MAX + 1:
                self._ctx.log.warning("further findings are only counted", told=FINDINGS_TOLD_MAX)
            return False
        while not self._pace.take(1.0, now_s=time.monotonic()):  # noqa: ASYNC110 - waits for time itself
            await asyncio.sleep(self._pace.wait_s(1.0))
        return True


def _refuse_broken(scanner: Scanner, batch: list[SourceFile], result: Scan) -> None:
    """A tool that fails on every file of a batch is broken; going on would report a clean tree.

    Raises:
        ToolFailedError: it does.
    """
    wanted = sum(file.is_python or not scanner.python_only for file in batch)
    failed = sum(problem.problem in {"crashed", "unreadable_output"} for problem in result.problems)
    if wanted > 1 and failed == wanted and not result.findings:
        raise ToolFailedError(scanner.name, "crashed", "on every file of a batch")


def _first_error(group: BaseExceptionGroup[Exception]) -> Exception:
    """The first error in a nest of groups."""
    first = group.exceptions[0]
    return _first_error(first) if isinstance(first, BaseExceptionGroup) else first
