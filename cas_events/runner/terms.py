"""On what terms one task runs: its agent's options, overruled by what its execute command says. Pure."""

from __future__ import annotations

from typing import Any

from cas_events.domain.commands import Execute
from cas_events.domain.retry import RetryPolicy
from cas_events.runner.registry import AgentSpec, Terms

_NONE_OF_ITS_OWN = (None,) * 5
RETRY_AFTER_MAX_S = 86_400.0  # an error may ask for a day at most


def terms_of(spec: AgentSpec, execute: Execute) -> Terms:
    """The task's own word where it has one, the agent's elsewhere."""
    own = (
        execute.timeout_s,
        execute.idle_timeout_s,
        execute.queue_timeout_s,
        execute.max_attempts,
        execute.retry,
    )
    if own == _NONE_OF_ITS_OWN:
        return spec.terms
    return Terms(
        timeout_s=spec.timeout_s if execute.timeout_s is None else execute.timeout_s,
        idle_timeout_s=spec.idle_timeout_s if execute.idle_timeout_s is None else execute.idle_timeout_s,
        queue_timeout_s=spec.queue_timeout_s if execute.queue_timeout_s is None else execute.queue_timeout_s,
        max_attempts=execute.max_attempts or spec.max_attempts,
        retry=_retry_of(spec.retry, execute),
    )


def _retry_of(agents: RetryPolicy, execute: Execute) -> RetryPolicy:
    own = execute.retry
    if own is None:
        return agents
    return RetryPolicy(
        base_s=agents.base_s if own.base_s is None else own.base_s,
        cap_s=agents.cap_s if own.cap_s is None else own.cap_s,
        factor=agents.factor if own.factor is None else own.factor,
    )


def retry_after_s(error: BaseException) -> float | None:
    """The delay that an error asks for, in seconds: its ``retry_after_s``, or an HTTP response's ``Retry-After``.

    Errors of HTTP clients (httpx, requests, model SDKs) carry the response; a date there is not read.
    """
    hint = getattr(error, "retry_after_s", None)
    if hint is None:
        headers: Any = getattr(getattr(error, "response", None), "headers", None)
        hint = headers.get("retry-after") if hasattr(headers, "get") else None
    try:
        seconds = float(hint)  # type: ignore[arg-type] # None and other oddities are what the except is for
    except (TypeError, ValueError):
        return None
    return min(seconds, RETRY_AFTER_MAX_S) if seconds >= 0 else None
