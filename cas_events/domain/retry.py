"""When to try again: exponential backoff with full jitter, as a pure function.

Full jitter (a uniform draw between 0 and the cap) spreads the retries of many tasks that failed together best;
the draw itself is handed in, because the core knows no randomness.
"""

from __future__ import annotations

from dataclasses import dataclass

from cas_events.domain.bounds import require_number


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How an agent's errors are retried.

    Attributes:
        base_s: upper bound of the first delay, in seconds.
        cap_s: upper bound of any delay, in seconds.
        factor: growth of the bound from try to try.

    Raises:
        InvalidLimitError: a number is out of range; the error names it.
    """

    base_s: float = 0.5
    cap_s: float = 60.0
    factor: float = 2.0

    def __post_init__(self) -> None:
        for name in ("base_s", "cap_s"):
            require_number(name, getattr(self, name), may_be_least=True, of="RetryPolicy")
        require_number("factor", self.factor, least=1, may_be_least=True, of="RetryPolicy")


def backoff_s(policy: RetryPolicy, *, tries: int, draw: float) -> float:
    """The delay before the next try, in seconds.

    Args:
        policy: the bounds.
        tries: tries made so far, from 1.
        draw: a random number in [0, 1).
    """
    # The exponent is bounded so that a task with a huge `max_attempts` cannot overflow a float.
    bound_s = min(policy.cap_s, policy.base_s * policy.factor ** min(tries - 1, 64))
    return bound_s * draw
