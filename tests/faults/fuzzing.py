"""What the fuzzer sends: raw commands and raw envelopes, and how Hypothesis makes them.

Most are nearly right (a valid body or envelope with a wrong value, or with a missing, doubled or replaced byte),
because bytes that are plainly nonsense end in the first line of any parser.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

AGENT = "mirror"
KINDS = ("execute", "execute", "execute", "log", "log", "odd-id", "resume", "cancel", "cancelled", "due")


@dataclass(frozen=True)
class Case:
    """One thing to send.

    Attributes:
        kind: ``execute``; ``log`` (an envelope on the lifecycle subject, and then an execute); ``odd-id`` (an execute
            whose id is no token); ``resume``; ``cancel``; ``cancelled`` (a cancel and then its execute); ``due`` (on
            the subject of a fired schedule).
        body: the raw bytes.
        tail: the last token of the subject, where a kind has one of its own.
    """

    kind: str
    body: bytes
    tail: str


SHA = "0" * 64
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 1.5, -0.0, 2**31, 2**53 + 1, 2**63, 2**64, -(2**70), 10**400,
    1e300, -1e300, 1e-300, float("nan"), float("inf"), float("-inf"),
    "", "a", "a.b", "a b", "*", "\x00", "\ud800", "\u2028", "ä" * 30, "x" * 65, "1", "NaN", "cas.task.completed",
    "2026-11-22T09:00:00Z", "2026-11-22", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2300-01-01T00:00:00Z",
    [], {}, [[]], [{}], {"": None}, {"a": {"b": [1, None]}}, {"\x00": "\ud800"}, [{"id": 1}], [{"id": "a-1"}], ["a"] * 50,
    {"$ref": SHA, "bytes": 5, "sha256": SHA}, {"$ref": SHA, "bytes": -1, "sha256": SHA},
    {"$ref": 1, "bytes": 1, "sha256": 1}, {"$ref": "x"}, {"type": "handover"}, {"base_s": 1e-9, "cap_s": 0}, {"factor": 1000},
]  # fmt: skip
COMMANDS: list[dict[str, Any]] = [
    {},
    {"input": {"n": 1}},
    {"input": {"text": "ä\u2028"}, "metadata": {"by": "fuzz"}, "timeout_s": 5, "max_attempts": 2},
    {
        "input": {},
        "idle_timeout_s": 9.5,
        "queue_timeout_s": 1e6,
        "retry": {"base_s": 0.1, "cap_s": 1, "factor": 2},
    },
    {"parent_id": "p1", "correlation_id": "c-1", "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"},
    {"not_before": "2026-11-22T09:00:00Z", "reason": "because", "requested_by": "me", "value": {"yes": True}},
    {"not_before": "2300-01-01T00:00:00Z", "metadata": {}},
]
COMMAND_FIELDS = sorted({name for command in COMMANDS for name in command} | {"unknown", ""})
ENVELOPE = {
    "specversion": "1.0", "id": "t.1.0", "source": "cas/runner/nobody", "type": "", "subject": "t", "agentid": AGENT,
    "time": "2026-11-22T09:00:00.123456Z", "attempt": 1, "index": 0, "dataversion": 1,
    "data": {"tries": 1, "command_seq": 1, "runner": "nobody", "delay_s": 1.0, "error": {"type": "x"}, "interrupts": []},
}  # fmt: skip
TYPES = [
    "cas.task.started", "cas.task.retrying", "cas.task.interrupted", "cas.task.resumed", "cas.task.completed",
    "cas.task.unheard-of", "cas.progress", "cas.log",
]  # fmt: skip
ENVELOPE_FIELDS = [*ENVELOPE, *(f"data.{name}" for name in ENVELOPE["data"])]  # type: ignore[union-attr]

TAILS = ["0", "1", "-1", "a", "18446744073709551616", "ä", "a/b", "x" * 65, "€" * 9, "%2e", "~"]
PIECES = [b"", b"\xff", b"\x00", b'"', b"{", b"}", b"1e999", b"["]
DEPTHS = [1, 100, 127, 128, 129, 2_000]

# A case is derived from one draw of bytes and one odd value: each further draw costs as much as running the case.
CHOICES = 12
drawn_values = st.floats() | st.integers() | st.text(max_size=5) | st.binary(max_size=20)


def edited(whole: dict[str, Any], changes: list[tuple[str, Any]]) -> bytes:
    """JSON as sloppy writers make it: with NaN, infinities and lone surrogates."""
    whole = {**whole, "data": dict(whole["data"])} if "data" in whole else dict(whole)
    for field, value in changes:
        holder, _, name = field.rpartition(".")
        place = whole.get(holder) if holder else whole
        if isinstance(place, dict):
            place[name] = value
    return json.dumps(whole).encode()


def case_from(choices: bytes, drawn: Any) -> Case:
    """The case that the drawn bytes choose."""
    kind_no, way, base, edits, field_1, field_2, odd_1, odd_2, tail_no, start, length, piece = choices
    kind, tail = KINDS[kind_no % len(KINDS)], TAILS[tail_no % len(TAILS)]
    if way < 16:
        return Case(kind, drawn if isinstance(drawn, bytes) else json.dumps(drawn).encode(), tail)
    if way < 20:
        return Case(
            kind, b'{"input":' + b'{"a":' * (depth := DEPTHS[base % 6]) + b"1" + b"}" * (depth + 1), tail
        )
    whole, fields = COMMANDS[base % len(COMMANDS)], COMMAND_FIELDS
    if kind == "log":
        whole, fields = {**ENVELOPE, "type": TYPES[base % len(TYPES)]}, ENVELOPE_FIELDS
    value = drawn.hex() if isinstance(drawn, bytes) else drawn
    changes = [
        (fields[field_1 % len(fields)], value if odd_1 >= len(ODD) else ODD[odd_1]),
        (fields[field_2 % len(fields)], ODD[odd_2 % len(ODD)]),
    ]
    data = edited(whole, changes[: edits % 3])
    if way < 100:
        start = start * len(data) // 255
        data = data[:start] + PIECES[piece % len(PIECES)] + data[start + length % 5 :]
    return Case(kind, data, tail)


def make_cases(number: int, from_seed: int) -> list[Case]:
    """So many cases, the same ones for the same seed."""
    found: list[Case] = []

    @seed(from_seed)
    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(min_size=CHOICES, max_size=CHOICES), drawn_values)
    def collect(choices: bytes, drawn: Any) -> None:
        found.append(case_from(choices, drawn))

    collect()
    return found
