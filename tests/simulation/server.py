"""A server in memory: one task's log and commands, a work queue with redelivery, a clock.

It does what JetStream does to the protocol, measured on the real one: an append expects the last sequence of the
lifecycle subject; a delivery that is not acknowledged within its time comes again; acknowledging, giving back and
renewing work from anybody who ever had the delivery (knowledge: an ack is not a fence, a stale renewal keeps a dead
successor's lease alive). What is stored stays stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cas_events.domain import events
from cas_events.domain.decide import Last

ACK_WAIT_S = 10.0


class Stored:
    """An event in the log."""

    __slots__ = (
        *("type", "attempt", "index", "source", "tries", "command_seq", "runner", "delay_s"),
        *("handover", "interrupts", "made_by", "seq", "stored_s", "is_lifecycle", "reason"),
    )

    def __init__(self, type_: str, attempt: int, index: int, source: str, **data: object) -> None:
        self.type, self.attempt, self.index, self.source = type_, attempt, index, source
        self.tries = data.get("tries", 0)
        self.command_seq = data.get("command_seq", 0)
        self.runner = data.get("runner", "")
        self.delay_s = data.get("delay_s", 0.0)
        self.handover = data.get("handover", False)
        self.interrupts = data.get("interrupts", ())
        self.reason = data.get("reason", "")
        self.made_by = data.get("made_by")  # the execution or handler whose bytes these are
        self.is_lifecycle = type_ in events.LIFECYCLE_TYPES
        self.seq, self.stored_s = 0, 0.0

    def __repr__(self) -> str:
        short = self.type.rpartition(".")[2]
        return f"{self.seq}:{short}({self.attempt}.{self.index} tries={self.tries} by={self.source} cmd={self.command_seq})"

    def as_last(self) -> Last:
        return Last(
            type=self.type,
            seq=self.seq,
            attempt=self.attempt,
            tries=self.tries,
            command_seq=self.command_seq,
            stored_s=self.stored_s,
            source=self.source,
            runner=self.runner,
            delay_s=self.delay_s,
            is_handover=self.handover,
            interrupts=self.interrupts,
        )


class Item:
    """A message of a work consumer.

    Attributes:
        kind: execute, resume, wake or cancel.
        due_s: when it may be delivered (again).
        delivered: how often it was.
    """

    __slots__ = (
        "acked",
        "command_seq",
        "delivered",
        "due_s",
        "interrupt",
        "kind",
        "stored_s",
        "wake_attempt",
    )

    def __init__(
        self, kind: str, command_seq: int, now_s: float, *, interrupt: str = "", attempt: int = 0
    ) -> None:
        self.kind, self.command_seq, self.interrupt, self.wake_attempt = kind, command_seq, interrupt, attempt
        self.stored_s = self.due_s = now_s
        self.delivered = 0
        self.acked = False


@dataclass(frozen=True, slots=True)
class Move:
    """A transition of the breaker, on the agent's own subject."""

    seq: int
    type: str
    stored_s: float
    probe_at_s: float
    logged: int  # how many of the task's events were stored before it


class Server:
    """The log, the commands and the queue of one task, and the breaker of its agent."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.log: list[Stored] = []
        self.last: Stored | None = None
        self.commands = 0
        self.execute_seq = 0
        self.cancel_seq = 0
        self.resumes: dict[str, int] = {}
        self.cancels_dropped = 0  # acknowledged while the task was going on
        self.items: list[Item] = []
        self.moves: list[Move] = []
        self.paused_until_s = 0.0
        self.on_stored: Callable[[Stored], None] = lambda _event: None

    # --- the log

    def append(self, event: Stored, expected_seq: int) -> int | None:
        """Store a lifecycle event if its subject's last sequence is the expected one; None: it is not."""
        if expected_seq != (self.last.seq if self.last else 0):
            return None
        return self.add(event)

    def add(self, event: Stored) -> int:
        """Store an event without a condition."""
        if event.seq:  # The same bytes, stored a second time: another event in the log.
            event = _copy(event)
        if event.is_lifecycle:
            self.last = event
        self.log.append(event)
        event.seq, event.stored_s = len(self.log), self.now_s
        self.on_stored(event)
        return event.seq

    def read_last(self) -> Stored | None:
        return self.last

    def first_after(self, seq: int) -> Stored | None:
        return next((event for event in self.log[seq:] if event.is_lifecycle), None)

    # --- the commands, each stored once

    def execute(self) -> int:
        if not self.execute_seq:
            self.execute_seq = self._command("execute")
        return self.execute_seq

    def cancel(self) -> int:
        if not self.cancel_seq:
            self.cancel_seq = self._command("cancel")
        return self.cancel_seq

    def resume(self, interrupt: str) -> int:
        if interrupt not in self.resumes:
            self.resumes[interrupt] = self._command("resume", interrupt)
        return self.resumes[interrupt]

    def _command(self, kind: str, interrupt: str = "") -> int:
        self.commands += 1
        self.items.append(Item(kind, self.commands, self.now_s, interrupt=interrupt))
        return self.commands

    def read_cancel(self) -> int:
        return self.cancel_seq

    def read_execute(self) -> int:
        return self.execute_seq

    def read_answer(self, interrupts: tuple[str, ...]) -> tuple[str, int] | None:
        """The first stored answer to one of some interrupts, and its command's sequence."""
        return next(((name, self.resumes[name]) for name in interrupts if name in self.resumes), None)

    def store_wake(self, attempt: int, delay_s: float) -> None:
        """A schedule: fires once, at its time."""
        item = Item("wake", self.execute_seq, self.now_s, attempt=attempt)
        item.due_s += delay_s
        self.items.append(item)

    # --- the agent's breaker

    def move_breaker(self, type_: str, probe_at_s: float, expected_seq: int | None) -> int | None:
        """Store a transition if the agent's last sequence is the expected one; None: it is not."""
        if expected_seq is not None and expected_seq != len(self.moves):
            return None
        self.moves.append(Move(len(self.moves) + 1, type_, self.now_s, probe_at_s, len(self.log)))
        return len(self.moves)

    def moves_after(self, seq: int) -> list[Move]:
        return self.moves[seq:]

    def pause(self, until_s: float) -> None:
        """Stop the deliveries of the agent's commands and wakes; cancels have a consumer of their own."""
        self.paused_until_s = until_s

    # --- the queue

    def deliverable(self) -> list[Item]:
        is_paused = self.now_s < self.paused_until_s
        return [
            item
            for item in self.items
            if not item.acked and item.due_s <= self.now_s and not (is_paused and item.kind != "cancel")
        ]

    def deliver(self, item: Item) -> None:
        item.delivered += 1
        item.due_s = self.now_s + ACK_WAIT_S

    def ack(self, item: Item) -> None:
        if item.kind == "cancel" and 0 < self.execute_seq < self.cancel_seq:
            is_over = self.last is not None and self.last.type in events.TERMINAL_TYPES
            self.cancels_dropped += not is_over
        item.acked = True

    def nak(self, item: Item, delay_s: float) -> None:
        item.due_s = self.now_s + delay_s

    def renew(self, item: Item) -> None:
        item.due_s = self.now_s + ACK_WAIT_S


def _copy(event: Stored) -> Stored:
    again = Stored.__new__(Stored)
    for name in Stored.__slots__:
        setattr(again, name, getattr(event, name))
    return again
