"""Bytes to values and back, by Hypothesis: encode then decode is the identity, and no bytes crash a reader."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_events.domain import events
from cas_events.domain.limits import LOG_LINE_BYTES, TokenBucket, cut_utf8
from cas_events.domain.retry import RetryPolicy, backoff_s
from cas_events.errors import InvalidCommandError, WireError
from cas_events.wire.claims import encode_members, is_claim
from cas_events.wire.commands import decode_cancel, decode_execute
from cas_events.wire.envelope import EventEncoder, decode_event, format_time
from cas_events.wire.jsonvalue import decode_json, encode_json, encode_lossy
from cas_events.wire.subjects import Names

tokens = st.text("abcXYZ019_-", min_size=1, max_size=64)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
NAMES = Names("cas")


@given(json_values)
def test_json_values_survive(value) -> None:
    assert decode_json(encode_json(value, path="value")) == value


@given(st.dictionaries(tokens, json_values, max_size=5), st.integers(1, 200))
def test_members_are_themselves_or_claim_checks(members: dict, limit_bytes: int) -> None:
    data, blobs = encode_members(members, limit_bytes=limit_bytes)

    decoded = json.loads(data)
    assert decoded.keys() == members.keys()
    claimed = [name for name in members if len(encode_json(members[name], path=name)) > limit_bytes]
    assert len(blobs) == len(claimed)
    for name in members:
        assert is_claim(decoded[name]) if name in claimed else decoded[name] == members[name]


@given(st.binary())
def test_no_bytes_crash_the_readers(data: bytes) -> None:
    decode_cancel(data)
    for read in (decode_execute, decode_json, lambda raw: decode_event(raw, seq=1, stream="S")):
        try:
            read(data)
        except (InvalidCommandError, WireError):
            continue


@given(
    st.dictionaries(
        st.sampled_from(["input", "timeout_s", "max_attempts", "parent_id", "metadata"]), json_values
    )
)
def test_no_json_crashes_the_command_reader(body: dict) -> None:
    try:
        execute = decode_execute(json.dumps(body).encode())
    except InvalidCommandError as error:
        assert error.reason in {"bad_body", "bad_claim_check"}
    else:
        assert isinstance(execute.input, dict)


@given(
    task=tokens,
    agent=tokens,
    attempt=st.integers(1, 10**6),
    index=st.integers(0, 10**9),
    time_ns=st.integers(0, 4 * 10**18),
    data=st.dictionaries(st.text(), json_values, max_size=4),
)
def test_an_event_survives_the_wire(
    task: str, agent: str, attempt: int, index: int, time_ns: int, data: dict
) -> None:
    encoder = EventEncoder(
        source="cas/runner/r1",
        task_id=task,
        agent_id=agent,
        attempt=attempt,
        correlation_id=task,
        causation_id="CAS_COMMANDS:7",
    )
    payload = encoder.encode(events.COMPLETED, index, time_ns, encode_json(data, path="data"))

    event = decode_event(payload, seq=9, stream="CAS_EVENTS")

    assert (event.task_id, event.agent_id, event.attempt, event.index) == (task, agent, attempt, index)
    assert event.id == encoder.event_id(index) == f"{task}.{attempt}.{index}"
    assert event.data == data
    assert event.time == datetime.fromtimestamp(time_ns // 10**9, UTC).replace(
        microsecond=time_ns // 1000 % 10**6
    )
    assert json.loads(payload)["time"] == format_time(time_ns)


@given(agent=tokens, task=tokens, interrupt=tokens, n=st.integers(0, 10**6))
def test_subjects_are_read_as_they_were_built(agent: str, task: str, interrupt: str, n: int) -> None:
    execute = NAMES.parse_command(NAMES.execute(agent, task))
    cancel = NAMES.parse_command(NAMES.cancel(task))
    resume = NAMES.parse_command(NAMES.resume(agent, task, interrupt))

    assert execute and (execute.kind, execute.agent, execute.task) == ("execute", agent, task)
    assert cancel and (cancel.kind, cancel.task) == ("cancel", task)
    assert resume and (resume.kind, resume.interrupt) == ("resume", interrupt)
    assert NAMES.parse_due(NAMES.due(agent, task, n)) == (agent, task, n)
    live = NAMES.parse_task_event(NAMES.live(NAMES.event("log", agent, task)))
    assert live and (live.class_, live.agent, live.task) == ("log", agent, task)


@given(st.text(max_size=40))
def test_no_subject_crashes_the_parsers(subject: str) -> None:
    NAMES.parse_command(subject)
    NAMES.parse_due(subject)
    NAMES.parse_task_event(subject)


@given(st.text(max_size=300), st.integers(0, 200))
def test_a_cut_text_fits_and_is_a_prefix(text: str, limit_bytes: int) -> None:
    cut, is_cut = cut_utf8(text, limit_bytes)

    assert len(cut.encode()) <= limit_bytes
    assert is_cut or cut == text.encode("utf-8", "replace").decode()
    assert LOG_LINE_BYTES == 64 * 1024


@given(
    st.recursive(
        st.builds(object) | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_lossy_encoding_never_fails(value) -> None:
    json.loads(encode_lossy(value))


@given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
def test_backoff_stays_within_its_bounds(tries: int, draw: float) -> None:
    policy = RetryPolicy(base_s=0.5, cap_s=60.0)

    assert 0 <= backoff_s(policy, tries=tries, draw=draw) <= min(60.0, 0.5 * 2 ** min(tries - 1, 64))


@given(st.lists(st.tuples(st.floats(0, 0.1), st.floats(0.5, 3)), max_size=200))
def test_a_bucket_never_gives_more_than_its_rate_and_burst(takes: list[tuple[float, float]]) -> None:
    bucket = TokenBucket.full(per_s=10, burst=5, now_s=0.0)
    now_s, given_out = 0.0, 0.0
    for pause_s, cost in takes:
        now_s += pause_s
        if bucket.take(cost, now_s=now_s):
            given_out += cost

    assert given_out <= 5 + 10 * now_s + 1e-6


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-11-22"])
def test_an_event_outside_of_the_calendar_is_none_of_ours(time: str) -> None:
    """Found by 100,000 cases of fuzzing: the offset leads out of the years 1 to 9999."""
    envelope = {"specversion": "1.0", "id": "t.1.0", "source": "s", "type": "cas.task.started", "data": {}}
    with pytest.raises(WireError, match="S 7"):
        decode_event(json.dumps({**envelope, "time": time}).encode(), seq=7, stream="S")
