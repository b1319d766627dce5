"""The circuit breaker of an agent, for its whole fleet, as a pure state machine.

    closed ──failure rate over the window──▶ open ──probe time──▶ half-open ──successes──▶ closed
                                              ▲                       │
                                              └──────a failure────────┘

Its transitions are events on the agent's subject, so every runner folds the same state from the log, also after a
restart. What it counts are the outcomes of attempts as the log shows them: `completed` against `failed` and
`retrying` (a hand-over, a cancel and a rejection say nothing about the agent).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

OPENED = "cas.agent.breaker_opened"
HALF_OPENED = "cas.agent.breaker_half_opened"
CLOSED = "cas.agent.breaker_closed"
TRANSITIONS = frozenset({OPENED, HALF_OPENED, CLOSED})

Phase = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When an agent's breaker opens and how it closes.

    Attributes:
        failure_rate: share of failed attempts in the window that opens it, above 0 to 1.
        window_s: length of the window, in seconds.
        calls_min: attempts in the window below which the rate says nothing.
        open_s: how long it stays open before a probe, in seconds.
        probes: successes in a row, while half-open, that close it.
        while_open: ``wait``: the agent's consumer is paused and tasks stay queued; ``fail``: tasks end with `failed`,
            reason ``circuit_open``, before any agent code runs.
    """

    failure_rate: float = 0.5
    window_s: float = 60.0
    calls_min: int = 10
    open_s: float = 30.0
    probes: int = 1
    while_open: Literal["wait", "fail"] = "wait"

    def __post_init__(self) -> None:
        if not 0 < self.failure_rate <= 1:
            raise ValueError(f"failure_rate is {self.failure_rate}; it must be above 0 and at most 1")
        for name in ("window_s", "calls_min", "open_s", "probes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.while_open not in {"wait", "fail"}:
            raise ValueError(f"while_open is {self.while_open!r}; use 'wait' or 'fail'")


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerState:
    """What the log says of a breaker.

    Attributes:
        phase: closed, open or half-open.
        since_s: when it went there, seconds since the epoch.
        probe_at_s: while open: when a probe is due.
    """

    phase: Phase = "closed"
    since_s: float = 0.0
    probe_at_s: float = 0.0


def evolve(state: BreakerState, type_: str, *, time_s: float, probe_at_s: float = 0.0) -> BreakerState:
    """The state after an event of the agent; events of other types leave it as it is."""
    match type_:
        case "cas.agent.breaker_opened":
            return BreakerState(phase="open", since_s=time_s, probe_at_s=probe_at_s)
        case "cas.agent.breaker_half_opened":
            return BreakerState(phase="half_open", since_s=time_s)
        case "cas.agent.breaker_closed":
            return BreakerState(phase="closed", since_s=time_s)
    return state


@dataclass(slots=True)
class Window:
    """The outcomes that count: those of the last `window_s` seconds since the last transition.

    Attributes:
        outcomes: (time in seconds, whether it succeeded), oldest first.
    """

    outcomes: deque[tuple[float, bool]] = field(default_factory=deque)

    def add(self, *, time_s: float, succeeded: bool) -> None:
        """Count an attempt's outcome."""
        self.outcomes.append((time_s, succeeded))

    def clear(self) -> None:
        """Forget: a transition starts anew."""
        self.outcomes.clear()

    def drop_before(self, time_s: float) -> None:
        """Forget what is older than the window."""
        while self.outcomes and self.outcomes[0][0] < time_s:
            self.outcomes.popleft()

    @property
    def calls(self) -> int:
        """Attempts in the window."""
        return len(self.outcomes)

    @property
    def failures(self) -> int:
        """Failed attempts in the window."""
        return sum(not succeeded for _, succeeded in self.outcomes)


def decide(policy: BreakerPolicy, state: BreakerState, window: Window, *, now_s: float) -> str | None:
    """The transition that is due: its event type, or None.

    Args:
        policy: the agent's.
        state: what the log says.
        window: outcomes since the last transition; what is too old is dropped from it.
        now_s: seconds since the epoch.
    """
    if state.phase == "open":
        return HALF_OPENED if now_s >= state.probe_at_s else None
    if state.phase == "half_open":
        if window.failures:
            return OPENED
        return CLOSED if window.calls >= policy.probes else None
    window.drop_before(now_s - policy.window_s)
    if window.calls >= policy.calls_min and window.failures >= policy.failure_rate * window.calls:
        return OPENED
    return None
