"""One run: processes, a client and faults in an order that a seed decides, then peace until everything has settled.

A run is a list of choices made by one `random.Random`; the same seed gives the same run. Time is virtual: it moves
when the choice falls on it, or when nothing else can happen.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from cas_events.domain import events
from tests.simulation.breaking import POLICIES, Guard
from tests.simulation.cancels import handle_cancel, hear_cancel
from tests.simulation.keeper import keep
from tests.simulation.rules import HANDOVER, LOST, Execution, Rules, Step, Wait
from tests.simulation.runner import Process
from tests.simulation.server import Server, Stored

PEACE_STEPS_MAX = 3_000
# How attempts end, each as often as it is named.
ENDS = (
    ("done", "done", "done", "error", "error", "fatal", "interrupt"),
    ("done", "error", "error", "error"),
    ("done", "error", "interrupt"),
)
SKEW_S = 2.0


class ViolationError(AssertionError):
    """A promise was broken."""


def require(condition: object, number: int, words: str) -> None:
    """Raise `ViolationError` unless a promise is kept."""
    if not condition:
        raise ViolationError(f"promise {number}: {words}")


@dataclass(slots=True)
class Plan:
    """What the agent's code does in one attempt."""

    ends: str
    takes_s: float
    hangs: bool
    is_stubborn: bool
    telemetry: int
    draw: float
    hint_s: float | None = None  # when an error says to come back


class Work:
    """A generator of one process with what it waits for."""

    __slots__ = ("answer", "generator", "process", "wait")

    def __init__(self, process: Process, generator: Step) -> None:
        self.process, self.generator = process, generator
        self.answer: Any = None
        self.wait: Wait | None = None


class World:
    """Everything of one run.

    Args:
        seed: decides it.
        rules: which ones the runners keep.
    """

    def __init__(self, seed: int, rules: Rules | None = None) -> None:
        self.rng = random.Random(seed)
        self.server = Server()
        self.rules = rules or Rules()
        self.max_attempts = self.rng.choice((1, 2, 3, 3, 5))
        self.timeout_s = self.rng.choice((None, None, 8.0, 20.0))
        self.on_crash_fail = self.rng.random() < 0.1
        # Runs differ in what is frequent, or long chains of retries would hardly ever be reached.
        self.ends = self.rng.choice(ENDS)
        self.fault_share = self.rng.choice((0.02, 0.08, 0.15))
        self.hang_share = self.rng.choice((0.0, 0.1))
        self.policy = self.rng.choice(POLICIES)
        self.server.on_stored = self.tell_guards
        self.processes: list[Process] = []
        self.works: list[Work] = []
        self.ghosts: list[tuple[Any, ...]] = []
        self.holders: dict[int, tuple[Process, Execution]] = {}
        self.stale_renewals = 0  # the most of one owner
        self.doubted: set[int] = set()  # fences whose owner somebody had reason to take for gone
        self.made = 0
        self.is_peace = False
        self.steps = 0
        self.trace: list[str] | None = None
        for _ in range(self.rng.choice((1, 2, 2, 3))):
            self.start_process()

    # --- processes

    def start_process(self) -> None:
        self.made += 1
        process = Process(
            name=f"r{self.made}",
            server=self.server,
            world=self,
            rules=self.rules,
            max_attempts=self.max_attempts,
            timeout_s=self.timeout_s,
            on_crash_fail=self.on_crash_fail,
            skew_s=0.0 if self.is_peace else self.rng.choice((0.0, 0.0, self.rng.uniform(-SKEW_S, SKEW_S))),
            connected_since_s=self.server.now_s,
        )
        self.processes.append(process)
        self.spawn(process, keep(process))
        if self.policy is not None:
            process.guard = Guard(process, self.server, self.policy)
            self.spawn(process, process.guard.watch(Wait))

    def tell_guards(self, event: Stored) -> None:
        """Everybody who is there hears of it on core NATS, or does not."""
        for process in self.processes:
            if process.guard is not None and process.is_awake and (self.is_peace or self.rng.random() < 0.9):
                process.guard.hear(event)

    def spawn(self, process: Process, generator: Step) -> None:
        self.works.append(Work(process, generator))

    def remove(self, process: Process) -> None:
        self.processes.remove(process)
        self.works = [work for work in self.works if work.process is not process]

    # --- what runners ask of the world

    def owner_says(self, runner: str, fence_seq: int) -> str:
        """The owner's keeper answers; silence if it is gone or stands still."""
        owner = next((process for process in self.processes if process.name == runner), None)
        if owner is None or owner.is_paused:
            self.doubted.add(fence_seq)
            return "silence"
        if not owner.is_awake:
            return "silence"  # It is well, and will be back in a moment.
        mine = owner.running
        if mine is None or mine.lost:
            return "not mine"
        if mine.phase == "claiming" and self.rules.a_claim_on_its_way_is_held:
            return "mine"  # Its `started` may be stored already, and the answer on its way.
        return "mine" if mine.held and mine.fence_seq == fence_seq else "not mine"

    def began(self, process: Process, execution: Execution) -> None:
        self.holders[execution.fence_seq] = (process, execution)

    def plan(self, execution: Execution) -> Plan:
        rng = self.rng
        if self.is_peace:
            return Plan("done", 1.0, False, False, 0, 0.5)
        return Plan(
            rng.choice(self.ends),
            rng.choice((0.0, 0.0, 2.0, 30.0)),
            rng.random() < self.hang_share,
            rng.random() < 0.15,
            rng.choice((0, 0, 0, 1, 4)),
            rng.random(),
            rng.choice((None, None, None, 0.0, 3.0, 40.0)),
        )

    def code_runs(self, process: Process, execution: Execution) -> None:
        """User code begins."""
        require(not execution.was_cancelled_before, 5, "code runs that was cancelled before its claim")
        if self.trace is not None:
            self.trace.append(f"      code runs in {process.name}, fence {execution.fence_seq}")

    # --- the run

    def run(self) -> None:
        """Faults, then peace; raises `ViolationError` when something stays stuck."""
        rng, server = self.rng, self.server
        if rng.random() < 0.1:
            server.cancel()
        if rng.random() < 0.9:
            server.execute()
        for _ in range(rng.choice((15, 40, 40, 80, 160))):
            self.steps += 1
            chance = rng.random()
            if chance < self.fault_share:
                self.fault()
            elif chance < 0.72:
                self.advance()
            elif chance < 0.88:
                self.deliver()
            elif chance > 0.95 and self.is_asked():
                self.answer()
            else:
                self.pass_time()
        self.make_peace()

    def make_peace(self) -> None:
        self.is_peace = True
        for process in self.processes:
            process.is_paused = False
            process.skew_s = 0.0
        self.server.execute()
        self.apply_ghosts()
        if not [process for process in self.processes if not process.is_stopping]:
            self.start_process()
        for _ in range(PEACE_STEPS_MAX):
            self.steps += 1
            if self.advance() or self.deliver():
                continue
            if self.is_asked() and self.answer():
                continue
            if all(item.acked for item in self.server.items) and self.next_time_s() is None:
                return
            if not self.pass_time(to_next=True):
                break
        raise ViolationError(f"stuck: {[vars_of(item) for item in self.server.items if not item.acked]}")

    def is_asked(self) -> bool:
        return self.server.last is not None and self.server.last.type == events.INTERRUPTED

    def answer(self) -> bool:
        """The client answers the interrupt that is listed, once."""
        name = self.server.last.interrupts[0] if self.server.last else ""
        if name in self.server.resumes:
            return False
        self.server.resume(name)
        return True

    # --- choices

    def runnable(self) -> list[Work]:
        now_s = self.server.now_s
        return [
            work
            for work in self.works
            if work.process.is_awake
            and (
                work.wait is None
                or now_s >= work.wait.until_s
                or (work.wait.state is not None and work.wait.state())
            )
        ]

    def advance(self) -> bool:
        """Let one piece of work take its next step."""
        works = self.runnable()
        if not works:
            return False
        self.step(works[int(self.rng.random() * len(works))])
        return True

    def step(self, work: Work) -> None:
        answer, work.answer, work.wait = work.answer, None, None
        try:
            request = work.generator.send(answer)
        except StopIteration:
            self.works.remove(work)
            self.end_if_done(work.process)
            return
        if type(request) is Wait:
            work.wait = request
            return
        work.answer = self.carry_out(request)
        if self.trace is not None:
            self.trace.append(
                f"{self.server.now_s:8.1f} {work.process.name} {said(request)} -> {shown(work.answer)}"
            )

    def carry_out(self, request: tuple[Any, ...]) -> Any:
        """A request and its answer, either of which may be lost; a lost request may also arrive later."""
        if not self.is_peace:
            chance = self.rng.random()
            if chance < 0.06:
                if chance < 0.02:
                    request[0](*request[1:])
                elif chance < 0.04:
                    self.ghosts.append(request)
                return LOST
        return request[0](*request[1:])

    def apply_ghosts(self) -> None:
        for request in self.ghosts:
            request[0](*request[1:])
        self.ghosts.clear()

    def deliver(self) -> bool:
        items = self.server.deliverable()
        takers = [process for process in self.processes if process.is_awake and not process.is_stopping]
        if not items or not takers:
            return False
        item = items[int(self.rng.random() * len(items))]
        process = takers[int(self.rng.random() * len(takers))]
        self.server.deliver(item)
        if self.trace is not None:
            self.trace.append(
                f"{self.server.now_s:8.1f} {process.name} gets {item.kind} {item.command_seq} #{item.delivered}"
            )
        handler = handle_cancel(process, item) if item.kind == "cancel" else process.handle(item)
        self.spawn(process, handler)
        return True

    def pass_time(self, *, to_next: bool = False) -> bool:
        next_s = self.next_time_s()
        if to_next:
            if next_s is None:
                return False
            self.server.now_s = max(self.server.now_s, next_s)
            return True
        jump_s = self.rng.choice((0.1, 3.0, 20.0))
        # A healthy keeper is not late: it is scheduled before its lease runs out.
        self.server.now_s += (
            jump_s if next_s is None else min(jump_s, max(0.0, next_s - self.server.now_s) + 0.01)
        )
        return True

    def next_time_s(self) -> float | None:
        """When something happens by itself."""
        now_s = self.server.now_s
        times = [item.due_s for item in self.server.items if not item.acked and item.due_s > now_s]
        for work in self.works:
            if work.wait is not None and not work.process.is_paused:
                times.append(work.wait.until_s)
        times.append(self.server.paused_until_s)
        for process in self.processes:
            times.append(process.connected_since_s)
            mine = process.running
            if mine is not None and mine.held and not mine.lost and not process.is_paused:
                times += [mine.renew_at_s, mine.deadline_s + 0.001]
        future = [time_s for time_s in times if now_s < time_s < float("inf")]
        return min(future, default=None)

    # --- faults

    def fault(self) -> None:
        rng, server = self.rng, self.server
        chance = rng.random()
        if chance < 0.15:
            self.crash()
        elif chance < 0.30:
            self.pause()
        elif chance < 0.50:
            self.unpause()
        elif chance < 0.65:
            self.cancel()
        elif chance < 0.72:
            self.shut_down()
        elif chance < 0.80:
            server.now_s += rng.choice((11.0, 25.0)) if self.is_nobody_awake() else 0.0
        elif chance < 0.86:
            rng.choice(self.processes).skew_s = rng.uniform(-SKEW_S, SKEW_S)
        elif chance < 0.90:
            self.restart_server()
        elif chance < 0.94:
            self.answer_or_guess()
        elif self.ghosts:
            self.ghosts.pop(int(rng.random() * len(self.ghosts)))  # Never arrives...
        if self.ghosts and rng.random() < 0.3:
            request = self.ghosts.pop(0)  # ...or late.
            request[0](*request[1:])

    def is_nobody_awake(self) -> bool:
        return all(process.is_paused for process in self.processes)

    def crash(self) -> None:
        process = self.rng.choice(self.processes)
        self.remove(process)
        self.start_process()

    def restart_server(self) -> None:
        """It is away for a while, longer than a lease perhaps; everybody comes back at a time of their own."""
        self.server.now_s += self.rng.choice((0.2, 5.0, 12.0))
        for process in self.processes:
            process.connected_since_s = self.server.now_s + self.rng.uniform(0.0, 2.0)

    def pause(self) -> None:
        self.rng.choice(self.processes).is_paused = True

    def unpause(self) -> None:
        for process in self.processes:
            if process.is_paused:
                process.is_paused = False
                if self.rng.random() < 0.5:
                    process.connected_since_s = self.server.now_s
                return

    def cancel(self) -> None:
        self.server.cancel()
        for process in self.processes:
            if process.running is not None and process.is_awake and self.rng.random() < 0.8:
                self.spawn(process, hear_cancel(process))

    def shut_down(self) -> None:
        process = self.rng.choice(self.processes)
        process.is_stopping = True
        if process.running is not None:
            process.ask_to_stop(process.running, HANDOVER)
        self.start_process()

    def end_if_done(self, process: Process) -> None:
        if process.is_stopping and sum(work.process is process for work in self.works) == 1:
            self.remove(process)

    def answer_or_guess(self) -> None:
        last = self.server.last
        if last is not None and last.type == events.INTERRUPTED:
            self.server.resume(last.interrupts[0])
        elif self.rng.random() < 0.3:
            self.server.resume("i-1")  # Somebody answers what nobody has asked yet.
        else:
            self.server.execute()


def vars_of(item: Any) -> dict[str, Any]:
    return {name: getattr(item, name) for name in item.__slots__}


def said(request: tuple[Any, ...]) -> str:
    return f"{request[0].__name__}{tuple(shown(value) for value in request[1:])}"


def shown(value: Any) -> Any:
    if value is LOST:
        return "LOST"
    return value.kind if hasattr(value, "wake_attempt") and hasattr(value, "acked") else value
