"""The tables are a function of the log: any cut, any interleaving, restarts in between, against a plain fold.

Method: Hypothesis makes logs, tidy ones as runners write them and wild ones in which any event may come at any time
twice, and a schedule that cuts and interleaves the two streams. A real DuckDB file is compared row for row with
`projection_model`. Proves promise 7.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from projections.fold import Fold
from tests.harness.folds import Folds
from tests.harness.patience import count
from tests.property import projection_model as model
from tests.property.projection_model import Command, Fact

AGENTS = ("analyst", "tester")
TASKS = ("t1", "t2", "t3")
JSON_COLUMNS = {"input", "output", "error", "metadata", "data"}
DATA: dict[str, Sequence[dict[str, Any]]] = {
    "cas.task.started": ({"input": {"q": 1}}, {"input": {"q": 2}}, {"input": None}, {}),
    "cas.task.resumed": ({"interrupt_id": "i-1", "value": 5},),
    "cas.task.retrying": ({"error": {"type": "E", "message": "m"}}, {"error": None}),
    "cas.task.interrupted": ({"interrupts": []}, {"error": {"type": "bad_answer"}}),
    "cas.task.completed": ({"output": {"a": [1, 2]}}, {"output": None}, {"output": {"$ref": "x", "bytes": 1, "sha256": "x"}}),
    "cas.task.failed": ({"error": {"type": "E", "message": "x"}, "reason": "attempts_exhausted"}, {"reason": "error"}),
    "cas.task.cancelled": ({"reason": "why"}, {}, {"reason": 5}),
    "cas.task.rejected": ({"reason": "bad_body", "detail": "d"}, {"reason": "duplicate_task"}, {}),
    "cas.task.suspended": ({},),
    "cas.progress": ({"progress": 0.5, "message": "half"}, {"progress": 1}, {"progress": "x"}, {"progress": True}, {"message": "m"}),
    "cas.log": ({"level": "info", "message": 'hé " \n', "metadata": {"a": 1}}, {"message": 5}),
    "cas.step.started": ({"node": "n"},),
}  # fmt: skip


@st.composite
def wild_facts(draw: st.DrawFn) -> Fact:
    type_ = draw(st.sampled_from(sorted(DATA)))
    return Fact(
        type=type_,
        agent=draw(st.sampled_from(AGENTS)) if draw(st.integers(0, 4)) == 0 else AGENTS[0],
        task=draw(st.sampled_from(TASKS)),
        attempt=draw(st.integers(0, 3)),
        index=draw(st.integers(0, 5)),
        data=draw(st.sampled_from(DATA[type_])),
        dataversion=draw(st.sampled_from((1, 1, 1, 1, 2))),
        correlation=draw(st.sampled_from((None, "root", "other"))),
        parent=draw(st.sampled_from((None, None, "p1"))),
    )


@st.composite
def tidy_logs(draw: st.DrawFn) -> list[Fact]:
    """What runners write, with resends of telemetry: 5,6,7,5,6,7."""
    facts: list[Fact] = []
    for task in TASKS:
        of_task: list[Fact] = []
        ending = draw(st.sampled_from(("cas.task.completed", "cas.task.failed", "cas.task.cancelled", None)))
        attempts = draw(st.integers(1, 3))
        for attempt in range(1, attempts + 1):
            types = [
                "cas.task.started",
                *draw(st.lists(st.sampled_from(("cas.progress", "cas.log")), max_size=4)),
            ]
            if attempt < attempts:
                types += ["cas.task.retrying"]
            elif ending:
                types += [ending]
            run = [
                Fact(t, AGENTS[0], task, attempt, i, DATA[t][0], correlation=task)
                for i, t in enumerate(types)
            ]
            telemetry = run[1:-1]
            of_task += [run[0], *telemetry, *draw(st.sampled_from(([], telemetry, telemetry[-2:])))]
            of_task += run[-1:] if len(run) > 1 else []
        facts.append(of_task)  # type: ignore[arg-type]
    return _interleaved(draw, facts)  # type: ignore[arg-type]


def _interleaved(draw: st.DrawFn, queues: list[list[Fact]]) -> list[Fact]:
    order = draw(st.permutations([n for n, queue in enumerate(queues) for _ in queue]))
    rest = [iter(queue) for queue in queues]
    return [next(rest[n]) for n in order]


COMMANDS = st.lists(
    st.builds(
        Command,
        kind=st.sampled_from(("execute", "execute", "cancel", "resume")),
        agent=st.sampled_from(AGENTS),
        task=st.sampled_from(TASKS),
        body=st.sampled_from((
            {}, {"input": {"q": 9}, "metadata": {"k": "v"}}, {"parent_id": "p2", "correlation_id": "c2"},
            {"input": None, "parent_id": 5},
        )),
    ),
    max_size=5,
)  # fmt: skip
FACTS = st.one_of(st.lists(wild_facts(), max_size=25), tidy_logs())
SCHEDULE = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 9), st.sampled_from((False, False, True))), max_size=12
)


def _apply(
    folds: Folds,
    commands: Sequence[Command],
    facts: Sequence[Fact],
    schedule: Sequence[tuple[int, int, bool]],
) -> None:
    command_messages = [model.command_message(seq, c) for seq, c in enumerate(commands, 1)]
    event_messages = [model.event_message(seq, f) for seq, f in enumerate(facts, 1)]
    fold = folds.empty()
    for command_count, event_count, restart in schedule:
        fold.apply(command_messages[:command_count], event_messages[:event_count])
        command_messages = command_messages[command_count:]
        event_messages = event_messages[event_count:]
        if restart:
            fold = folds.reopened()
    fold.apply(command_messages, event_messages)
    assert fold.positions == (len(commands), len(facts))
    _compare(fold, commands, facts)


def _rows(fold: Fold, sql: str) -> list[dict[str, Any]]:
    reader = fold.reader()
    names = [row[0] for row in reader.execute(f"DESCRIBE {sql}")]
    rows = [dict(zip(names, row, strict=True)) for row in reader.execute(sql)]
    reader.close()
    for row in rows:
        for name, value in row.items():
            if hasattr(value, "microsecond"):
                row[name] = value.replace(tzinfo=UTC)
            elif name in JSON_COLUMNS and value is not None:
                row[name] = json.loads(value)
    return rows


def _compare(fold: Fold, commands: Sequence[Command], facts: Sequence[Fact]) -> None:
    tasks = {row["task_id"]: row for row in _rows(fold, "FROM cas_tasks")}
    assert tasks == model.expected_tasks(commands, facts)
    for table, expected in (
        ("cas_agent_events", model.expected_events(facts)),
        ("cas_agent_logs", model.expected_logs(facts)),
        ("cas_commands", model.expected_commands(commands)),
    ):
        assert [tuple(row.values()) for row in _rows(fold, f"FROM {table} ORDER BY seq")] == expected


@settings(
    max_examples=count(12, 60),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(commands=COMMANDS, facts=FACTS, schedule=SCHEDULE)
@example(  # The command that comes last names another owner than the events.
    commands=[Command("execute", "tester", "t1", {"input": {"q": 3}})],
    facts=[
        Fact("cas.log", "analyst", "t1", 1, 3, {}),
        Fact("cas.task.started", "tester", "t1", 1, 0, {"input": {"q": 1}}),
        Fact("cas.progress", "tester", "t1", 1, 1, {"progress": 0.25, "message": "x"}),
    ],
    schedule=[(0, 1, False), (0, 1, True), (0, 1, False), (1, 0, False)],
)
def test_fold_any_cut_and_interleaving_equals_plain_fold(
    commands: list[Command],
    facts: list[Fact],
    schedule: list[tuple[int, int, bool]],
    folds: Folds,
) -> None:
    _apply(folds, commands, facts, schedule)


@pytest.mark.parametrize("indexes", [(5, 6, 7, 5, 6, 7), (6, 7, 5), (5, 5, 6, 6), (7, 6, 5, 7)])
@pytest.mark.parametrize("cut", range(count(1, 0), 7, count(2, 1)))
def test_resent_telemetry_lowest_sequence_wins(folds: Folds, indexes: tuple[int, ...], cut: int) -> None:
    facts = [Fact("cas.task.started", "analyst", "t1", 1, 0, {})]
    facts += [Fact("cas.log", "analyst", "t1", 1, i, {"level": "info", "message": f"{i}"}) for i in indexes]
    _apply(folds, [], facts, [(0, cut, False)])
