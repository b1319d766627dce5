"""The `developer` agent: writes a version of the code, and the next one from what was found in the last.

Without a model by templates (`code`), with one freely; what a model writes is looked at before it is run: it must
define what is specified, import nothing but pure modules and call nothing that reaches outside. That is a seat belt,
not a sandbox: the tests run it in a process without keys, and a runner for strangers' specifications belongs into a
container.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from cas_events.agents import model as models
from cas_events.agents.feature_development.code import improve, write_module, write_tests
from cas_events.agents.feature_development.plan import Plan, make_plan
from cas_events.agents.feature_development.scratch import scratch
from cas_events.agents.feature_development.spec import Spec, check_spec, parse_signature
from cas_events.agents.feature_development.verdict import Finding, TestReport, failed_examples
from cas_events.agents.feature_development.work import (
    Version,
    diff,
    module_file,
    require_tools,
    tests_file,
)
from cas_events.agents.process import run_module
from cas_events.agents.values import read_input, to_json_value
from cas_events.errors import ToolFailedError
from cas_events.runner.context import TaskContext

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

FORMAT_S = 30.0

_PURE_MODULES = frozenset(
    {
        "__future__",
        "bisect",
        "collections",
        "dataclasses",
        "datetime",
        "decimal",
        "enum",
        "fractions",
        "functools",
    }
    | {"heapq", "itertools", "json", "math", "operator", "re", "statistics", "string", "textwrap", "typing"}
    | {"unicodedata"}
)
_REACHING_OUT = frozenset(
    {
        "__import__",
        "breakpoint",
        "compile",
        "delattr",
        "eval",
        "exec",
        "getattr",
        "globals",
        "input",
        "locals",
    }
    | {"open", "setattr", "vars"}
)


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The module's source, as a model answers it."""

    source: Annotated[str, msgspec.Meta(min_length=1, max_length=60_000)]


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """What the developer is handed; the last three only when there is something to mend."""

    spec: Spec
    plan: Plan
    version: Version | None = None
    report: TestReport | None = None
    findings: tuple[Finding, ...] = ()


async def developer(ctx: TaskContext, input: Mapping[str, Any]) -> dict[str, Any]:
    """Write the next version for ``{"spec": …}``, and where there are, its ``version``, ``report``, ``findings``.

    Returns:
        The input with the new ``version``; the `tester` agent takes it as it is.

    Raises:
        InvalidCommandError: it is no specification.
        ToolsMissingError: the extra ``demo`` is not installed.
    """
    spec = check_spec(read_input(Spec, input.get("spec")))
    plan = input.get("plan") or to_json_value(make_plan(spec))
    version = await develop(ctx, read_input(Assignment, {**_known(input), "plan": plan}))
    await ctx.progress(1.0, f"version {version.round + 1} written")
    return {**input, "plan": plan, "version": to_json_value(version)}


def _known(input: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in input.items() if name in Assignment.__struct_fields__}


async def develop(ctx: TaskContext, work: Assignment, *, model: BaseChatModel | None = None) -> Version:
    """One version; its difference from the last is a partial output."""
    require_tools()
    spec, last = work.spec, work.version
    choices = {} if last is None else last.choices
    if last is not None and work.report is not None:
        choices = improve(spec, choices, failed_examples(work.report))
    answer = await models.consult(
        ctx,
        models.read_prompt(__package__, "developer"),
        Source,
        _facts(work),
        model=model,
        check=lambda answer: check_source(answer.source, spec),
    )
    source = answer.source if answer is not None else write_module(spec, work.plan.order, choices)
    before = {} if last is None else last.files
    files = await _formatted(ctx, {module_file(spec): source, tests_file(spec): write_tests(spec)})
    version = Version(
        round=0 if last is None else last.round + 1,
        files=files,
        choices=choices,
        by="rules" if answer is None else "model",
        changed=files != before,
    )
    ctx.log.info("version written", version=version.round + 1, by=version.by, changed=version.changed)
    await ctx.output({"version": version.round + 1, "diff": diff(before, files)})
    return version


def _facts(work: Assignment) -> dict[str, Any]:
    facts: dict[str, Any] = {"specification": to_json_value(work.spec)}
    if work.version is not None:
        facts["last_version"] = work.version.files.get(module_file(work.spec), "")
        facts["findings"] = [finding.message for finding in work.findings]
    return facts


async def _formatted(ctx: TaskContext, files: dict[str, str]) -> dict[str, str]:
    """The files as ruff formats them; as they are where it cannot."""
    async with scratch(files) as folder:
        try:
            await run_module(
                "ruff",
                ["format", "--isolated", "--quiet", "--line-length=110", "."],
                timeout_s=FORMAT_S,
                folder=folder,
            )
        except ToolFailedError as failed:
            ctx.log.warning("not formatted", reason=failed.reason)
        return {name: (folder / name).read_text(encoding="utf-8") for name in files}


def check_source(source: str, spec: Spec) -> None:
    """Refuse source that is not what was asked for, or that reaches outside.

    Raises:
        ValueError: it says what is wrong.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as problem:
        raise ValueError(f"the source cannot be parsed: {type(problem).__name__}") from None
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for function in spec.functions:
        wanted = [argument.arg for argument in parse_signature(function.signature).args.args]
        found = defined.get(function.name)
        if found is None or [argument.arg for argument in found.args.args] != wanted:
            raise ValueError(f"the source does not define {function.name}({', '.join(wanted)})")
    for node in ast.walk(tree):
        _check_node(node)


def _check_node(node: ast.AST) -> None:
    modules: Sequence[str] = ()
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        modules = [node.module or ""]
    strange = [module for module in modules if module.partition(".")[0] not in _PURE_MODULES]
    if strange:
        raise ValueError(f"the source imports {strange[0]}")
    if isinstance(node, ast.Name) and node.id in _REACHING_OUT:
        raise ValueError(f"the source uses {node.id}")
    if isinstance(node, ast.Attribute) and node.attr.startswith("__"):
        raise ValueError(f"the source uses {node.attr}")
