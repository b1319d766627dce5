"""How long a test waits for what was promised, and how often it does what it does: the short form and torture.

The short form runs wherever somebody changed something: on two cores, beside other work, with every process waiting
for its turn. A promise such as "within a second of waking" is about the runtime, and a bound on measured time would
be about that machine. So the short form shows that the thing happens, and how it is ordered with everything else;
the bound itself holds in torture (``TORTURE=1``), which has the machine for itself. Speed is neither's: the benchmarks
measure it, as ratios against a floor on the same machine.
"""

from __future__ import annotations

import os

IS_TORTURE = os.environ.get("TORTURE", "") not in {"", "0"}
PATIENCE = 6.0  # the processes of a test on a loaded machine are this much slower
STALL_S = 10.0  # and each may stand still for this long, however short the promise is


def promised(seconds: float) -> float:
    """The bound of a promise on measured time: as promised in torture, generous otherwise.

    For what is promised in seconds and cannot be shown by the order of events. The generous bound still tells
    "in time" from "by the fallback", so where the fallback is near (a lease, a poll) choose it long in the test.
    """
    return seconds if IS_TORTURE else PATIENCE * seconds + STALL_S


def count(short: int, full: int) -> int:
    """How often to do something: a few times in the short form, the full count in torture."""
    return full if IS_TORTURE else short
