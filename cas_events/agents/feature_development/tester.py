"""The `tester` agent: really runs a version's tests, in a process that ends with the task.

pytest runs under coverage in a scratch folder and in a process group of its own, without the runner's environment;
a cancel, a deadline or the runner's death kills it (`process`). Its lines are log events as they come.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from cas_events.agents.feature_development.scratch import scratch
from cas_events.agents.feature_development.spec import Spec
from cas_events.agents.feature_development.verdict import TestReport, read_outcomes
from cas_events.agents.feature_development.work import (
    Version,
    module_file,
    require_tools,
    tests_file,
)
from cas_events.agents.process import run_module
from cas_events.agents.values import read_input, to_json_value
from cas_events.errors import ToolFailedError
from cas_events.runner.context import TaskContext

TESTS_S = 60.0
OUTPUT_BYTES_MAX = 4 * 1024 * 1024
LINES_TOLD_MAX = 400
LINE_CHARS_MAX = 400

_PYTEST = (
    *("-m", "pytest", "-vv", "--tb=no", "-rfE", "--no-header", "--color=no", "--disable-plugin-autoload"),
    *("-p", "no:cacheprovider", "-c", "pytest.ini", "--rootdir=."),
)


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What the tester is handed."""

    spec: Spec
    version: Version


async def tester(ctx: TaskContext, input: Mapping[str, Any]) -> dict[str, Any]:
    """Run the tests of ``{"spec": …, "version": …}``.

    Returns:
        The input with the ``report``; the `qa` agent takes it as it is.

    Raises:
        InvalidCommandError: the input is no such pair.
        ToolsMissingError: the extra ``demo`` is not installed.
    """
    work = read_input(Handover, {name: input.get(name) for name in Handover.__struct_fields__})
    report = await run_tests(ctx, work.spec, work.version)
    await ctx.progress(1.0, f"{report.passed} passed, {len(report.failed)} failed")
    return {**input, "report": to_json_value(report)}


async def run_tests(ctx: TaskContext, spec: Spec, version: Version) -> TestReport:
    """What the tests say of a version; a run that does not end is a report, too."""
    require_tools()
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        said = " ".join(line.strip("= ").split())  # without rulers and columns
        if said and len(lines) <= LINES_TOLD_MAX:
            ctx.log.info(said[:LINE_CHARS_MAX], tool="pytest", version=version.round + 1)

    broken = ""
    async with scratch(version.files) as folder:
        try:
            await run_module(
                "coverage",
                ["run", "--branch", f"--include={module_file(spec)}", *_PYTEST, tests_file(spec)],
                timeout_s=TESTS_S,
                output_bytes_max=OUTPUT_BYTES_MAX,
                folder=folder,
                on_line=tell,
            )
        except ToolFailedError as failed:
            broken = f"the tests did not end: {failed.reason.replace('_', ' ')}"
        report = read_outcomes(lines, await _coverage(folder), broken=broken)
    ctx.log.info(
        "tests run",
        passed=report.passed,
        failed=len(report.failed),
        coverage=report.coverage,
        broken=report.broken,
    )
    return report


async def _coverage(folder: Path) -> dict[str, Any]:
    """Coverage's own summary; empty where nothing was measured."""
    finished = await run_module(
        "coverage", ["json", "--quiet", "-o", "coverage.json"], timeout_s=TESTS_S, folder=folder
    )
    if finished.returncode:
        return {}
    measured: dict[str, Any] = json.loads((folder / "coverage.json").read_text(encoding="utf-8"))
    return measured
