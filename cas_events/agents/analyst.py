"""The `analyst` agent: reads what others are to work on, a text to write about or a specification to build."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cas_events.agents.content_strategy.analyst import analyst as analyse_content
from cas_events.agents.feature_development.analyst import specify
from cas_events.agents.feature_development.work import FeatureInput
from cas_events.agents.values import read_input, to_json_value
from cas_events.errors import InvalidCommandError
from cas_events.runner.context import TaskContext


async def analyst(ctx: TaskContext, input: Mapping[str, Any]) -> dict[str, Any]:
    """Analyse ``{"path": …}`` or ``{"text": …}``; with ``"kind": "specification"`` as something to build.

    Returns:
        What the next agent takes: ``analysis`` and ``brief`` for `marketer`, or ``spec`` for `planner`.

    Raises:
        PathNotFoundError: there is nothing at the path.
        InvalidCommandError: the input has a wrong shape, or what it names cannot be worked on.
        ToolsMissingError: the extra ``demo`` is not installed.
    """
    kind = input.get("kind", "content")
    if kind == "content":
        return await analyse_content(ctx, input)
    if kind != "specification":
        raise InvalidCommandError(f"kind is {kind!r}; use 'content' or 'specification'", field="input.kind")
    spec = await specify(ctx, read_input(FeatureInput, input))
    await ctx.progress(1.0, f"{len(spec.functions)} functions")
    return {"spec": to_json_value(spec)}
