"""The `content-strategy` workflow: `analyst`, a person's word on the brief, `marketer` until the draft reads easily.

    analyst ─▶ approval ─▶ marketer ⟲ (rewrite) ─▶ end
                   └─▶ end (declined)

The workflow asks one question, with LangGraph's own `interrupt`, so it runs under any checkpointer. The answer is
``{"approve": true}``, or ``{"approve": false, "notes": "…"}``: with notes the brief is revised and the work goes on,
without them it ends. A node that asks does nothing else, because it is run again from its top with the answer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import msgspec
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import interrupt
from pydantic import BaseModel

from cas_events.agents.content_strategy import analyst, marketer
from cas_events.agents.content_strategy.brief import Analysis, Brief, ContentInput, Strategy
from cas_events.agents.progress import share
from cas_events.agents.values import read_input, to_json_value
from cas_events.runner.context import current_task

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

_FIELD = re.compile(r"^\s*(audience|topic|tone|message)\s*[:=]\s*(.+)$", re.IGNORECASE | re.MULTILINE)


class Approval(BaseModel, extra="forbid"):
    """The answer to the workflow's question."""

    approve: bool
    notes: str = ""


class ContentRequest(TypedDict, total=False):
    """What the workflow is asked; see `brief.ContentInput`."""

    path: str
    text: str
    query: str
    audience: str
    auto_approve: bool
    max_files: int
    max_rounds: int
    target_ease: float


class ContentAnswer(TypedDict, total=False):
    """What the workflow answers: `brief.Strategy`, and of the analysis what a reader wants to see."""

    strategy: dict[str, Any]
    analysis: dict[str, Any]


class ContentState(ContentRequest, ContentAnswer, total=False):
    """Request and answer, and between them the brief."""

    brief: dict[str, Any]


def revise(brief: Brief, notes: str) -> Brief:
    """The brief after a person's notes.

    A line such as ``audience: beginners`` sets that part (audience, topic, tone, message); the whole text stays with
    the brief for whoever writes.
    """
    changed = {match[1].lower(): match[2].strip()[:300] for match in _FIELD.finditer(notes)}
    return msgspec.structs.replace(brief, notes=notes[:4_000], **changed)


def build_content_strategy(
    model: BaseChatModel | None = None,
) -> CompiledStateGraph[ContentState, None, ContentRequest, ContentAnswer]:
    """The compiled graph; the model is that of ``CAS_MODEL`` where none is given, and none is needed."""

    async def analyst_node(state: ContentState) -> dict[str, Any]:
        ctx = current_task()
        request = _request(state)
        analysis = await analyst.analyse(ctx, request, share(ctx, 0.0, 0.5))
        brief = await analyst.propose_brief(ctx, request, analysis, model=model)
        return {"analysis": to_json_value(analysis), "brief": to_json_value(brief)}

    async def marketer_node(state: ContentState) -> dict[str, Any]:
        ctx = current_task()
        if "strategy" in state:
            written = read_input(Strategy, state["strategy"])
            return await _planned(state, await marketer.rewrite(ctx, written, model=model))
        await ctx.progress(0.55, "planning")
        analysis, brief = read_input(Analysis, state["analysis"]), read_input(Brief, state["brief"])
        return await _planned(state, await marketer.plan(ctx, analysis, brief, model=model))

    builder = StateGraph(ContentState, input_schema=ContentRequest, output_schema=ContentAnswer)
    builder.add_node("analyst", analyst_node)
    builder.add_node("approval", approval_node)
    builder.add_node("marketer", marketer_node)
    builder.add_edge(START, "analyst")
    builder.add_edge("analyst", "approval")
    builder.add_conditional_edges("approval", _after_approval)
    builder.add_conditional_edges("marketer", _after_writing)
    return builder.compile(name="content-strategy")


async def approval_node(state: ContentState) -> dict[str, Any]:
    """Ask a person, unless the request says that nobody is to be asked."""
    if state.get("auto_approve"):
        return {}
    brief = read_input(Brief, state["brief"])
    question = {"question": "Approve this brief?", "brief": to_json_value(brief)}
    answer = Approval.model_validate(interrupt(question, response_schema=Approval))
    if answer.approve or answer.notes.strip():
        current_task().log.info("brief approved" if answer.approve else "brief revised", notes=answer.notes)
        return {"brief": to_json_value(revise(brief, answer.notes) if answer.notes.strip() else brief)}
    current_task().log.info("brief declined")
    return {"strategy": to_json_value(Strategy(status="declined", brief=brief))}


async def _planned(state: ContentState, strategy: Strategy) -> dict[str, Any]:
    """Tell how far it is, and hand the strategy on."""
    ctx, rounds = current_task(), _request(state).max_rounds
    again = marketer.wants_rewrite(strategy, rounds)
    done = 0.6 + 0.4 * strategy.rounds / (rounds + 1) if again else 1.0
    await ctx.progress(done, f"draft {strategy.rounds + 1}: reading ease {strategy.ease[-1]}")
    return {"strategy": to_json_value(strategy)}


def _after_approval(state: ContentState) -> Literal["marketer", "__end__"]:
    return "__end__" if "strategy" in state else "marketer"


def _after_writing(state: ContentState) -> Literal["marketer", "__end__"]:
    strategy = read_input(Strategy, state["strategy"])
    return "marketer" if marketer.wants_rewrite(strategy, _request(state).max_rounds) else "__end__"


def _request(state: ContentState) -> ContentInput:
    return read_input(
        ContentInput, {name: value for name, value in state.items() if name in ContentInput.__struct_fields__}
    )
