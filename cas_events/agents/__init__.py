"""The agents and workflows that come with the project.

`register_samples` hands them to a runner; `samples` is a module with a runner that has them. Nothing heavy is
imported before it is registered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cas_events.errors import InvalidCommandError, ModelRefusedError, PathNotFoundError, ToolsMissingError

if TYPE_CHECKING:
    from cas_events.runner import Runner

__all__ = ["register_samples"]


def register_samples(runner: Runner) -> None:
    """Register `echo`, the agents of the workflows, and the three workflows.

    The tools that they need (the extra ``demo``) are looked for when a task starts, so that `echo` works without them.
    """
    from cas_events.agents.analyst import analyst  # noqa: PLC0415 - see the module's docstring
    from cas_events.agents.content_strategy.graph import build_content_strategy  # noqa: PLC0415
    from cas_events.agents.content_strategy.marketer import marketer  # noqa: PLC0415
    from cas_events.agents.echo import echo  # noqa: PLC0415
    from cas_events.agents.feature_development.developer import developer  # noqa: PLC0415
    from cas_events.agents.feature_development.graph import build_feature_development  # noqa: PLC0415
    from cas_events.agents.feature_development.planner import planner  # noqa: PLC0415
    from cas_events.agents.feature_development.qa import qa  # noqa: PLC0415
    from cas_events.agents.feature_development.tester import tester  # noqa: PLC0415
    from cas_events.agents.security_audit.engineer import engineer  # noqa: PLC0415
    from cas_events.agents.security_audit.graph import build_security_audit  # noqa: PLC0415
    from cas_events.agents.security_audit.security import security  # noqa: PLC0415

    # Trying again mends neither a wrong input nor a missing tool nor a wrong key.
    hopeless = (InvalidCommandError, ModelRefusedError, PathNotFoundError, ToolsMissingError)
    agents = (analyst, developer, echo, engineer, marketer, planner, qa, security, tester)
    for agent in agents:
        runner.agent(agent.__name__, non_retryable=hopeless)(agent)
    workflows = (build_content_strategy(), build_feature_development(), build_security_audit())
    for workflow in workflows:
        runner.register(workflow.get_name(), workflow, non_retryable=hopeless)
