"""A runner's steps in the simulation: what dispatch, claiming and execution do, as generators.

Each ``yield`` is one step that anything may come between: ``(function, *arguments)`` is a request to the server, which
answers with the function's value or with `LOST` (nobody knows whether it was carried out), `Wait` waits for a time or
a state. The decisions are the domain's own: `decide`, `after_error`, `backoff_s`. The rest is written after
PROTOCOL sections 4 to 8 and follows `cas_events.runner` step by step; `Rules` are switches that break one rule each,
by which the simulation is tested itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cas_events.domain import events
from cas_events.domain.decide import (
    NAK_DELAY_MAX_S,
    Ack,
    Action,
    AskOwner,
    Claim,
    Hint,
    Last,
    Nak,
    ReadAnswers,
)
from cas_events.domain.limits import TokenBucket
from tests.simulation.breaking import Guard
from tests.simulation.endings import append_end
from tests.simulation.rules import (
    ASK_AGAIN_S,
    CLAIMED_HERE_S,
    FENCED,
    GRACE_S,
    KEEPER_SLACK_S,
    LOST,
    TICKS_BURST,
    TICKS_PER_S,
    TIMEOUT,
    Execution,
    LostRaceError,
    Rules,
    Step,
    Wait,
)
from tests.simulation.server import ACK_WAIT_S, Item, Server, Stored


@dataclass(slots=True, eq=False)
class Process:
    """One runner process: from a start to a crash or an end."""

    name: str
    server: Server
    world: Any
    rules: Rules
    max_attempts: int
    timeout_s: float | None
    on_crash_fail: bool
    skew_s: float = 0.0
    connected_since_s: float = 0.0  # later than now: it is away, and back then
    is_paused: bool = False
    is_stopping: bool = False
    running: Execution | None = None
    guard: Guard | None = None
    steps: list[Any] = field(default_factory=list)

    @property
    def is_awake(self) -> bool:
        """Whether it can do anything that anybody else sees."""
        return not self.is_paused and self.server.now_s >= self.connected_since_s

    def wall_s(self) -> float:
        """This machine's clock."""
        return self.server.now_s + self.skew_s

    # --- requests, with their ambiguity

    def ask(self, *request: Any) -> Step:
        """A request that can be repeated: until there is an answer."""
        while True:
            answer = yield request
            if answer is not LOST:
                return answer

    def last(self) -> Step:
        found = yield from self.ask(self.server.read_last)
        return None if found is None else found.as_last()

    def append(self, event: Stored, expected_seq: int) -> Step:
        """Append under the lock; what became of an unanswered append is settled by evidence alone."""
        if not self.rules.appends_expect_the_lock:
            expected_seq = self.server.last.seq if self.server.last else 0
        while True:
            answer = yield (self.server.append, event, expected_seq)
            if answer is not LOST and answer is not None:
                return answer
            first = yield from self.ask(self.server.first_after, expected_seq)
            if first is None:
                continue
            if self.is_own(first, event):
                return first.seq
            raise LostRaceError

    def is_own(self, first: Stored, event: Stored) -> bool:
        if self.rules.own_event_is_known_by_its_bytes:
            return first.made_by is event.made_by and first.type == event.type
        return (first.attempt, first.index, first.source) == (event.attempt, event.index, event.source)

    # --- a delivery

    def handle(self, item: Item) -> Step:
        hint = self.hint(item)
        if self.governs(item):
            self.running.item = item  # type: ignore[union-attr]
            return
        is_first = item.kind == "execute" and item.delivered == 1 and self.running is None
        is_first = is_first and not (self.guard is not None and self.guard.fails_fast)
        last = None if is_first else (yield from self.last())
        while True:
            action = self.rules.decide(hint, last, now_s=self.wall_s())
            try:
                yield from self.carry_out(item, hint, action, last, is_first=is_first)
            except LostRaceError:
                is_first = False
                last = yield from self.last()
            else:
                return

    def hint(self, item: Item) -> Hint:
        return Hint(
            kind=item.kind,  # type: ignore[arg-type]
            command_seq=item.command_seq,
            interrupt=item.interrupt,
            wake_attempt=item.wake_attempt,
            delivered=item.delivered,
        )

    def governs(self, item: Item) -> bool:
        return self.running is not None and self.running.command_seq == item.command_seq

    def carry_out(self, item: Item, hint: Hint, action: Action, last: Last | None, *, is_first: bool) -> Step:
        if isinstance(action, Claim):
            yield from self.claim_and_run(item, action, last, is_first=is_first)
        elif isinstance(action, AskOwner):
            verdict = yield from self.ask_owner(action)
            if verdict == "dead":
                yield from self.claim_and_run(item, action.then, last, is_first=False)
            elif verdict == "unsure":
                yield (self.server.nak, item, ASK_AGAIN_S)
        elif isinstance(action, Nak):
            yield from self.wait(item, last, action.delay_s)
        elif isinstance(action, ReadAnswers):
            yield from self.read_answers(item, action, last)
        elif isinstance(action, Ack):
            yield (self.server.ack, item)

    def wait(self, item: Item, last: Last | None, delay_s: float | None) -> Step:
        """A long wait is a schedule: what is given back keeps its place."""
        if delay_s is None or delay_s <= NAK_DELAY_MAX_S or last is None:
            yield (self.server.nak, item, ACK_WAIT_S if delay_s is None else delay_s)
            return
        yield from self.ask(self.server.store_wake, last.attempt, delay_s)
        yield (self.server.ack, item)

    def read_answers(self, item: Item, action: ReadAnswers, last: Last | None) -> Step:
        cancel = yield from self.ask(self.server.read_cancel)
        if cancel:
            yield from self.append_over(last, events.CANCELLED)
            yield (self.server.ack, item)
            return
        answer = yield from self.ask(self.server.read_answer, action.interrupts)
        if answer is None or last is None:
            yield (self.server.ack, item)
            return
        claim = Claim(expected_seq=last.seq, attempt=last.attempt + 1, tries=1, resume=True)
        yield from self.claim_and_run(item, claim, last, is_first=False)

    def ask_owner(self, action: AskOwner) -> Step:
        if action.runner == self.name:
            mine = self.running
            return "mine" if mine is not None and mine.held else "dead"
        answer = yield (self.world.owner_says, action.runner, action.fence_seq)
        if answer == "mine":
            return "mine"
        if answer is LOST or answer == "silence":
            is_young = self.server.now_s - self.connected_since_s < ACK_WAIT_S
            if is_young and self.rules.silence_of_a_young_connection_proves_nothing:
                return "unsure"
            if answer is LOST:
                self.world.doubted.add(action.fence_seq)
        return "dead"

    # --- claiming

    def claim_and_run(self, item: Item, claim: Claim, last: Last | None, *, is_first: bool) -> Step:
        if self.running is not None and self.rules.claims_are_one_at_a_time:
            yield (self.server.nak, item, CLAIMED_HERE_S)
            return
        execution = Execution(item, claim, item.command_seq, lock_seq=claim.expected_seq)
        execution.was_cancelled_before = bool(self.server.cancel_seq)
        execution.next_index = 1 if claim.after_resumed else 0
        self.running = execution
        try:
            is_open = yield from (self.open_first(execution) if is_first else self.open(execution, last))
        except LostRaceError:
            self.release(execution)
            raise
        if is_open:
            yield from self.run(execution)
        else:
            self.release(execution)

    def open_first(self, execution: Execution) -> Step:
        cancel = yield from self.ask(self.server.read_cancel)
        seq = yield from self.append_own(execution, events.STARTED, runner=self.name)
        self.begin(execution, seq)
        if cancel and self.rules.claim_reads_the_cancel:
            yield from self.append_own(execution, events.CANCELLED)
            yield (self.server.ack, execution.item)
            return False
        return True

    def open(self, execution: Execution, last: Last | None) -> Step:
        claim = execution.claim
        cancel = yield from self.ask(self.server.read_cancel)
        obstacle = None
        if cancel and self.rules.claim_reads_the_cancel:
            obstacle = (events.CANCELLED, "")
        elif self.guard is not None and self.guard.fails_fast:
            obstacle = (events.FAILED, "circuit_open")
        elif claim.after_crash and self.on_crash_fail:
            obstacle = (events.FAILED, "error")
        elif claim.tries > self.max_attempts:
            obstacle = (events.FAILED, "attempts_exhausted")
        if obstacle is not None:
            yield from self.append_over(last, obstacle[0], reason=obstacle[1])
            yield (self.server.ack, execution.item)
            return False
        if claim.resume:
            execution.lock_seq = yield from self.append_own(execution, events.RESUMED)
        seq = yield from self.append_own(execution, events.STARTED, runner=self.name)
        self.begin(execution, seq)
        return True

    def begin(self, execution: Execution, fence_seq: int) -> None:
        execution.fence_seq = execution.lock_seq = fence_seq
        execution.held = True
        execution.renew_at_s = self.server.now_s + ACK_WAIT_S / 3
        if self.timeout_s is not None:
            execution.deadline_s = self.server.now_s + self.timeout_s + GRACE_S + KEEPER_SLACK_S
        self.world.began(self, execution)

    def append_own(self, execution: Execution, type_: str, **data: Any) -> Step:
        event = Stored(
            type_,
            execution.claim.attempt,
            execution.next_index,
            self.name,
            tries=execution.claim.tries,
            command_seq=execution.command_seq,
            made_by=execution,
            **data,
        )
        execution.next_index += 1
        return (yield from self.append(event, execution.lock_seq))

    def append_over(self, last: Last | None, type_: str, reason: str = "") -> Step:
        """End the task without holding it: the next attempt, index 0."""
        event = Stored(
            type_,
            last.attempt + 1 if last else 1,
            0,
            self.name,
            tries=last.tries if last else 0,
            command_seq=self.server.execute_seq,
            reason=reason,
            made_by=object(),
        )
        yield from self.append(event, last.seq if last else 0)

    # --- running

    def ask_to_stop(self, execution: Execution, stop: int) -> None:
        if execution.phase == "ending" or execution.stop >= stop:
            return
        if not execution.stop:
            execution.stop_s = self.server.now_s
        execution.stop = stop

    def run(self, execution: Execution) -> Step:
        plan = self.world.plan(execution)
        execution.phase = "running"
        began_s = self.server.now_s
        if not execution.stop:
            self.world.code_runs(self, execution)
            budget = TokenBucket.full(per_s=TICKS_PER_S, burst=TICKS_BURST, now_s=began_s)
            for _ in range(plan.telemetry):
                yield from self.emit(execution, budget)
            yield from self.code(execution, plan, began_s)
        execution.phase = "ending"
        try:
            if execution.stop != FENCED:
                yield from append_end(self, execution, plan)
        except LostRaceError:
            last = yield from self.last()
            if last is not None and last.is_terminal:
                yield (self.server.ack, execution.item)
        self.release(execution)

    def emit(self, execution: Execution, budget: TokenBucket) -> Step:
        """Telemetry: without the lock, and acknowledged before whatever ends the attempt."""
        if not budget.take(1.0, now_s=self.server.now_s):
            return  # Over its rate: dropped.
        event = Stored(events.PROGRESS, execution.claim.attempt, execution.next_index, self.name)
        execution.next_index += 1
        yield from self.ask(self.server.add, event)

    def code(self, execution: Execution, plan: Any, began_s: float) -> Step:
        """User code: some time, or until it is asked to end, or until it is left behind."""
        timeout_s = began_s + (self.timeout_s or float("inf"))
        hangs_until_s = timeout_s if plan.hangs else min(timeout_s, began_s + plan.takes_s)
        yield Wait(hangs_until_s, lambda: execution.stop > 0 or (plan.hangs and self.world.is_peace))
        if not execution.stop and self.server.now_s >= timeout_s:
            self.ask_to_stop(execution, TIMEOUT)
        if execution.stop and plan.is_stubborn:
            yield Wait(execution.stop_s + GRACE_S)

    def release(self, execution: Execution) -> None:
        execution.held, execution.ended = False, True
        if self.running is execution:
            self.running = None
