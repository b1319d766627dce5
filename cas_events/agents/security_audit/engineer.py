"""The `engineer` agent: from a scan report to remediations, the worst first, and diffs to consider.

Read-only: the remedies come from a table, the diffs from ruff's safe fixes, and the audited tree is never written to.
A chat model, where there is one, adds advice; it is told places and kinds of weaknesses and no line of code. Takes the report of `security`, from the workflow's state or from another task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cas_events.agents import model as models
from cas_events.agents.progress import Progress
from cas_events.agents.security_audit.diffs import existing, propose, within
from cas_events.agents.security_audit.findings import merge
from cas_events.agents.security_audit.remediation import remediation
from cas_events.agents.security_audit.report import (
    DIFF_BYTES_MAX,
    DIFFS_BYTES_MAX,
    Advice,
    AuditResult,
    ProposedDiff,
    Remediation,
    ScanReport,
)
from cas_events.agents.security_audit.scanners import RUFF, require_tools
from cas_events.agents.tree import BATCH_FILES
from cas_events.agents.values import read_input, to_json_value
from cas_events.errors import ToolFailedError
from cas_events.runner.context import TaskContext

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

ADVISED_MAX = 100  # remediations that a model is told


async def engineer(ctx: TaskContext, input: Mapping[str, Any]) -> dict[str, Any]:
    """Propose what to do about the findings of a report that `security` returned.

    Returns:
        An `AuditResult` as a JSON value; its diffs are also published as a partial output.

    Raises:
        InvalidCommandError: the input is no such report.
        ToolsMissingError: ruff is not installed.
    """
    return to_json_value(await remediate(ctx, read_input(ScanReport, input), ctx.progress))


async def remediate(
    ctx: TaskContext, report: ScanReport, progress: Progress, *, model: BaseChatModel | None = None
) -> AuditResult:
    """What `engineer` does, with the progress going where the caller wants it."""
    require_tools([RUFF])
    weaknesses = merge(report.findings)
    ctx.log.info("remediations written", count=len(weaknesses))
    await progress(0.1, f"{len(weaknesses)} remediations")
    proposed = await _propose_all(ctx, report, progress)
    diffs = within(proposed, each_bytes=DIFF_BYTES_MAX, total_bytes=DIFFS_BYTES_MAX)
    ctx.log.info("diffs proposed", count=len(proposed), withheld=report.diffs_withheld)
    remediations = tuple(remediation(weakness) for weakness in weaknesses[: report.max_remediations])
    result = AuditResult(
        path=report.path,
        files=report.files,
        findings=report.counts,
        remediations=remediations,
        remediations_truncated=max(0, len(weaknesses) - report.max_remediations),
        diffs=tuple(diffs),
        diffs_truncated=len(proposed) - len(diffs),
        diffs_withheld=report.diffs_withheld,
        problems=report.problems,
        problems_truncated=report.problems_truncated,
        duration_s=report.duration_s,
        advice=await _advise(ctx, report, remediations, model),
    )
    await ctx.output({"diffs": to_json_value(result)["diffs"]})
    await progress(1.0, f"{len(weaknesses)} remediations, {len(diffs)} diffs")
    return result


async def _advise(
    ctx: TaskContext, report: ScanReport, remediations: Sequence[Remediation], model: BaseChatModel | None
) -> Advice | None:
    """What a model says about the findings, if there are any."""
    if not remediations:
        return None
    facts = {
        "counts": to_json_value(report.counts),
        "remediations": [to_json_value(found) for found in remediations[:ADVISED_MAX]],
    }
    return await models.consult(ctx, models.read_prompt(__package__, "engineer"), Advice, facts, model=model)


async def _propose_all(ctx: TaskContext, report: ScanReport, progress: Progress) -> list[ProposedDiff]:
    """A diff for every file that has one; where ruff gives no answer they end, and that is said."""
    proposed: list[ProposedDiff] = []
    try:
        files = await asyncio.to_thread(existing, report.root, report.diff_candidates)
        for start in range(0, len(files), BATCH_FILES):
            proposed += await propose(report.root, files[start : start + BATCH_FILES])
            done = min(len(files), start + BATCH_FILES)
            await progress(
                0.1 + 0.9 * done / len(files), f"{done} of {len(files)} files considered for a diff"
            )
    except ToolFailedError as failed:
        ctx.log.warning("no further diffs", tool=failed.tool, reason=failed.reason)
    return proposed
