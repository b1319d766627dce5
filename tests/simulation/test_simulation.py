"""The protocol's core under crashes, redeliveries, cancels, lost answers, late writes and clock jumps, by seed.

With retries (backoff and hints), interrupts and answers, shutdowns that hand over, and the fleet's circuit breaker.

Goal: promises 1 to 6 hold whatever comes between which two steps. Method: runners whose decisions are the domain's
own, against a server in memory; thousands of runs a second, each an interleaving of its own, checked at its end. A
failing run prints its seed; ``SIMULATION_SEED=n`` runs that one alone. ``SIMULATION_S`` sets how long to go on
(``TORTURE=1``: a minute; otherwise it is a number of runs), ``SIMULATION_FIRST`` the first seed. And the simulation itself is tested: a runner that
breaks one rule, or a decision that is wrong in one cell, is caught.

What it cannot show: that `cas_events.runner` takes the steps that `tests/simulation/runner.py` takes. The tests with
real processes do.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from cas_events.domain import events
from cas_events.domain.decide import Ack, Action, AskOwner, Hint, Last, decide
from tests.harness.patience import IS_TORTURE
from tests.simulation.promises import check
from tests.simulation.rules import Rules
from tests.simulation.world import ViolationError, World

SHORT_RUNS, LONG_S = 4_000, 60.0
SEARCH_MAX = 30_000


def simulate(seed: int, rules: Rules | None = None, *, traced: bool = False) -> World:
    """One run, checked; traced, its steps are told with what it broke."""
    world = World(seed, rules)
    if traced:
        world.trace = []
    try:
        world.run()
        check(world)
    except ViolationError as error:
        steps = "\n".join([*(world.trace or ()), "the log:", *(repr(event) for event in world.server.log)])
        raise ViolationError(f"{error}\nSIMULATION_SEED={seed} reproduces it\n{steps}") from None
    return world


def test_promises_hold_in_every_interleaving() -> None:
    if "SIMULATION_SEED" in os.environ:
        simulate(int(os.environ["SIMULATION_SEED"]), traced=True)
        return
    first = int(os.environ.get("SIMULATION_FIRST", "1"))
    length_s = float(os.environ.get("SIMULATION_S") or (LONG_S if IS_TORTURE else 0.0))
    began_s, runs, steps = time.monotonic(), 0, 0
    while runs < SHORT_RUNS or time.monotonic() - began_s < length_s:
        steps += simulate(first + runs).steps
        runs += 1
    a_second = runs / (time.monotonic() - began_s)
    sys.stdout.write(f"{runs} interleavings, {steps} steps, {a_second:.0f} a second, from seed {first} on\n")


def test_a_seed_gives_the_same_run_again() -> None:
    first, second = simulate(77, traced=True), simulate(77, traced=True)
    assert first.trace
    assert first.trace == second.trace


# --- the simulation finds what is broken


def claims_without_asking(hint: Hint, last: Last | None, *, now_s: float) -> Action:
    action = decide(hint, last, now_s=now_s)
    return action.then if isinstance(action, AskOwner) else action


def counts_no_crash(hint: Hint, last: Last | None, *, now_s: float) -> Action:
    action = decide(hint, last, now_s=now_s)
    if isinstance(action, AskOwner) and last is not None:
        return replace(action, then=msgspec.structs.replace(action.then, tries=last.tries))
    return action


def waits_for_no_delay(hint: Hint, last: Last | None, *, now_s: float) -> Action:
    return decide(hint, last, now_s=now_s + 100.0)


def drops_the_wake_of_an_earlier_attempt(hint: Hint, last: Last | None, *, now_s: float) -> Action:
    """As it was: found here at its first run."""
    is_retrying = last is not None and last.type == events.RETRYING
    if hint.kind == "wake" and is_retrying and last is not None and hint.wake_attempt != last.attempt:
        return Ack()
    return decide(hint, last, now_s=now_s)


def drops_the_wake_of_a_resumed_task(hint: Hint, last: Last | None, *, now_s: float) -> Action:
    """As it was: found here at its first run."""
    is_retrying = last is not None and last.type == events.RETRYING
    if hint.kind == "wake" and is_retrying and last is not None and hint.command_seq != last.command_seq:
        return Ack()
    return decide(hint, last, now_s=now_s)


@pytest.mark.parametrize(
    "rule",
    [
        "appends_expect_the_lock",
        "own_event_is_known_by_its_bytes",
        "claims_are_one_at_a_time",
        "a_claim_on_its_way_is_held",
        "silence_of_a_young_connection_proves_nothing",
        "keeper_reads_before_it_renews",
        "cancel_is_acked_when_the_task_has_ended",
        "claim_reads_the_cancel",
        "owner_looks_for_answers",
        "transitions_expect_the_lock",
        "a_handover_is_no_failure",
        "half_opens_at_its_time",
    ],
)
def test_a_runner_that_breaks_a_rule_is_caught(rule: str) -> None:
    assert violation_of(Rules(**{rule: False}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        claims_without_asking,
        counts_no_crash,
        waits_for_no_delay,
        drops_the_wake_of_an_earlier_attempt,
        drops_the_wake_of_a_resumed_task,
    ],
)
def test_a_wrong_decision_is_caught(wrong: Callable[..., Action]) -> None:
    assert violation_of(Rules(decide=wrong))


def violation_of(rules: Rules) -> str:
    """What the first run that breaks a promise breaks; empty if none does."""
    for seed in range(1, SEARCH_MAX):
        try:
            simulate(seed, rules)
        except ViolationError as error:
            return str(error)
    return ""
