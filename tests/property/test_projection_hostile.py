"""Hostile bytes: every message ends in its table or in `cas_dead_letters`, exactly once, whatever is in it.

Method: batches of good events with anything in between, in random cuts; what is in the tables is compared with the
sequences that went in. Proves promise 9 for the projector.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cas_events.jetstream.messages import StoredMessage
from projections.fold import Fold
from tests.harness.folds import Folds
from tests.harness.patience import count
from tests.property.projection_model import Fact, event_message

SUBJECT = "cas.evt.log.analyst.t1"
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(2**70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
ENVELOPE: dict[str, Any] = {
    "specversion": "1.0", "id": "t1.1.5", "source": "cas/runner/r", "type": "cas.log", "subject": "t1",
    "time": "2026-11-22T09:00:00.123456Z", "agentid": "analyst", "attempt": 1, "index": 5,
    "correlationid": "t1", "parentid": "t0", "dataversion": 1, "data": {"level": "info", "message": "m"},
}  # fmt: skip


@st.composite
def bent_envelopes(draw: st.DrawFn) -> bytes:
    """An envelope with some members replaced or missing."""
    body = dict(ENVELOPE)
    for name in draw(st.lists(st.sampled_from(sorted(body)), min_size=1, max_size=3)):
        if draw(st.booleans()):
            body.pop(name, None)
        else:
            body[name] = draw(JSON_VALUES)
    return json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


SUBJECTS = st.sampled_from((
    SUBJECT, SUBJECT, "cas.evt.task.analyst.t1", "cas.evt.agent.analyst", "cas.evt.state.analyst.k", "cas.evt.audit.head",
    "cas.evt.log.analyst.t2", "cas.evt.log.other.t1", "cas.evt.log.analyst", "cas.evt.x.y.z", "cas.evt.log.a\ud800.t1",
    "cas.evt.log.é.t1", f"cas.evt.log.{'a' * 65}.t1", "cas.evt.state.analyst.k.more", "",
))  # fmt: skip
PAYLOADS = st.one_of(
    st.binary(max_size=60), bent_envelopes(), JSON_VALUES.map(lambda v: json.dumps(v).encode())
)


def _envelope(**changes: Any) -> bytes:
    return json.dumps(ENVELOPE | changes).encode()


KNOWN_BAD: dict[str, bytes] = {
    "empty": b"",
    "array": b"[1]",
    "nan": _envelope(data={"x": float("nan")}),
    "trailing comma": _envelope()[:-1] + b",}",
    "deep": _envelope().replace(b'{"level"', b'{"x":' + b"[" * 10_000 + b"]" * 10_000 + b',"level"'),
    "half deep": _envelope().replace(b'{"level"', b'{"x":' + b"[" * 600 + b"]" * 600 + b',"level"'),
    "lone surrogate": _envelope().replace(b'"m"', b'"\\ud800"'),
    "raw surrogate": _envelope().replace(b'"m"', b'"\xed\xa0\x80"'),
    "latin-1": _envelope().replace(b'"m"', b'"\xe9"'),
    "raw NUL": _envelope().replace(b'"m"', b'"\x00"'),
    "attempt 2^70": _envelope(attempt=2**70),
    "attempt -1": _envelope(attempt=-1),
    "attempt 1.5": _envelope(attempt=1.5),
    "attempt text": _envelope(attempt="1"),
    "index true": _envelope(index=True),
    "time": _envelope(time="yesterday"),
    "time without offset": _envelope(time="2026-11-22T09:00:00"),
    "time 13th month": _envelope(time="2026-13-22T09:00:00.000000Z"),
    "time infinity": _envelope(time="infinity"),
    "other agent": _envelope(agentid="tester"),
    "other task": _envelope(subject="t2"),
    "other class": _envelope(type="cas.task.completed"),
    "specversion": _envelope(specversion="2.0"),
    "data text": _envelope(data="x"),
    "garbage": bytes(range(256)) * 4096,
    "byte order mark": b"\xef\xbb\xbf" + _envelope(),
}
KNOWN_GOOD: dict[str, bytes] = {
    "NUL escape": _envelope().replace(b'"m"', b'"\\u0000"'),
    "1e999": _envelope().replace(b'"m"', b"1e999"),
    "huge integer": _envelope().replace(b'"m"', b"9" * 400),
    "duplicate key in data": _envelope().replace(b'"level"', b'"level":1,"level"'),
    "member twice, the first counts": _envelope()[:-1] + b',"attempt":"x"}',
    "escaped token": _envelope().replace(b'"t1","time"', b'"\\u00741","time"'),
    "offset": _envelope(time="2026-11-22T10:00:00.123456+01:00"),
    "nanoseconds": _envelope(time="2026-11-22T09:00:00.123456789Z"),
    "unknown type": _envelope(type="com.example.thing"),
    "newer version": _envelope(dataversion=7),
    "unknown member": _envelope(surprise=[1, {"x": None}]),
    "no parent": _envelope(parentid=None),
    "deep enough": _envelope().replace(b'{"level"', b'{"x":' + b"[" * 400 + b"]" * 400 + b',"level"'),
}


def _message(seq: int, payload: bytes, subject: str = SUBJECT) -> StoredMessage:
    return StoredMessage("CAS_EVENTS", seq, subject, seq * 1000, payload)


def _sequences(fold: Fold) -> tuple[list[int], list[int]]:
    reader = fold.reader()
    events = [row[0] for row in reader.execute("SELECT seq FROM cas_agent_events ORDER BY seq")]
    letters = [
        row[0]
        for row in reader.execute(
            "SELECT seq FROM cas_dead_letters WHERE reason = 'undecodable' ORDER BY seq"
        )
    ]
    reader.close()
    return events, letters


def _neighbour(seq: int) -> StoredMessage:
    return event_message(seq, Fact("cas.log", "analyst", "n1", 1, seq, {"level": "info", "message": "n"}))


@pytest.mark.parametrize("name", KNOWN_BAD)
def test_undecodable_event_becomes_dead_letter_and_neighbours_stay(folds: Folds, name: str) -> None:
    fold = folds.empty()
    fold.apply([], [_neighbour(1), _message(2, KNOWN_BAD[name]), _neighbour(3)])
    assert _sequences(fold) == ([1, 3], [2])
    reader = fold.reader()
    [row] = reader.execute("SELECT stream, subject, task_id, agent_id, raw, detail FROM cas_dead_letters")
    assert row[:5] == ("CAS_EVENTS", SUBJECT, "t1", "analyst", KNOWN_BAD[name])
    assert row[5]
    reader.close()


@pytest.mark.parametrize("name", KNOWN_GOOD)
def test_unusual_event_is_kept(folds: Folds, name: str) -> None:
    fold = folds.empty()
    fold.apply([], [_neighbour(1), _message(2, KNOWN_GOOD[name]), _neighbour(3)])
    assert _sequences(fold) == ([1, 2, 3], [])
    reader = fold.reader()
    [(task, time, data)] = reader.execute("SELECT task_id, time, data FROM cas_agent_events WHERE seq = 2")
    assert (task, time.isoformat()) == ("t1", "2026-11-22T09:00:00.123456")
    assert data.startswith("{")
    reader.close()


@settings(
    max_examples=count(20, 100),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    hostile=st.lists(st.tuples(SUBJECTS, PAYLOADS) | st.just(None), min_size=1, max_size=20),
    cut=st.integers(0, 20),
)
def test_every_event_ends_in_exactly_one_place(
    hostile: list[tuple[str, bytes] | None], cut: int, folds: Folds
) -> None:
    # Keys that differ, because a repeated key is stored once: index 5 is the hostile ones' own.
    messages = [
        _neighbour(seq) if item is None else _message(seq, item[1], item[0])
        for seq, item in enumerate(hostile, 1)
    ]
    fold = folds.empty()
    fold.apply([], messages[:cut])
    fold.apply([], messages[cut:])
    events, letters = _sequences(fold)
    assert fold.positions.events == len(messages)
    assert not set(events) & set(letters)
    assert len(set(events)) == len(events)
    assert len(set(letters)) == len(letters)
    missing = set(range(1, len(messages) + 1)) - set(events) - set(letters)
    reader = fold.reader()
    for seq in missing:  # Only a repeated key may be missing, and then its first occurrence is there.
        body = json.loads(messages[seq - 1].data)
        agent, task = messages[seq - 1].subject.split(".")[3:5]
        rows = reader.execute(
            'SELECT min(seq) FROM cas_agent_events WHERE agent_id = ? AND task_id = ? AND attempt = ? AND "index" = ?',
            (agent, task, body["attempt"], body["index"]),
        )
        assert rows[0][0] < seq
    reader.close()
    assert {seq for seq, item in enumerate(hostile, 1) if item is None} <= set(events)


@pytest.mark.parametrize(
    ("subject", "payload", "kept"),
    [
        ("cas.cmd.execute.analyst.t1", b"not json", True),
        ("cas.cmd.execute.analyst.t1", b'{"input":NaN}', True),
        ("cas.cmd.execute.analyst.t1", b'{"input":5,"metadata":"x","parent_id":[]}', True),
        ("cas.cmd.cancel.t1", b"\xff", True),
        ("cas.cmd.resume.analyst.t1.i-1", b"", True),
        ("cas.cmd.resume.analyst.t1", b"{}", False),
        ("cas.cmd.execute.\xe9.t1", b"{}", False),
        ("cas.cmd.execute.analyst.t1.more", b"{}", False),
        ("cas.cmd.else.analyst.t1", b"{}", False),
        (f"cas.cmd.cancel.{'x' * 65}", b"{}", False),
    ],
)
def test_command_is_what_its_subject_says(folds: Folds, subject: str, payload: bytes, kept: bool) -> None:
    fold = folds.empty()
    good = StoredMessage("CAS_COMMANDS", 1, "cas.cmd.execute.analyst.t0", 0, b"{}")
    fold.apply([good, StoredMessage("CAS_COMMANDS", 2, subject, 0, payload)], [])
    reader = fold.reader()
    commands = [row[0] for row in reader.execute("SELECT seq FROM cas_commands ORDER BY seq")]
    letters = [row[:2] for row in reader.execute("SELECT seq, raw FROM cas_dead_letters")]
    assert (commands, letters) == (([1, 2], []) if kept else ([1], [(2, payload)]))
    reader.close()
