"""The plain fold of `cas verify` says of any log what the SQL one made of it, hostile bytes included.

Method: the same messages go through `projections.fold` into a file and through `projections.verify.plain_fold`; all
seven tables are compared with the comparison of `cas verify` itself. Proves that its differences are real ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.subjects import Names
from projections.verify import compare
from projections.verify.check import agent_row
from projections.verify.plain_fold import PlainFold
from tests.harness.folds import Folds
from tests.harness.patience import count
from tests.property import projection_model as model
from tests.property.projection_model import Command, Fact
from tests.property.test_projection_as_of import OF_AGENTS, agent_message
from tests.property.test_projection_fold import COMMANDS, FACTS
from tests.property.test_projection_hostile import KNOWN_BAD, KNOWN_GOOD, PAYLOADS, SUBJECT, SUBJECTS

QUIET = settings(
    max_examples=count(8, 60),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def found_differences(
    folds: Folds, commands: Sequence[StoredMessage], events: Sequence[StoredMessage]
) -> list[compare.Difference]:
    fold = folds.empty()
    plain = PlainFold(Names("cas"))
    expected: dict[str, list[tuple[object, ...]]] = {name: [] for name in compare.BY_NAME}
    fold.apply(list(commands), list(events))
    for message in commands:
        table, row = plain.command(message)
        expected[table].append(row)
    for message in events:
        for table, row in plain.event(message):
            expected[table].append(row)
    expected["cas_tasks"] = [row for task in plain.tasks if (row := plain.tasks[task].row(task))]
    expected["cas_agents"] = [agent_row(name, agent) for name, agent in plain.agents.items()]
    expected["cas_agent_state"] = list(plain.states.values())
    reader = fold.reader()
    found = [
        difference
        for name, table in compare.BY_NAME.items()
        if name != "cas_dead_letters"
        for difference in compare.differences(table, expected[name], reader.execute(table.select))
    ]
    letters = compare.BY_NAME["cas_dead_letters"]
    for stream in ("CAS_COMMANDS", "CAS_EVENTS"):
        rows = reader.execute(f"{letters.select} WHERE stream = ? ORDER BY seq", (stream,))
        mine = [row for row in expected["cas_dead_letters"] if row[1] == stream]
        found += compare.differences(letters, mine, rows)
    reader.close()
    return found


@pytest.mark.timeout(300)
@QUIET
@given(commands=COMMANDS, facts=FACTS)
def test_plain_fold_of_tasks_equals_the_projection(
    commands: list[Command], facts: list[Fact], folds: Folds
) -> None:
    command_messages = [model.command_message(seq, c) for seq, c in enumerate(commands, 1)]
    event_messages = [model.event_message(seq, f) for seq, f in enumerate(facts, 1)]
    assert found_differences(folds, command_messages, event_messages) == []


@pytest.mark.timeout(300)
@QUIET
@given(hostile=st.lists(st.tuples(SUBJECTS, PAYLOADS), min_size=1, max_size=20))
def test_plain_fold_of_hostile_bytes_equals_the_projection(
    hostile: list[tuple[str, bytes]], folds: Folds
) -> None:
    events = [
        StoredMessage("CAS_EVENTS", seq, *_on(subject, seq), data)
        for seq, (subject, data) in enumerate(hostile, 1)
    ]
    assert found_differences(folds, [], events) == []


def _on(subject: str, seq: int) -> tuple[str, int]:
    return subject, seq * 1_000_000


def test_plain_fold_of_known_oddities_equals_the_projection(folds: Folds) -> None:
    odd = [*KNOWN_BAD.values(), *KNOWN_GOOD.values()]
    events = [StoredMessage("CAS_EVENTS", seq, SUBJECT, seq, data) for seq, data in enumerate(odd, 1)]
    for event in events:  # One after the other, because most have the same key.
        alone = StoredMessage("CAS_EVENTS", 1, event.subject, event.time_ns, event.data)
        assert found_differences(folds, [], [alone]) == []
    of_agents = [
        agent_message(seq, type_, subject, version, data)
        for seq, (type_, subject, version, data) in enumerate(OF_AGENTS, 1)
    ]
    commands = [
        StoredMessage("CAS_COMMANDS", seq, subject, seq, body)
        for seq, (subject, body) in enumerate(
            (
                ("cas.cmd.execute.analyst.t1", b'{"input":1e3,"parent_id":"p","correlation_id":5}'),
                ("cas.cmd.execute.analyst.t2", b"not json"),
                ("cas.cmd.cancel.t1", b"\xff"),
                ("cas.cmd.resume.analyst.t1.i-1", b"[]"),
                ("cas.cmd.resume.analyst.t1", b"{}"),
                ("cas.cmd.else.analyst.t1", b"{}"),
                (f"cas.cmd.cancel.{'x' * 65}", b"{}"),
            ),
            1,
        )
    ]
    assert found_differences(folds, commands, of_agents) == []
