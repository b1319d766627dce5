"""The circuit breaker in the simulation: what `cas_events.runner.breakers` does in each process, as a generator.

Every process counts the outcomes that it hears (some it does not) and moves the breaker under the lock of the agent's
own subject; whoever was slower, or has missed a transition, is refused and reads what it missed. While it is open, the
server pauses the agent's deliveries, or claims are ended with `circuit_open`. The decisions are the domain's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cas_events.domain import breaker, events
from cas_events.domain.breaker import BreakerPolicy, BreakerState, Window
from tests.simulation.server import Server, Stored

# Few calls and short times, so that runs of one task get to see every transition.
POLICIES = (
    None,
    None,
    BreakerPolicy(calls_min=1, open_s=5.0),
    BreakerPolicy(calls_min=2, open_s=20.0, probes=2),
    BreakerPolicy(calls_min=1, open_s=8.0, while_open="fail"),
)


def outcome(event: Stored, *, handover_counts: bool = False) -> bool | None:
    """Whether an attempt succeeded; None for what says nothing about the agent."""
    if event.type == events.COMPLETED:
        return True
    if event.type == events.FAILED:
        return None if event.reason == "circuit_open" else False
    if event.type == events.RETRYING:
        return None if event.handover and not handover_counts else False
    return None


@dataclass(slots=True, eq=False)
class Guard:
    """One process's view of the agent's breaker."""

    process: Any
    server: Server
    policy: BreakerPolicy
    state: BreakerState = field(default_factory=BreakerState)
    window: Window = field(default_factory=Window)
    last_seq: int = 0
    changed: bool = True

    @property
    def fails_fast(self) -> bool:
        return self.policy.while_open == "fail" and self.state.phase == "open"

    def hear(self, event: Stored) -> None:
        """An outcome passed by."""
        counts = not self.process.rules.a_handover_is_no_failure
        succeeded = outcome(event, handover_counts=counts)
        if succeeded is not None:
            self.window.add(time_s=self.server.now_s, succeeded=succeeded)
            self.changed = True

    def fold(self, move: Any) -> None:
        """Take a transition that is next in the agent's log."""
        before = self.state
        self.last_seq = move.seq
        self.state = breaker.evolve(before, move.type, time_s=move.stored_s, probe_at_s=move.probe_at_s)
        if move.type == breaker.HALF_OPENED:
            self.window.drop_before(before.probe_at_s)
        else:
            self.window.clear()
        self.changed = True

    def watch(self, wait: Any) -> Any:
        """Move it when that is due, for as long as the process lives; ``wait`` makes a wait for a time or a state."""
        yield from self.catch_up()
        while True:
            self.changed = False
            keeps_time = self.process.rules.half_opens_at_its_time or self.state.phase != "open"
            early_s = 0.0 if keeps_time else 100.0
            now_s = self.process.wall_s()
            due = breaker.decide(self.policy, self.state, self.window, now_s=now_s + early_s)
            if due is not None:
                probe_at_s = now_s + self.policy.open_s if due == breaker.OPENED else 0.0
                expected_seq = self.last_seq if self.process.rules.transitions_expect_the_lock else None
                yield (self.server.move_breaker, due, probe_at_s, expected_seq)
                yield from self.catch_up()
            if self.state.phase == "open":
                if self.policy.while_open == "wait":
                    yield from self.process.ask(self.server.pause, self.state.probe_at_s)
                probe_at_s = self.state.probe_at_s - self.process.skew_s
                yield wait(max(probe_at_s, self.server.now_s + 0.01), lambda: self.changed)
            else:
                yield wait(float("inf"), lambda: self.changed)

    def catch_up(self) -> Any:
        for move in (yield from self.process.ask(self.server.moves_after, self.last_seq)):
            if move.seq > self.last_seq:
                self.fold(move)
