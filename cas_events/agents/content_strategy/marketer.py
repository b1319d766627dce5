"""The `marketer` agent: from an approved brief to outline, headlines, channel plan and a draft that reads easily.

The draft is written anew until it is as easy to read as the brief asks, at most so many rounds, and only for as long
as that helps: a version that is harder to read than the one before it is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from cas_events.agents import model as models
from cas_events.agents.content_strategy import language
from cas_events.agents.content_strategy.brief import (
    Analysis,
    Brief,
    ContentInput,
    Draft,
    Plan,
    Strategy,
)
from cas_events.agents.content_strategy.writing import simplify, write_plan
from cas_events.agents.values import read_input, to_json_value
from cas_events.runner.context import TaskContext

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

_WORDS_MAX = (18, 14, 11, 9, 8)  # of a sentence, stricter with each round


class Commission(msgspec.Struct, frozen=True, kw_only=True):
    """What the marketer is handed: what the `analyst` agent returned."""

    analysis: Analysis
    brief: Brief
    max_rounds: int = ContentInput().max_rounds


async def marketer(ctx: TaskContext, input: Mapping[str, Any]) -> dict[str, Any]:
    """Plan content for an ``analysis`` and a ``brief``.

    Returns:
        A `Strategy` as a JSON value; each version of the draft is also a partial output.

    Raises:
        InvalidCommandError: the input is no such pair.
    """
    commission = read_input(Commission, input)
    await ctx.progress(0.1, "planning")
    strategy = await plan(ctx, commission.analysis, commission.brief)
    while wants_rewrite(strategy, commission.max_rounds):
        await ctx.progress(0.5 + 0.1 * strategy.rounds, f"rewriting, reading ease {strategy.ease[-1]}")
        strategy = await rewrite(ctx, strategy)
    await ctx.progress(1.0, f"{len(strategy.plan.headlines) if strategy.plan else 0} headlines")
    return to_json_value(strategy)


async def plan(
    ctx: TaskContext, analysis: Analysis, brief: Brief, *, model: BaseChatModel | None = None
) -> Strategy:
    """The first version: the model's where there is one, else that of the rules."""
    prompt = models.read_prompt(__package__, "marketer")
    facts = {"brief": to_json_value(brief), "analysis": to_json_value(analysis)}
    answer = await models.consult(ctx, prompt, Plan, facts, model=model)
    made = answer or write_plan(analysis, brief)
    ease = await _ease(made.draft, brief)
    ctx.log.info("planned", chapters=len(made.outline), headlines=len(made.headlines), ease=ease)
    await ctx.output({"draft": made.draft, "round": 0})
    return Strategy(
        status="planned", brief=brief, plan=made, ease=(ease,), by="model" if answer is not None else "rules"
    )


def wants_rewrite(strategy: Strategy, max_rounds: int) -> bool:
    """Whether the draft is too hard to read, may be written anew, and got easier the last time."""
    if strategy.plan is None or strategy.rounds >= max_rounds:
        return False
    *before, ease = strategy.ease
    if ease is None or ease >= strategy.brief.target_ease:
        return False
    return not before or before[-1] is None or ease > before[-1]


async def rewrite(ctx: TaskContext, strategy: Strategy, *, model: BaseChatModel | None = None) -> Strategy:
    """One more round; the easier of both versions stays."""
    assert strategy.plan is not None
    draft, last = strategy.plan.draft, strategy.ease[-1]
    assert last is not None, "what has no reading ease is not rewritten"
    prompt = models.read_prompt(__package__, "rewrite")
    facts = {"draft": draft, "ease": last, "target_ease": strategy.brief.target_ease}
    answer = await models.consult(ctx, prompt, Draft, facts, model=model)
    words_max = _WORDS_MAX[min(strategy.rounds, len(_WORDS_MAX) - 1)]
    text = answer.text if answer is not None else simplify(draft, words_max=words_max)
    ease = await _ease(text, strategy.brief)
    is_easier = ease is not None and ease > last
    ctx.log.info("rewritten", round=strategy.rounds + 1, ease_before=last, ease=ease, kept=is_easier)
    if is_easier:
        await ctx.output({"draft": text, "round": strategy.rounds + 1})
    return msgspec.structs.replace(
        strategy,
        plan=msgspec.structs.replace(strategy.plan, draft=text if is_easier else draft),
        rounds=strategy.rounds + 1,
        ease=(*strategy.ease, ease if is_easier else last),
    )


async def _ease(text: str, brief: Brief) -> float | None:
    return (await asyncio.to_thread(language.measure, text, brief.language)).ease
