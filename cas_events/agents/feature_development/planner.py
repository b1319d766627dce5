"""The `planner` agent: from a specification to tasks in the order in which they can be done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cas_events.agents.feature_development.plan import Plan, make_plan
from cas_events.agents.feature_development.spec import Spec, check_spec
from cas_events.agents.values import read_input, to_json_value
from cas_events.runner.context import TaskContext


async def planner(ctx: TaskContext, input: Mapping[str, Any]) -> dict[str, Any]:
    """Plan ``{"spec": …}``.

    Returns:
        The input with its ``plan``; the `developer` agent takes it as it is.

    Raises:
        InvalidCommandError: it is no specification, or its functions need each other in a circle.
    """
    spec = check_spec(read_input(Spec, input.get("spec")))
    plan = await draw_up(ctx, spec)
    await ctx.progress(1.0, f"{len(plan.tasks)} tasks")
    return {**input, "spec": to_json_value(spec), "plan": to_json_value(plan)}


async def draw_up(ctx: TaskContext, spec: Spec) -> Plan:
    """The plan, told to whoever follows."""
    plan = make_plan(spec)
    for number, task in enumerate(plan.tasks, start=1):
        ctx.log.info("task planned", number=number, task=task.id, agent=task.agent, needs=list(task.needs))
    for rule in plan.unclear:
        ctx.log.warning("rule not understood", rule=rule)
    await ctx.output({"plan": [task.id for task in plan.tasks]})
    return plan
