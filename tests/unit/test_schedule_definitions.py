"""What a stored schedule means: its tasks' ids, which never change, and what is no schedule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from cas_events.schedules.definitions import Definition, read_definition
from cas_events.schedules.timers import read_timer

DUE = datetime(2026, 11, 22, 9, tzinfo=UTC)
STATE: dict[str, Any] = {
    "id": "01a20368-a3c8-73d5-8d04-f5d6a4fd11bf",
    "agent": "analyst",
    "execute": {"input": {"a": 1}, "metadata": {"who": "us"}, "max_attempts": 2, "future": True},
    "cron": "0 9 * * *",
    "time_zone": "Europe/Berlin",
    "missed": "skip",
    "missed_after_s": 60.0,
    "since": "2026-11-01T00:00:00Z",
    "created_at": "2026-11-01T00:00:00Z",
}


def definition(**changes: Any) -> Definition:
    found = read_definition(STATE | changes)
    assert found is not None
    return found


def test_the_id_of_a_due_times_task_is_the_same_for_ever() -> None:
    assert definition().task_id(DUE) == "e966efe9-2726-5953-a5c1-c21b9ab6e2c9"
    assert definition(id="another").task_id(DUE) != definition().task_id(DUE)
    assert definition().task_id(DUE + timedelta(seconds=1)) != definition().task_id(DUE)


def test_a_task_has_what_its_schedule_says_and_which_run_it_is() -> None:
    assert definition().members("nightly", DUE) == {
        "input": {"a": 1},
        "max_attempts": 2,
        "metadata": {"who": "us", "schedule": "nightly", "due": "2026-11-22T09:00:00Z"},
    }


def test_a_run_is_missed_when_it_is_later_than_was_said() -> None:
    late = {"skip": definition(), "fire_once": definition(missed="fire_once")}

    assert late["skip"].starts(DUE, DUE + timedelta(seconds=60))
    assert not late["skip"].starts(DUE, DUE + timedelta(seconds=60.001))
    assert late["fire_once"].starts(DUE, DUE + timedelta(days=365))
    assert definition().starts(DUE, DUE - timedelta(seconds=1)), "a clock that is behind the server's"


def test_nothing_is_due_before_a_schedule_counts() -> None:
    assert definition().next_after(DUE - timedelta(days=60)) == datetime(2026, 11, 1, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "no token"},
        {"agent": 5},
        {"execute": []},
        {"execute": {"metadata": []}},
        {"execute": {"timeout_s": -1}},
        {"cron": "61 * * * *"},
        {"cron": None},
        {"missed": "twice"},
        {"missed_after_s": "long"},
        {"paused": "yes"},
        {"since": "yesterday"},
        {"since": "2026-11-01T00:00:00"},
        {"created_at": 0},
    ],
)
def test_what_is_no_definition_is_none(changes: dict[str, Any]) -> None:
    assert read_definition(STATE | changes) is None


def test_a_state_that_lacks_something_is_no_definition() -> None:
    for name in STATE:
        assert read_definition({other: value for other, value in STATE.items() if other != name}) is None
    assert read_definition({"cancelled_at": "2026-11-01T00:00:00Z", "cancelled_by": "us"}) is None


def test_a_definition_is_read_as_it_was_stored() -> None:
    assert read_definition(msgspec.json.decode(msgspec.json.encode(definition(paused=True)))) == definition(
        paused=True
    )


@pytest.mark.parametrize(
    "body", [b"", b"\xff", b"[]", b'{"schedule":"a"}', b'{"schedule":"a","due":"2026-01-01"}']
)
def test_what_is_no_timer_is_none(body: bytes) -> None:
    assert read_timer(body) is None
