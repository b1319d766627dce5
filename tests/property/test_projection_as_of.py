"""Time travel equals a rebuild that stopped there: every table, at every sequence of a log that Hypothesis made.

Method: the whole log is folded into one file, each of its beginnings into another; then `<table>_as_of(seq)` of the
first is compared with the table of the second, row for row. Proves "`AS OF`" of DESIGN and PROTOCOL section 11.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cas_events.jetstream.messages import StoredMessage
from projections.fold import Fold
from tests.harness.folds import Folds
from tests.harness.patience import IS_TORTURE, count
from tests.property import projection_model as model
from tests.property.projection_model import Command, Fact
from tests.property.test_projection_fold import COMMANDS, FACTS

TABLES = (
    "cas_tasks", "cas_agents", "cas_agent_logs", "cas_agent_state", "cas_agent_events", "cas_commands",
    "cas_dead_letters", "cas_projection",
)  # fmt: skip


def folded(
    folds: Folds, name: str, commands: Sequence[StoredMessage], events: Sequence[StoredMessage]
) -> Fold:
    fold = folds.empty(name)
    fold.apply(list(commands), list(events))
    return fold


def rows(fold: Fold, source: str) -> list[tuple[Any, ...]]:
    reader = fold.reader()
    try:
        return reader.execute(f"FROM {source} ORDER BY ALL")
    finally:
        reader.close()


def differences(
    folds: Folds, commands: Sequence[StoredMessage], events: Sequence[StoredMessage], at: Sequence[int]
) -> list[str]:
    whole = folded(folds, "whole", commands, events)
    found = []
    for seq in at:
        moment = max((m.time_ns for m in events if m.seq == seq), default=0)
        then = folded(
            folds,
            "then",
            [m for m in commands if m.time_ns <= moment],
            [m for m in events if m.seq <= seq],
        )
        found += [
            f"{table} as of {seq}: {past} is not {wanted}"
            for table in TABLES
            if (past := rows(whole, f"{table}_as_of({seq})")) != (wanted := rows(then, table))
        ]
    return found


@settings(
    max_examples=count(6, 50),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(commands=COMMANDS, facts=FACTS, data=st.data())
def test_as_of_equals_a_rebuild_that_stopped_there(
    commands: list[Command], facts: list[Fact], data: st.DataObject, folds: Folds
) -> None:
    # A command is stored at the microsecond that its delayed sequence says, between the events.
    delay = data.draw(st.integers(0, 8))
    at = data.draw(st.lists(st.integers(0, len(facts)), min_size=1, max_size=4, unique=True))
    command_messages = [
        StoredMessage(m.stream, m.seq, m.subject, m.time_ns + delay * 1000, m.data)
        for m in (model.command_message(seq, c) for seq, c in enumerate(commands, 1))
    ]
    event_messages = [model.event_message(seq, f) for seq, f in enumerate(facts, 1)]
    assert differences(folds, command_messages, event_messages, at) == []


def agent_message(seq: int, type_: str, subject: str, version: int, data: dict[str, Any]) -> StoredMessage:
    body = {
        "specversion": "1.0", "id": f"a{seq}", "source": "cas/runner/r1", "type": type_, "subject": "analyst",
        "time": "2026-11-22T09:00:00.000001Z", "agentid": "analyst", "dataversion": version, "data": data,
    }  # fmt: skip
    time_ns = model.event_message(seq, Fact("cas.log", "a", "t", 1, 0, {})).time_ns
    return StoredMessage("CAS_EVENTS", seq, subject, time_ns, json.dumps(body).encode())


AGENT, STATE = "cas.evt.agent.analyst", "cas.evt.state.analyst"
OF_AGENTS: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
    ("cas.agent.breaker_opened", AGENT, 1, {}),
    ("cas.agent.registered", AGENT, 1, {"version": "1.2", "schema": {"type": "object"}}),
    ("cas.agent.paused", AGENT, 1, {}),
    ("cas.agent.breaker_half_opened", AGENT, 1, {}),
    ("cas.agent.breaker_closed", AGENT, 1, {}),
    ("cas.agent.unpaused", AGENT, 1, {}),
    ("cas.agent.registered", AGENT, 2, {"version": None}),
    ("cas.agent.deregistered", AGENT, 1, {}),
    (
        "cas.agent.command_ignored",
        AGENT,
        1,
        {"subject": "cas.cmd.resume.analyst.t4.i-1", "reason": "r", "raw": "/w=="},
    ),
    ("cas.agent.unheard_of", AGENT, 1, {}),
    ("cas.state.updated", STATE, 1, {"state": {"a": 1}, "revision": 1}),
    ("cas.state.updated", f"{STATE}.k", 1, {"state": {"b": 1}, "revision": 1}),
    ("cas.state.updated", STATE, 1, {"state": {"a": 3}, "revision": 3}),
    ("cas.state.updated", STATE, 1, {"state": {"a": 2}, "revision": 2}),
    ("cas.state.updated", f"{STATE}.k", 2, {"state": {"b": 9}, "revision": 9}),
    ("cas.state.updated", STATE, 1, {"state": {"a": 5}, "revision": "x"}),
    ("cas.state.reset", STATE, 1, {"state": None, "revision": 4}),
    ("cas.log", STATE, 1, {}),  # none of ours: it stands on the wrong subject
)


@pytest.mark.parametrize("order", [1, 7, 11, 13] if IS_TORTURE else [7])
def test_agents_states_and_dead_letters_as_of_every_event(folds: Folds, order: int) -> None:
    messages = len(OF_AGENTS) + 2
    picked = [(n * order) % messages for n in range(messages)]
    events = [_message(seq, n) for seq, n in enumerate(picked, 1)]
    commands = [
        StoredMessage("CAS_COMMANDS", seq, subject, events[at].time_ns, b"{}")
        for seq, (subject, at) in enumerate((("cas.cmd.execute.analyst.t1", 4), ("cas.cmd.what", 9)), 1)
    ]
    assert differences(folds, commands, events, range(messages + 1)) == []


def _message(seq: int, n: int) -> StoredMessage:
    if n < len(OF_AGENTS):
        type_, subject, version, data = OF_AGENTS[n]
        return agent_message(seq, type_, subject, version, data)
    fact = Fact("cas.task.rejected", "analyst", "t9", 1, 0, {"reason": "bad_body", "raw": "eA=="})
    message = model.event_message(seq, fact)
    if n == len(OF_AGENTS):
        return message
    return StoredMessage(message.stream, seq, message.subject, message.time_ns, b"\xff no event")


def test_time_is_the_last_event_stored_until_then(folds: Folds) -> None:
    fold = folded(folds, "whole", [], [_message(seq, n) for seq, n in ((1, 0), (2, 19), (3, 1))])
    second = model.stored_time(2).replace(tzinfo=None)
    for shift_us, seq in ((-5, 0), (-1, 1), (0, 2), (1, 3), (10**9, 3)):
        assert fold.reader().execute(
            "SELECT cas_seq_at(?)", (second + timedelta(microseconds=shift_us),)
        ) == [(seq,)]
    assert fold.reader().execute("SELECT cas_stored_at(2), cas_stored_at(0), cas_stored_at(99)") == [
        (second, None, model.stored_time(3).replace(tzinfo=None))
    ]
