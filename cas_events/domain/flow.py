"""Flow control as pure rules: who may start now, and who is next when there is room.

Tasks that compete stand before a **lane**: one for each key of an agent (a customer, for example), which has so many
slots, and one for an agent's rate, which gives out start times. Who finds no room waits, in one of three classes;
whoever makes room admits the next: out of seven admissions four go to ``high``, two to ``normal`` and one to ``low``,
within a class in the order of arrival, and what a class does not use is the next higher one's. So no class starves.

A lane is a value that is replaced under the condition that it is what was read; nothing here reads, writes or knows a
clock.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

import msgspec

from cas_events.domain import events
from cas_events.domain.commands import Execute
from cas_events.domain.decide import NAK_DELAY_MAX_S, Last

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
DEFAULT_PRIORITY: Priority = "normal"
_CYCLE: tuple[Priority, ...] = ("high", "normal", "high", "low", "high", "normal", "high")

SLOTS_MAX = 1_000
RATE_MAX_PER_S = 10_000.0
RATE_MIN_PER_S = 1 / 86_400
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_RATE = re.compile(r"(\d+(?:\.\d+)?)/(s|m|h|d)")
# Start times are given out so far ahead: far enough for a schedule, near enough for a later task of a higher class.
HORIZON_MIN_S = 1.0
_NS = 1_000_000_000


class Slot(msgspec.Struct, frozen=True, array_like=True):
    """A task that has a place in a lane.

    Attributes:
        task: its id.
        after: the attempt that had ended when it was admitted; 0 for a first start.
    """

    task: str
    after: int = 0


class Lane(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the log holds of a lane.

    Attributes:
        held: who has a slot.
        free_at_ns: of a rate, the next start time that nobody has; nanoseconds since the epoch.
        turn: admissions out of the waiting ones so far.
    """

    held: tuple[Slot, ...] = ()
    free_at_ns: int = 0
    turn: int = 0

    def slot_of(self, task: str) -> Slot | None:
        """The task's slot, if it has one."""
        return next((slot for slot in self.held if slot.task == task), None)

    def with_slot(self, task: str, *, after: int) -> Lane:
        """The lane with a slot for the task, once."""
        others = tuple(slot for slot in self.held if slot.task != task)
        return msgspec.structs.replace(self, held=(*others, Slot(task, after)))

    def without(self, *tasks: str) -> Lane:
        """The lane without these tasks."""
        return msgspec.structs.replace(self, held=tuple(slot for slot in self.held if slot.task not in tasks))

    def next_turn(self) -> Lane:
        """The lane after an admission out of the waiting ones."""
        return msgspec.structs.replace(self, turn=self.turn + 1)

    def reserve(self, rate_per_s: float, *, now_ns: int) -> tuple[Lane, int] | None:
        """The lane after one start, and when that is; None while all times within the horizon are given out."""
        if self.free_at_ns - now_ns > horizon_s(rate_per_s) * _NS:
            return None
        start_ns = max(self.free_at_ns, now_ns)
        return msgspec.structs.replace(self, free_at_ns=start_ns + int(_NS / rate_per_s)), start_ns


def horizon_s(rate_per_s: float) -> float:
    """How far ahead start times are given out, in seconds."""
    return max(HORIZON_MIN_S, 1 / rate_per_s)


def next_class(turn: int, waiting: Collection[Priority]) -> Priority:
    """The class whose turn it is, out of those in which somebody waits."""
    wanted = _CYCLE[turn % len(_CYCLE)]
    return wanted if wanted in waiting else next(name for name in PRIORITIES if name in waiting)


def holds_on(slot: Slot, last: Last | None) -> bool:
    """Whether a task still needs its slot, by its last lifecycle event.

    It does from its admission to its end, or until it waits without a place: for an answer, or for a retry that is
    far away. Then it asks anew.
    """
    if last is None or last.is_foreign:
        return True
    if last.is_terminal:
        return False
    waits = last.type == events.INTERRUPTED or (
        last.type == events.RETRYING and last.delay_s > NAK_DELAY_MAX_S
    )
    return not waits or last.attempt <= slot.after


def key_of(execute: Execute, key_field: str | None) -> str | None:
    """The key under which a task competes: its own word, or else that field of its input; None for none."""
    if execute.key is not None or key_field is None:
        return execute.key
    value: Any = execute.input.get(key_field)
    is_name = isinstance(value, (str, int)) and not isinstance(value, bool)
    return str(value) or None if is_name else None


def rate_per_s(text: str) -> float:
    """Read ``10/s``, ``100/m``, ``5000/h`` or ``2/d``: starts per second.

    Raises:
        ValueError: it is none of these, or beyond the bounds.
    """
    found = _RATE.fullmatch(text) if isinstance(text, str) else None
    per_s = float(found[1]) / _UNITS_S[found[2]] if found else 0.0
    if not RATE_MIN_PER_S <= per_s <= RATE_MAX_PER_S:
        raise ValueError("a rate such as '10/s', '100/m', '5000/h' or '2/d', from 1/d to 10000/s")
    return per_s


def limits_fault(options: Mapping[str, Any]) -> str | None:
    """Which of an agent's options of flow control is out of range, and why; None if all are in range."""
    for name, most in (("concurrency_per_key", SLOTS_MAX), ("max_queued", 1_000_000_000)):
        value = options[name]
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most
        ):
            return f"{name} is {value!r}; it must be a whole number from 1 to {most:,}"
    if options["rate"] is not None:
        try:
            rate_per_s(options["rate"])
        except ValueError as allowed:
            return f"rate is {options['rate']!r}; it must be {allowed}"
    if options["key"] is not None and not (isinstance(options["key"], str) and options["key"]):
        return f"key is {options['key']!r}; it must be the name of a field of the input"
    if options["key"] is not None and options["concurrency_per_key"] is None:
        return "key names a field, and there is no concurrency_per_key that it could be for"
    return None
