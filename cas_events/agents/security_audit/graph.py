"""The `security-audit` workflow: a LangGraph graph of two nodes, `security` and then `engineer`.

The nodes run the same functions as the agents of those names. Their progress is that of the workflow, so each node
has its share of the bar and the bar never runs backwards. Compiled without a checkpointer: the runner brings its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from cas_events.agents.progress import share
from cas_events.agents.security_audit.engineer import remediate
from cas_events.agents.security_audit.report import AuditInput, ScanReport
from cas_events.agents.security_audit.security import scan_path
from cas_events.agents.values import read_input, to_json_value
from cas_events.runner.context import current_task

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

SECURITY_SHARE = (
    0.9  # of the workflow's time, roughly: scanning reads everything, proposing only what was found
)


class AuditRequest(TypedDict, total=False):
    """What the workflow is asked; see `report.AuditInput`."""

    path: str
    max_files: int
    max_findings: int
    max_remediations: int


class AuditAnswer(TypedDict, total=False):
    """What the workflow answers; see `report.AuditResult`."""

    path: str
    files: dict[str, Any]
    findings: dict[str, Any]
    remediations: list[dict[str, Any]]
    remediations_truncated: int
    diffs: list[dict[str, Any]]
    diffs_truncated: int
    diffs_withheld: int
    problems: list[dict[str, Any]]
    problems_truncated: int
    duration_s: dict[str, float]
    advice: dict[str, Any] | None


class AuditState(AuditRequest, AuditAnswer, total=False):
    """Request and answer, and between them the report that one node hands to the next."""

    report: dict[str, Any]


async def _security_node(state: AuditRequest) -> dict[str, Any]:
    ctx = current_task()
    report = await scan_path(ctx, read_input(AuditInput, state), share(ctx, 0.0, SECURITY_SHARE))
    return {"report": to_json_value(report)}


def build_security_audit(
    model: BaseChatModel | None = None,
) -> CompiledStateGraph[AuditState, None, AuditRequest, AuditAnswer]:
    """The compiled graph; ``await graph.ainvoke({"path": "DIR"})`` works outside a runner too.

    The model is that of ``CAS_MODEL`` where none is given, and none is needed.
    """

    async def engineer_node(state: AuditState) -> dict[str, Any]:
        ctx = current_task()
        report = read_input(ScanReport, state["report"])
        return to_json_value(await remediate(ctx, report, share(ctx, SECURITY_SHARE, 1.0), model=model))

    builder = StateGraph(AuditState, input_schema=AuditRequest, output_schema=AuditAnswer)
    builder.add_node("security", _security_node)
    builder.add_node("engineer", engineer_node)
    builder.add_edge(START, "security")
    builder.add_edge("security", "engineer")
    builder.add_edge("engineer", END)
    return builder.compile(name="security-audit")
