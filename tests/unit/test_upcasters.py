"""What was ever stored stays readable: frozen bytes of every version and type, and the chain that raises old ones.

The files of `tests/frozen` are never edited, only added: each holds stored bytes and what a reader makes of them.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.envelope import decode_event
from cas_events.wire.subjects import Names
from cas_events.wire.upcasters import DATAVERSION, STEPS, Data, upcast
from projections.fold import Fold
from projections.past import in_the_past
from tests.harness.contract import ALL_TYPES, check_event

FROZEN = Path(__file__).parents[1] / "frozen"
FILES = sorted(FROZEN.glob("v*/*.json"))


def subject_of(type_: str) -> str:
    names, class_ = Names("cas"), type_.split(".")[1]
    if class_ in ("task", "step", "progress", "log"):
        return names.event(class_, "analyst", "t1")
    return {"state": "cas.evt.state.analyst", "audit": "cas.evt.audit.head"}.get(
        class_, names.agent_event("analyst")
    )


def test_every_type_of_every_version_is_frozen() -> None:
    assert sorted({file.parent.name for file in FILES}) == [f"v{n}" for n in range(1, DATAVERSION + 1)]
    for version in range(1, DATAVERSION + 1):
        assert sorted(file.stem for file in FILES if file.parent.name == f"v{version}") == sorted(ALL_TYPES)
    assert all(0 < version < DATAVERSION for _, version in STEPS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_frozen_bytes_are_read_as_ever(file: Path) -> None:
    for example in json.loads(file.read_text(encoding="utf-8")):
        raw = example["stored"].encode()
        if file.parent.name == f"v{DATAVERSION}":
            check_event(raw)
        event = decode_event(raw, seq=7, stream="CAS_EVENTS")
        assert event.dataversion == DATAVERSION
        read = msgspec.to_builtins(event)
        # An event may tell more by now, and never less or something else.
        assert {name: read.get(name) for name in example["read"]} == example["read"]


def test_frozen_bytes_are_projected_without_a_dead_letter_of_their_own(tmp_path: Path) -> None:
    """The newest version of each; `cas.output` has no place in the event stream."""
    files = [file for file in FILES if file.parent.name == f"v{DATAVERSION}" and file.stem != "cas.output"]
    fold = Fold(tmp_path / "cas.duckdb", "cas")
    for seq, file in enumerate(files, 1):
        body = json.loads(json.loads(file.read_text(encoding="utf-8"))[0]["stored"])
        if "attempt" in body:  # A key of its own for each, or the first would be taken for all.
            body |= {"index": seq}
        fold.apply(
            [], [StoredMessage("CAS_EVENTS", seq, subject_of(file.stem), 0, json.dumps(body).encode())]
        )
    reader = fold.reader()
    assert reader.execute("SELECT count(*) FROM cas_agent_events") == [(len(files),)]
    assert reader.execute("FROM cas_dead_letters WHERE reason = 'undecodable'") == []
    assert reader.execute("FROM cas_unknown_events") == []
    reader.close()
    fold.close()


# --- the chain, with versions that never were ----------------------------------------------------------------------------


def celsius_from_degrees(data: Data) -> Data:
    """0 to 1: a member is renamed."""
    rest = {name: value for name, value in data.items() if name != "degrees"}
    return rest | {"celsius": data["degrees"]}


def kelvin_from_celsius(data: Data) -> Data:
    """2 to 3; from 1 to 2 nothing changed."""
    return data | {"kelvin": data["celsius"] + 273}


MADE_UP = {("x.heat", 0): celsius_from_degrees, ("x.heat", 2): kelvin_from_celsius}


@given(
    degrees=st.integers(-273, 10_000), other=st.dictionaries(st.text(max_size=3), st.integers(), max_size=3)
)
def test_chain_raises_from_any_version_alike(degrees: int, other: dict[str, int]) -> None:
    other = {name: value for name, value in other.items() if name not in ("degrees", "celsius", "kelvin")}
    zero = other | {"degrees": degrees}
    before = copy.deepcopy(zero)
    three = upcast("x.heat", 0, zero, steps=MADE_UP, newest=3)
    assert three == (3, other | {"celsius": degrees, "kelvin": degrees + 273})
    assert zero == before  # pure
    one = upcast("x.heat", 0, zero, steps=MADE_UP, newest=1)
    assert upcast("x.heat", *one, steps=MADE_UP, newest=3) == three
    assert (
        upcast("x.heat", *upcast("x.heat", *one, steps=MADE_UP, newest=2), steps=MADE_UP, newest=3) == three
    )
    assert upcast("x.cold", 0, zero, steps=MADE_UP, newest=3) == (3, zero)


@given(version=st.integers(max_value=-1))
def test_a_version_that_cannot_be_is_kept_as_it_is(version: int) -> None:
    assert upcast("x.heat", version, {"degrees": 1}, steps=MADE_UP, newest=3) == (version, {"degrees": 1})
    assert upcast("x.heat", -(10**11), {"degrees": 1}, steps=MADE_UP, newest=3)[0] < 0  # and at once


def test_newer_data_is_kept_as_it_is() -> None:
    assert upcast("x.heat", 9, {"a": 1}, steps=MADE_UP, newest=3) == (9, {"a": 1})
    raw = json.loads(json.loads((FROZEN / "v1" / "cas.log.json").read_text(encoding="utf-8"))[0]["stored"])
    event = decode_event(json.dumps(raw | {"dataversion": 9}).encode(), seq=1, stream="CAS_EVENTS")
    assert (event.dataversion, event.data) == (9, raw["data"])


def test_unknown_types_and_newer_versions_are_kept_and_counted(tmp_path: Path) -> None:
    raw = json.loads(json.loads((FROZEN / "v1" / "cas.log.json").read_text(encoding="utf-8"))[0]["stored"])
    fold = Fold(tmp_path / "cas.duckdb", "cas")
    changes = (
        {},
        {"dataversion": 2},
        {"dataversion": 2},
        {"type": "com.example.thing"},
        {"type": "cas.log.later"},
    )
    for seq, change in enumerate(changes, 1):
        body = raw | {"index": seq} | change
        fold.apply(
            [], [StoredMessage("CAS_EVENTS", seq, subject_of("cas.log"), 0, json.dumps(body).encode())]
        )
    reader = fold.reader()
    assert reader.execute("FROM cas_unknown_events ORDER BY ALL") == [
        ("cas.log", 2, 2, 2, 3), ("cas.log.later", 1, 1, 5, 5), ("com.example.thing", 1, 1, 4, 4),
    ]  # fmt: skip
    past = in_the_past("FROM cas_unknown_events ORDER BY ALL", 4)
    assert reader.execute(past) == [("cas.log", 2, 2, 2, 3), ("com.example.thing", 1, 1, 4, 4)]
    assert reader.execute("SELECT count(*), count(data) FROM cas_agent_events") == [(5, 5)]
    assert reader.execute("SELECT seq FROM cas_agent_logs") == [(1,)]
    assert reader.execute("SELECT count(*) FROM cas_dead_letters") == [(0,)]
    reader.close()
    fold.close()
