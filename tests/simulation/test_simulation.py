"""The protocol's core under crashes, redeliveries, cancels, lost answers, stale writers and clock jumps, by seed.

Goal: promises 1 to 6 hold whatever comes between which two steps. Method: runners whose decisions are the domain's
own, against a server in memory; thousands of runs a second, each an interleaving of its own, checked at its end. A
failing run prints its seed; `SIMULATION_SEED=n` runs that one alone and prints its steps. `SIMULATION_S` sets how long
to go on. And the simulation itself is tested: a runner that breaks one rule is caught.
"""

from __future__ import annotations

import os
import time

from tests.simulation.promises import check
from tests.simulation.runner import Rules
from tests.simulation.world import ViolationError, World

SHORT_S = 3.0


def simulate(seed: int, rules: Rules | None = None, *, traced: bool = False) -> World:
    world = World(seed, rules)
    if traced:
        world.trace = []
    try:
        world.run()
        check(world)
    except ViolationError as error:
        steps = "\n".join([*(world.trace or ()), *(repr(event) for event in world.server.log)])
        raise ViolationError(f"{error}\nSIMULATION_SEED={seed}\n{steps}") from None
    return world


def test_promises_hold_in_every_interleaving() -> None:
    if "SIMULATION_SEED" in os.environ:
        simulate(int(os.environ["SIMULATION_SEED"]), traced=True)
        return
    first = int(os.environ.get("SIMULATION_FIRST", "1"))
    length_s = float(os.environ.get("SIMULATION_S", SHORT_S))
    began_s, runs, steps = time.monotonic(), 0, 0
    while time.monotonic() - began_s < length_s:
        steps += simulate(first + runs).steps
        runs += 1
    took_s = time.monotonic() - began_s
    print(f"\n{runs} interleavings, {steps} steps, {runs / took_s:.0f} a second, seeds {first} to {first + runs - 1}")
    assert runs > 100
