"""What `cas doctor` concludes from what it found, where no test can have such a server at hand.

Goal: old versions, foreign clocks, open ports, clusters with a dead member, full disks and tables of another log are
judged as PROTOCOL and DESIGN have it. Method: a well diagnosis, changed in one place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from cas_events.cli.checkup.check import Check, size, span
from cas_events.cli.checkup.promises import PROMISES, standings
from cas_events.cli.checkup.server import Embedded, server_checks
from cas_events.cli.checkup.streams import stream_checks
from cas_events.cli.checkup.work import Tables, work_checks
from cas_events.jetstream.answers import StreamState
from cas_events.jetstream.diagnosis import Clock, Cluster, Diagnosis, Replica, StreamReport
from cas_events.jetstream.topology import stream_specs

DESIGN_PROMISES = 10


def streams(replicas: int = 1, cluster: Cluster | None = None) -> dict[str, StreamReport]:
    return {
        spec.name: StreamReport(config=spec.config(replicas), state=StreamState(last_seq=5), cluster=cluster)
        for spec in stream_specs("cas")
    }


def diagnosis(**changes: Any) -> Diagnosis:
    known: dict[str, Any] = {
        "url": "nats://127.0.0.1:4222",
        "deployment": "cas",
        "version": "2.15.1",
        "host": "127.0.0.1",
        "has_auth": False,
        "has_tls": False,
        "max_payload_bytes": 1024 * 1024,
        "account": {"storage": 0, "limits": {"max_storage": -1}},
        "streams": streams(),
        "clock": Clock(ahead_s=0.001, error_s=0.001),
        "runners": {"echo": ("r1", "r2")},
        "agents_with_commands": frozenset(),
    }
    return Diagnosis(**known | changes)


def embedded(**changes: Any) -> Embedded:
    known: dict[str, Any] = {"sync_interval": "always", "free_bytes": 10**12, "total_bytes": 10**13}
    return Embedded(store_dir=Path("nats"), **known | changes)


def checks(
    found: Diagnosis, *, home: Embedded | None = None, tables: Tables | None = None
) -> dict[str, Check]:
    every = [*server_checks(found, home), *stream_checks(found), *work_checks(found, tables or Tables())]
    return {check.name: check for check in every}


def test_every_promise_has_a_standing() -> None:
    assert list(PROMISES) == list(range(1, DESIGN_PROMISES + 1))
    assert [standing.number for standing in standings([])] == list(PROMISES)


@pytest.mark.parametrize(
    ("version", "level", "words"),
    [
        ("2.15.1", "ok", ""),
        ("2.12.0", "ok", ""),
        ("3.0.0", "ok", ""),
        ("2.11.9", "problem", "atomic batches"),
        ("2.10.25", "problem", "batched direct gets"),
        ("2.9.0", "problem", "several filters"),
        ("", "problem", "of unknown version"),
    ],
)
def test_version(version: str, level: str, words: str) -> None:
    check = checks(diagnosis(version=version))["version"]
    assert check.level == level
    assert words in check.said


@pytest.mark.parametrize(
    ("host", "has_auth", "has_tls", "level", "verdict"),
    [
        ("127.0.0.1", False, False, "ok", "holds"),
        ("::1", False, False, "ok", "holds"),
        ("localhost", False, False, "ok", "holds"),
        ("0.0.0.0", False, True, "problem", "does not hold"),
        ("", False, False, "problem", "does not hold"),
        ("192.0.2.7", True, False, "warning", "holds with a condition"),
        ("0.0.0.0", True, True, "ok", "holds with a condition"),
    ],
)
def test_reach(host: str, has_auth: bool, has_tls: bool, level: str, verdict: str) -> None:
    check = checks(diagnosis(host=host, has_auth=has_auth, has_tls=has_tls))["reach"]
    assert check.level == level
    assert [one.verdict for one in standings([check]) if one.number == 10] == [verdict]


@pytest.mark.parametrize(
    ("ahead_s", "error_s", "level"),
    [
        (0.2, 0.001, "ok"),
        (-0.2, 0.001, "ok"),
        (1.0, 0.9, "ok"),  # A slow answer proves nothing.
        (1.0, 0.1, "warning"),
        (-3.0, 0.1, "warning"),
        (9.0, 0.1, "problem"),
        (-9.0, 0.1, "problem"),
    ],
)
def test_clock(ahead_s: float, error_s: float, level: str) -> None:
    check = checks(diagnosis(clock=Clock(ahead_s=ahead_s, error_s=error_s)))["clock"]
    assert check.level == level
    assert ("ahead of" in check.said) is (ahead_s > 0)


@pytest.mark.parametrize(("free_bytes", "level"), [(10**10, "ok"), (10**9, "warning"), (10**8, "problem")])
def test_disk(free_bytes: int, level: str) -> None:
    assert checks(diagnosis(), home=embedded(free_bytes=free_bytes))["disk"].level == level


def test_always_has_holes_before_2_15() -> None:
    check = checks(diagnosis(version="2.14.3"), home=embedded())["sync_interval"]
    assert check.level == "warning"
    assert 1 in check.conditions


def test_a_tier_of_the_account_that_is_nearly_full() -> None:
    account = {"tiers": {"R3": {"storage": 95, "limits": {"max_storage": 100}}}}
    check = checks(diagnosis(account=account))["account storage R3"]
    assert check.level == "problem"
    assert "95%" in check.said


@pytest.mark.parametrize(("replicas", "level"), [(1, "note"), (2, "warning"), (3, "ok"), (5, "ok")])
def test_replicas(replicas: int, level: str) -> None:
    assert checks(diagnosis(streams=streams(replicas)))["replicas"].level == level


@pytest.mark.parametrize(
    ("away", "leader", "level"),
    [(0, "n1", ""), (1, "n1", "warning"), (2, "n1", "problem"), (1, "", "problem")],
)
def test_peers(away: int, leader: str, level: str) -> None:
    peers = [Replica(name=f"n{n}", current=n > away, offline=n <= away) for n in (1, 2)]
    found = checks(diagnosis(streams=streams(3, Cluster(leader=leader, replicas=peers))))
    assert found.get("peers of CAS_EVENTS", Check(area="", name="", level="ok", said="")).level == (
        level or "ok"
    )


def test_a_log_with_a_lost_beginning_or_a_hole() -> None:
    known = streams()
    report = known["CAS_EVENTS"]
    state = StreamState(messages=3, first_seq=4, last_seq=9, num_deleted=3)
    known["CAS_EVENTS"] = msgspec.structs.replace(report, state=state)
    found = checks(diagnosis(streams=known))
    assert found["beginning of CAS_EVENTS"].level == "warning"
    assert "up to sequence 3" in found["beginning of CAS_EVENTS"].said
    assert found["gaps in CAS_EVENTS"].level == "problem"


@pytest.mark.parametrize(
    ("commands", "events", "level"), [(5, 5, "ok"), (0, 4, "ok"), (6, 5, "problem"), (5, 6, "problem")]
)
def test_projector(commands: int, events: int, level: str) -> None:
    tables = Tables(positions={"CAS_COMMANDS": commands, "CAS_EVENTS": events})
    assert checks(diagnosis(), tables=tables)["projector"].level == level


def test_a_projector_that_fails_says_so() -> None:
    assert "out of order" in checks(diagnosis(), tables=Tables(error="out of order"))["projector"].said


@pytest.mark.parametrize(
    ("runners", "level"),
    [({}, "warning"), ({"echo": ("r1",)}, "note"), ({"echo": ("r1", "r2")}, "ok"), ({"echo": ()}, "warning")],
)
def test_runners(runners: dict[str, tuple[str, ...]], level: str) -> None:
    assert checks(diagnosis(runners=runners))["runners"].level == level


def test_too_many_commands_to_look_through_are_not_guessed_at() -> None:
    assert checks(diagnosis(agents_with_commands=None))["unserved agents"].level == "note"


def test_words() -> None:
    assert [size(count) for count in (0, 1023, 1024, 1536, 5 * 1024**3, 3 * 1024**4)] == [
        "0 B",
        "1023 B",
        "1 KiB",
        "1.5 KiB",
        "5 GiB",
        "3.0 TiB",
    ]
    assert [span(seconds) for seconds in (2.0, 120, 7200, 5400, 7 * 86_400)] == [
        "2 s",
        "2 min",
        "2 h",
        "90 min",
        "7 days",
    ]
