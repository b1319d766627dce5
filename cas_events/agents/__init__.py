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
    """Register `echo`, the agents of the workflows, and the workflows `content-strategy` and `security-audit`.

    The tools that they need (the extra ``demo``) are looked for when a task starts, so that `echo` works without them.
    """
    from cas_events.agents.content_strategy.analyst import analyst  # noqa: PLC0415 - see the module's docstring
    from cas_events.agents.content_strategy.graph import build_content_strategy  # noqa: PLC0415
    from cas_events.agents.content_strategy.marketer import marketer  # noqa: PLC0415
    from cas_events.agents.echo import echo  # noqa: PLC0415
    from cas_events.agents.security_audit.engineer import engineer  # noqa: PLC0415
    from cas_events.agents.security_audit.graph import build_security_audit  # noqa: PLC0415
    from cas_events.agents.security_audit.security import security  # noqa: PLC0415

    # Trying again mends neither a wrong input nor a missing tool nor a wrong key.
    hopeless = (InvalidCommandError, ModelRefusedError, PathNotFoundError, ToolsMissingError)
    runner.agent("echo", non_retryable=hopeless)(echo)
    runner.agent("security", non_retryable=hopeless)(security)
    runner.agent("engineer", non_retryable=hopeless)(engineer)
    runner.agent("analyst", non_retryable=hopeless)(analyst)
    runner.agent("marketer", non_retryable=hopeless)(marketer)
    runner.register("content-strategy", build_content_strategy(), non_retryable=hopeless)
    runner.register("security-audit", build_security_audit(), non_retryable=hopeless)
