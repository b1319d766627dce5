"""The W3C trace context: what is valid is kept, everything else is ignored and never refuses a command."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_events.domain.trace_context import valid_traceparent
from cas_events.wire.commands import decode_execute
from cas_events.wire.envelope import EventEncoder, decode_event

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"
BAD = [
    "",
    "x",
    "00-zz-01",
    GOOD.upper(),
    GOOD + "\n",
    GOOD + "-",
    GOOD + "-more",
    f" {GOOD}",
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE}-{SPAN}-1",
    f"00-{TRACE[:-1]}٣-{SPAN}-01",
    f'00-{TRACE}-{SPAN}-01","type":"cas.task.completed',
    "01-" + GOOD[3:] + "-" + "a" * 1_000_000,
    1,
    [GOOD],
    {"traceparent": GOOD},
    True,
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
)


def test_valid_contexts_are_kept_and_those_of_later_versions_are_understood() -> None:
    assert valid_traceparent(GOOD) == GOOD
    assert valid_traceparent(GOOD[:-2] + "00") == GOOD[:-2] + "00"
    assert valid_traceparent(f"cc-{TRACE}-{SPAN}-ff-what-will-come") == f"00-{TRACE}-{SPAN}-03"


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: repr(bad)[:40])
def test_a_bad_context_is_ignored_and_the_command_is_read(bad: object) -> None:
    assert valid_traceparent(bad) is None
    execute = decode_execute(json.dumps({"input": {"a": 1}, "traceparent": bad}).encode())
    assert (execute.input, execute.traceparent) == ({"a": 1}, None)


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?") | json_values)
def test_whatever_a_command_carries_its_events_can_be_read(value: object) -> None:
    execute = decode_execute(json.dumps({"traceparent": value}).encode())
    encoder = EventEncoder(
        source="cas/runner/r",
        task_id="t",
        agent_id="a",
        attempt=1,
        correlation_id="t",
        traceparent=execute.traceparent,
    )
    event = decode_event(encoder.encode("cas.task.started", 0, 0, b"{}"), seq=1, stream="S")
    assert event.traceparent == execute.traceparent == valid_traceparent(value)
    assert (event.type, event.task_id, event.data) == ("cas.task.started", "t", {})


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: repr(bad)[:40])
def test_a_bad_context_in_an_event_of_others_is_ignored(bad: object) -> None:
    envelope = {
        "specversion": "1.0",
        "id": "t.1.0",
        "source": "x",
        "type": "cas.task.started",
        "time": "2026-11-22T09:00:00Z",
        "subject": "t",
        "attempt": 1,
        "traceparent": bad,
        "data": {},
    }
    assert decode_event(json.dumps(envelope).encode(), seq=1, stream="S").traceparent is None
