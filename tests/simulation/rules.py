"""What the simulated runner's parts share: its bounds, one attempt in one process, and the rules that can be broken."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from cas_events.domain.decide import Action, Claim, decide
from cas_events.domain.retry import RetryPolicy
from tests.simulation.server import Item

GRACE_S = 5.0
ASK_AGAIN_S = 1.0
CLAIMED_HERE_S = 0.5
KEEPER_SLACK_S = 2.0
TICKS_PER_S, TICKS_BURST = 1.0, 2.0  # of an attempt's telemetry
RETRY = RetryPolicy(base_s=8.0, cap_s=20.0)  # Naks and schedules alike, from the first try on.

HANDOVER, TIMEOUT, CANCEL, FENCED = 1, 2, 3, 4

LOST: Any = object()
Step = Generator[Any, Any, Any]


class LostRaceError(Exception):
    """Another writer's event stands where ours should have gone."""


@dataclass(slots=True)
class Wait:
    """Until a time, or until a state, whichever is first."""

    until_s: float
    state: Callable[[], bool] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is kept; a simulation with one of them broken must find it."""

    appends_expect_the_lock: bool = True
    own_event_is_known_by_its_bytes: bool = True
    claims_are_one_at_a_time: bool = True
    silence_of_a_young_connection_proves_nothing: bool = True
    keeper_reads_before_it_renews: bool = True
    cancel_is_acked_when_the_task_has_ended: bool = True
    claim_reads_the_cancel: bool = True
    owner_looks_for_answers: bool = True
    a_claim_on_its_way_is_held: bool = True
    transitions_expect_the_lock: bool = True
    a_handover_is_no_failure: bool = True
    half_opens_at_its_time: bool = True
    decide: Callable[..., Action] = decide


@dataclass(slots=True, eq=False)
class Execution:
    """One attempt in one process."""

    item: Item
    claim: Claim
    command_seq: int
    fence_seq: int = 0
    lock_seq: int = 0
    next_index: int = 0
    phase: str = "claiming"
    stop: int = 0
    stop_s: float = 0.0
    held: bool = False  # the keeper renews it
    lost: bool = False
    deadline_s: float = float("inf")
    renew_at_s: float = 0.0
    ended: bool = False
    was_cancelled_before: bool = False  # a cancel was stored before it was claimed
    stale_renewals: int = 0
