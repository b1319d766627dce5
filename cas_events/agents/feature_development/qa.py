"""The `qa` agent: the word on a version, from its tests, ruff, radon and coverage; a model may add comments."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from cas_events.agents import model as models
from cas_events.agents.feature_development.plan import Plan
from cas_events.agents.feature_development.scratch import scratch
from cas_events.agents.feature_development.spec import Spec
from cas_events.agents.feature_development.verdict import COMPLEXITY_MAX, TestReport, Verdict, judge
from cas_events.agents.feature_development.work import Version, module_file, require_tools
from cas_events.agents.process import run_module
from cas_events.agents.values import read_input, to_json_value
from cas_events.runner.context import TaskContext

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

TOOL_S = 60.0

_RUFF = (
    *("check", "--isolated", "--no-cache", "--exit-zero", "--output-format=json", "--line-length=110"),
    *("--select=E,F,W,B,C4,C90,I,PIE,RET,SIM,UP", f"--config=lint.mccabe.max-complexity={COMPLEXITY_MAX}"),
)


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """What a model says about accepted code."""

    comments: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=300)], ...], msgspec.Meta(max_length=10)]


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What qa is handed."""

    spec: Spec
    plan: Plan
    version: Version
    report: TestReport


async def qa(ctx: TaskContext, input: Mapping[str, Any]) -> dict[str, Any]:
    """Judge ``{"spec": …, "plan": …, "version": …, "report": …}``.

    Returns:
        The input with the ``verdict``, and its ``findings`` for the `developer` agent.

    Raises:
        InvalidCommandError: the input is no such case.
        ToolsMissingError: the extra ``demo`` is not installed.
    """
    case = read_input(Case, {name: input.get(name) for name in Case.__struct_fields__})
    verdict = await review(ctx, case)
    await ctx.progress(1.0, "accepted" if verdict.accepted else f"{len(verdict.findings)} findings")
    plain = to_json_value(verdict)
    return {**input, "verdict": plain, "findings": plain["findings"]}


async def review(ctx: TaskContext, case: Case, *, model: BaseChatModel | None = None) -> Verdict:
    """The verdict; every finding is a log line."""
    require_tools()
    name = module_file(case.spec)
    async with scratch({name: case.version.files[name]}) as folder, asyncio.TaskGroup() as group:
        lint = group.create_task(run_module("ruff", [*_RUFF, name], timeout_s=TOOL_S, folder=folder))
        complexity = group.create_task(
            run_module("radon", ["cc", "-j", name], timeout_s=TOOL_S, folder=folder)
        )
        outputs = [(await tool).stdout for tool in (lint, complexity)]
    # What a model wrote may do what no rule of the catalogue says; then only the examples decide.
    unclear = case.plan.unclear if case.version.by == "rules" else ()
    verdict = judge(case.report, unclear=unclear, lint=outputs[0], complexity=outputs[1])
    for finding in verdict.findings:
        ctx.log.warning("finding", kind=finding.kind, function=finding.function, what=finding.message)
    ctx.log.info(
        "verdict", accepted=verdict.accepted, findings=len(verdict.findings), coverage=verdict.coverage
    )
    if not verdict.accepted:
        return verdict
    prompt = models.read_prompt(__package__, "qa")
    answer = await models.consult(ctx, prompt, Review, {"source": case.version.files[name]}, model=model)
    return verdict if answer is None else msgspec.structs.replace(verdict, comments=answer.comments)
