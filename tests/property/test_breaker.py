"""The circuit breaker's state machine, by Hypothesis.

Goal: it opens only for a reason, never lets more than the probes through while half-open, and always finds its way
back to closed once the agent succeeds. Method: random outcomes and clock steps against the pure functions.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_events.domain import breaker
from cas_events.domain.breaker import BreakerPolicy, BreakerState, Window

policies = st.builds(
    BreakerPolicy,
    failure_rate=st.floats(0.05, 1.0),
    window_s=st.floats(1, 100),
    calls_min=st.integers(1, 20),
    open_s=st.floats(0.5, 50),
    probes=st.integers(1, 5),
)
steps = st.lists(st.tuples(st.floats(0, 20), st.sampled_from(["ok", "fail", "tick"])), max_size=200)
ALLOWED = {
    "closed": {breaker.OPENED},
    "open": {breaker.HALF_OPENED},
    "half_open": {breaker.OPENED, breaker.CLOSED},
}


def step(
    policy: BreakerPolicy, state: BreakerState, window: Window, now_s: float
) -> tuple[BreakerState, str | None]:
    transition = breaker.decide(policy, state, window, now_s=now_s)
    if transition is None:
        return state, None
    window.clear()
    return breaker.evolve(state, transition, time_s=now_s, probe_at_s=now_s + policy.open_s), transition


@given(policies, steps)
def test_only_the_arrows_of_the_picture_exist(policy: BreakerPolicy, history) -> None:
    state, window, now_s = BreakerState(), Window(), 0.0
    for pause_s, what in history:
        now_s += pause_s
        if what != "tick":
            window.add(time_s=now_s, succeeded=what == "ok")
        before = state
        calls, failures = window.calls, window.failures
        state, transition = step(policy, state, window, now_s)
        if transition is None:
            assert state is before
            continue
        assert transition in ALLOWED[before.phase]
        if before.phase == "open":
            assert now_s >= before.probe_at_s == before.since_s + policy.open_s
        if before.phase == "half_open":
            assert (failures > 0) == (transition == breaker.OPENED)
        if before.phase == "closed":
            assert calls >= policy.calls_min
            assert failures > 0


@given(policies, steps)
def test_an_agent_that_works_again_is_let_through_again(policy: BreakerPolicy, history) -> None:
    state, window, now_s = BreakerState(), Window(), 0.0
    for pause_s, what in history:
        now_s += pause_s
        if what != "tick":
            window.add(time_s=now_s, succeeded=what == "ok")
        state, _ = step(policy, state, window, now_s)
    window.clear()
    for _ in range(2 + policy.probes):
        now_s += policy.open_s
        if state.phase == "half_open":
            window.add(time_s=now_s, succeeded=True)
        state, _ = step(policy, state, window, now_s)

    assert state.phase == "closed"


def test_old_failures_do_not_count() -> None:
    policy, window = BreakerPolicy(calls_min=2, window_s=10), Window()
    for time_s in (0.0, 1.0):
        window.add(time_s=time_s, succeeded=False)

    assert breaker.decide(policy, BreakerState(), window, now_s=1.0) == breaker.OPENED
    assert breaker.decide(policy, BreakerState(), window, now_s=20.0) is None


def test_other_events_change_nothing() -> None:
    state = BreakerState(phase="open", since_s=1.0, probe_at_s=2.0)

    assert breaker.evolve(state, "cas.agent.command_ignored", time_s=5.0) is state


@pytest.mark.parametrize(
    "wrong",
    [
        {"failure_rate": 0},
        {"failure_rate": 1.1},
        {"window_s": 0},
        {"calls_min": 0},
        {"open_s": -1},
        {"probes": 0},
        {"while_open": "x"},
    ],
)
def test_a_policy_out_of_range_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BreakerPolicy(**wrong)
