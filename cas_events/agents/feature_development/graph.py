"""The `feature-development` workflow: five agents in a row, and from `qa` back to `developer` while that may help.

analyst ─▶ planner ─▶ developer ─▶ tester ─▶ qa ─▶ end
▲                    │ findings, at most max_rounds times
└────────────────────┘
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from cas_events.agents.feature_development.analyst import specify
from cas_events.agents.feature_development.developer import Assignment, develop
from cas_events.agents.feature_development.planner import draw_up
from cas_events.agents.feature_development.qa import Case, review
from cas_events.agents.feature_development.spec import Spec
from cas_events.agents.feature_development.tester import run_tests
from cas_events.agents.feature_development.verdict import Verdict
from cas_events.agents.feature_development.work import (
    FeatureInput,
    Version,
    deliver,
    diff,
    existing,
    require_tools,
)
from cas_events.agents.progress import Progress, share
from cas_events.agents.values import read_input, to_json_value
from cas_events.runner.context import current_task

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

PLANNED = 0.15  # of the bar; the rounds share the rest


class FeatureRequest(TypedDict, total=False):
    """What the workflow is asked; see `work.FeatureInput`."""

    path: str
    text: str
    max_rounds: int
    write_to: str


class FeatureAnswer(TypedDict, total=False):
    """What the workflow answers: the verdict, how many rounds it took, the files, and their diff to what was there."""

    verdict: dict[str, Any]
    rounds: int
    files: dict[str, str]
    diff: str
    plan: dict[str, Any]


class FeatureState(FeatureRequest, FeatureAnswer, total=False):
    """Request and answer, and between them what the agents hand to each other."""

    spec: dict[str, Any]
    version: dict[str, Any]
    report: dict[str, Any]


def build_feature_development(
    model: BaseChatModel | None = None,
) -> CompiledStateGraph[FeatureState, None, FeatureRequest, FeatureAnswer]:
    """The compiled graph; the model is that of ``CAS_MODEL`` where none is given, and none is needed."""

    async def analyst_node(state: FeatureState) -> dict[str, Any]:
        ctx, request = current_task(), _request(state)
        require_tools()
        await existing(request.write_to, {})  # A folder that is not there is said before the work.
        await ctx.progress(0.0, "reading the specification")
        spec = await specify(ctx, request, model=model)
        await ctx.progress(PLANNED / 2, f"{len(spec.functions)} functions")
        return {"spec": to_json_value(spec)}

    async def planner_node(state: FeatureState) -> dict[str, Any]:
        ctx = current_task()
        plan = await draw_up(ctx, read_input(Spec, state["spec"]))
        await ctx.progress(PLANNED, f"{len(plan.tasks)} tasks")
        return {"plan": to_json_value(plan)}

    async def developer_node(state: FeatureState) -> dict[str, Any]:
        progress = _progress(state, is_new=True)
        known: dict[str, Any] = {
            name: value for name, value in state.items() if name in Assignment.__struct_fields__
        }
        if "verdict" in state:
            known["findings"] = state["verdict"]["findings"]
        version = await develop(current_task(), read_input(Assignment, known), model=model)
        if version.changed:
            await progress(0.2, f"version {version.round + 1} written")
        else:
            await current_task().progress(1.0, "nothing is left to try")
        return {"version": to_json_value(version)}

    async def qa_node(state: FeatureState) -> dict[str, Any]:
        case = read_input(
            Case, {name: value for name, value in state.items() if name in Case.__struct_fields__}
        )
        verdict = await review(current_task(), case, model=model)
        files, write_to = case.version.files, _request(state).write_to
        changes = diff(await existing(write_to, files), files)
        if verdict.accepted and write_to:
            await deliver(write_to, files)
        answer = {
            "verdict": to_json_value(verdict),
            "rounds": case.version.round,
            "files": files,
            "diff": changes,
        }
        is_over = _after_qa({**state, **answer}) == "__end__"  # type: ignore[typeddict-item]
        said = "accepted" if verdict.accepted else f"{len(verdict.findings)} findings"
        await (current_task().progress(1.0, said) if is_over else _progress(state)(1.0, said))
        return answer

    builder = StateGraph(FeatureState, input_schema=FeatureRequest, output_schema=FeatureAnswer)
    builder.add_node("analyst", analyst_node)
    builder.add_node("planner", planner_node)
    builder.add_node("developer", developer_node)
    builder.add_node("tester", _tester_node)
    builder.add_node("qa", qa_node)
    builder.add_edge(START, "analyst")
    builder.add_edge("analyst", "planner")
    builder.add_edge("planner", "developer")
    builder.add_conditional_edges("developer", _after_developer)
    builder.add_edge("tester", "qa")
    builder.add_conditional_edges("qa", _after_qa)
    return builder.compile(name="feature-development")


async def _tester_node(state: FeatureState) -> dict[str, Any]:
    ctx, progress = current_task(), _progress(state)
    await progress(0.25, "running the tests")
    report = await run_tests(ctx, read_input(Spec, state["spec"]), read_input(Version, state["version"]))
    await progress(0.8, f"{report.passed} passed, {len(report.failed)} failed")
    return {"report": to_json_value(report)}


def _after_developer(state: FeatureState) -> Literal["tester", "__end__"]:
    """A version that is the same as the last one needs no second verdict."""
    return "tester" if state["version"]["changed"] else "__end__"


def _after_qa(state: FeatureState) -> Literal["developer", "__end__"]:
    verdict, rounds = read_input(Verdict, state["verdict"]), state["version"]["round"]
    return "__end__" if verdict.accepted or rounds >= _request(state).max_rounds else "developer"


def _request(state: FeatureState) -> FeatureInput:
    known = {name: value for name, value in state.items() if name in FeatureInput.__struct_fields__}
    return read_input(FeatureInput, known)


def _progress(state: FeatureState, *, is_new: bool = False) -> Progress:
    """The share of the round that the version belongs to, or of the next."""
    rounds = _request(state).max_rounds + 1
    number = state["version"]["round"] + is_new if "version" in state else 0
    each = (1.0 - PLANNED) / rounds
    return share(current_task(), PLANNED + each * number, PLANNED + each * (number + 1))
