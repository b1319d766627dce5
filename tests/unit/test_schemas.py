"""The checked-in JSON Schemas: every type has a branch, every branch accepts its example and can refuse.

Goal: any client can check what it reads and writes without our code. Method: one full and one smallest example for
every type of PROTOCOL section 3, each also read by the official `cloudevents` package; then each required member is
taken away, and a list of single faults is put in, and the schema must object.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from cas_events.domain import events as domain_events
from cas_events.errors import InvalidCommandError
from cas_events.wire.commands import decode_execute
from cas_events.wire.envelope import EventEncoder, encode_agent_event
from tests.harness import contract
from tests.harness.contract import (
    AGENT_TYPES,
    ALL_TYPES,
    SCHEMA_NAMES,
    TASK_LIFECYCLE_TYPES,
    TASK_TELEMETRY_TYPES,
    check_event,
    problems,
    schema,
    strict_json,
)

REPOSITORY = Path(__file__).parents[2]

CLAIM = {"$ref": "0f" * 32, "bytes": 300_000, "sha256": "0f" * 32}
GOVERNED = {"tries": 1, "command_seq": 17}
ERROR = {
    "type": "ValueError",
    "message": "no such page",
    "node": "fetch",
    "traceback": "Traceback …",
    "truncated": True,
}
SMALL_ERROR = {"type": "ValueError", "message": ""}
STEP = {"node": "security", "step_id": "0198"}
STATE = {"state": {"seen": 3}, "revision": 1}
IGNORED = {
    "command_seq": 4,
    "subject": "cas.cmd.resume.analyst.t1.i-0",
    "reason": "the task does not wait for this interrupt",
    "raw": "e30=",
}
HEAD = {
    "streams": ["CAS_COMMANDS", "CAS_EVENTS"],
    "sequences": [12, 90],
    "hash": "ab" * 32,
    "signature": "c2ln",
    "public_key": "a2V5",
}

# type: (data with every member, data with only what is required)
EXAMPLES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cas.task.started": (
        {"input": {"path": "."}, "runner": "0198aa", "resumed": False},
        {"runner": "r", "resumed": True},
    ),
    "cas.task.retrying": (
        {"error": ERROR, "delay_s": 0.5, "next_try": 2},
        {"error": {"type": "handover", "message": "shutting down"}, "delay_s": 0, "next_try": 1},
    ),
    "cas.task.interrupted": (
        {"interrupts": [{"id": "a1-0", "value": "ok?", "schema": {"type": "boolean"}}], "error": ERROR},
        {"interrupts": [{"id": "a1-0"}]},
    ),
    "cas.task.resumed": ({"interrupt_id": "a1-0", "value": True}, {"interrupt_id": "a1-0"}),
    "cas.task.completed": ({"output": {"summary": "fine"}, "duration_s": 1.25}, {"duration_s": 0}),
    "cas.task.failed": ({"error": ERROR, "reason": "timeout"}, {"error": SMALL_ERROR, "reason": "error"}),
    "cas.task.cancelled": (
        {"reason": "not needed", "requested_by": "cli", "started": True, "partial": [1, 2]},
        {"started": False},
    ),
    "cas.task.rejected": (
        {"reason": "invalid", "detail": "input: expected an object", "raw": "W10="},
        {"reason": "duplicate_task", "raw": ""},
    ),
    "cas.step.started": (STEP | {"path": ["outer", "inner"]}, STEP),
    "cas.step.completed": (STEP | {"path": "outer"}, STEP),
    "cas.step.failed": (STEP | {"path": ["outer"], "error": ERROR}, STEP),
    "cas.progress": (
        {"progress": 0.5, "message": "halfway", "node": "security", "agent": "security"},
        {"progress": 0},
    ),
    "cas.log": (
        {"level": "warning", "message": "finding", "metadata": {"rule": "S105"}, "truncated": True},
        {"level": "info", "message": ""},
    ),
    "cas.output": ({"kind": "partial", "value": {"draft": "…"}}, {"kind": "token"}),
    "cas.agent.registered": ({"version": "1.2", "schema": {"type": "object"}}, {}),
    "cas.agent.deregistered": ({"reason": "retired", "new_tasks": "refuse"}, {}),
    "cas.agent.paused": ({"by": "cli"}, {}),
    "cas.agent.unpaused": ({"by": "cli"}, {}),
    "cas.agent.breaker_opened": ({"until": "2026-11-22T09:00:00Z"}, {}),
    "cas.agent.breaker_half_opened": ({"probes": 1}, {}),
    "cas.agent.breaker_closed": ({"probes": 3}, {}),
    "cas.agent.command_ignored": (IGNORED | {"more": 1}, IGNORED),
    "cas.state.updated": (STATE | {"patch": {"seen": 3, "old": None}}, STATE),
    "cas.state.reset": (STATE | {"patch": {}}, STATE),
    "cas.audit.head": (HEAD | {"note": "daily"}, HEAD),
}

ENVELOPE = {
    "specversion": "1.0",
    "source": "cas/runner/0198aaaa",
    "time": "2026-11-22T09:00:00.123456Z",
    "dataversion": 1,
}
EVERY_OPTIONAL_ATTRIBUTE = {
    "correlationid": "root-1",
    "parentid": "root-1",
    "causationid": "CAS_COMMANDS:17",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}
SOME_UUID = "0198c5a1-7b1e-7c3a-9f00-1234567890ab"


def event_of(type_: str, data: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    if type_ in TASK_LIFECYCLE_TYPES:
        data = GOVERNED | data
    identity: dict[str, Any] = {"id": SOME_UUID}
    if type_ in (*TASK_LIFECYCLE_TYPES, *TASK_TELEMETRY_TYPES):
        identity = {"id": "t1.1.0", "subject": "t1", "agentid": "analyst", "attempt": 1, "index": 0}
    elif type_ in AGENT_TYPES:
        identity |= {"subject": "analyst", "agentid": "analyst"}
    return ENVELOPE | identity | {"type": type_, "data": data} | attributes


def full(type_: str) -> dict[str, Any]:
    return event_of(type_, EXAMPLES[type_][0], **EVERY_OPTIONAL_ATTRIBUTE)


def smallest(type_: str) -> dict[str, Any]:
    return event_of(type_, EXAMPLES[type_][1])


def known_types_of_the_schema() -> list[str]:
    return [branch["if"]["properties"]["type"]["const"] for branch in schema("event")["allOf"]]


def test_schemas_themselves_are_valid() -> None:
    for name in SCHEMA_NAMES:
        Draft202012Validator.check_schema(schema(name))


def test_every_type_of_the_protocol_has_a_branch_and_an_example() -> None:
    assert sorted(known_types_of_the_schema()) == sorted(ALL_TYPES)
    assert sorted(EXAMPLES) == sorted(ALL_TYPES)


def test_every_type_that_the_code_names_is_in_the_protocol() -> None:
    named = {
        value for value in vars(domain_events).values() if isinstance(value, str) and value.startswith("cas.")
    }
    assert named - {domain_events.GAP} <= set(ALL_TYPES)  # A gap's item is made by who follows, never stored.
    assert frozenset(TASK_LIFECYCLE_TYPES) == domain_events.LIFECYCLE_TYPES


@pytest.mark.parametrize("type_", ALL_TYPES)
def test_examples_are_accepted_by_schema_and_cloudevents(type_: str) -> None:
    check_event(json.dumps(full(type_)).encode())
    check_event(json.dumps(smallest(type_), ensure_ascii=False).encode())


@pytest.mark.parametrize("type_", ALL_TYPES)
def test_each_required_data_member_is_missed(type_: str) -> None:
    example = smallest(type_)
    for member in example["data"]:
        without = copy.deepcopy(example)
        del without["data"][member]
        assert problems("event", without), f"{type_} without data.{member}"


@pytest.mark.parametrize("type_", ALL_TYPES)
def test_each_required_attribute_is_missed(type_: str) -> None:
    example = smallest(type_)
    optional = {"subject"} if type_ in AGENT_TYPES else set()
    for attribute in example.keys() - optional:
        without = {key: value for key, value in example.items() if key != attribute}
        assert problems("event", without), f"{type_} without {attribute}"


@pytest.mark.parametrize("type_", ALL_TYPES)
def test_null_is_refused_for_every_member(type_: str) -> None:
    example = full(type_)
    for attribute in example:
        assert problems("event", example | {attribute: None}), f"{type_} with {attribute} null"
    for member in example["data"]:
        data = example["data"] | {member: None}
        assert problems("event", example | {"data": data}), f"{type_} with data.{member} null"


BAD_ATTRIBUTES = [
    ("specversion", "0.3"),
    ("id", ""),
    ("id", "t1-1-0"),
    ("source", "runner"),
    ("source", "cas/server/x"),
    ("type", "task.started"),
    ("type", ""),
    ("subject", "a.b"),
    ("subject", "x" * 65),
    ("time", "2026-11-22T09:00:00.123456"),
    ("time", "2026-11-22 09:00:00Z"),
    ("time", 1_795_338_000),
    ("agentid", "*"),
    ("attempt", -1),
    ("attempt", "1"),
    ("attempt", 1.5),
    ("index", -1),
    ("dataversion", 0),
    ("causationid", "CAS_COMMANDS:0"),
    ("causationid", "17"),
    ("correlationid", ""),
    ("traceparent", "00-zz-01"),
    ("data", []),
    ("data", "text"),
    ("Upper", "x"),
    ("under_score", "x"),
    ("nested", {"a": 1}),
]


@pytest.mark.parametrize(("attribute", "value"), BAD_ATTRIBUTES)
def test_bad_attribute_is_refused(attribute: str, value: object) -> None:
    assert problems("event", full("cas.task.started") | {attribute: value})


BAD_DATA = [
    ("cas.task.started", {"tries": -1}),
    ("cas.task.started", {"command_seq": 0}),
    ("cas.task.started", {"command_seq": "17"}),
    ("cas.task.started", {"runner": "a b"}),
    ("cas.task.started", {"resumed": 0}),
    ("cas.task.retrying", {"error": "text"}),
    ("cas.task.retrying", {"error": {"type": "", "message": "m"}}),
    ("cas.task.retrying", {"delay_s": -0.1}),
    ("cas.task.retrying", {"next_try": 0}),
    ("cas.task.interrupted", {"interrupts": []}),
    ("cas.task.interrupted", {"interrupts": [{"value": 1}]}),
    ("cas.task.interrupted", {"interrupts": [{"id": "a:1"}]}),
    ("cas.task.resumed", {"interrupt_id": ""}),
    ("cas.task.completed", {"duration_s": -1}),
    ("cas.task.failed", {"reason": "other"}),
    ("cas.task.failed", {"error": {"message": "m"}}),
    ("cas.task.failed", {"error": {"type": "T", "message": "m", "node": None}}),
    ("cas.task.cancelled", {"started": "yes"}),
    ("cas.task.cancelled", {"reason": 4}),
    ("cas.task.rejected", {"reason": ""}),
    ("cas.task.rejected", {"raw": "not base64!"}),
    ("cas.step.started", {"path": [1]}),
    ("cas.step.completed", {"node": ""}),
    ("cas.step.failed", {"error": {}}),
    ("cas.progress", {"progress": 1.01}),
    ("cas.progress", {"progress": -0.01}),
    ("cas.progress", {"progress": "50%"}),
    ("cas.log", {"level": "warn"}),
    ("cas.log", {"metadata": "text"}),
    ("cas.output", {"kind": "final"}),
    ("cas.agent.command_ignored", {"command_seq": 0}),
    ("cas.state.updated", {"state": [1]}),
    ("cas.state.updated", {"revision": 0}),
    ("cas.audit.head", {"sequences": [-1]}),
]


@pytest.mark.parametrize(("type_", "change"), BAD_DATA)
def test_bad_data_is_refused(type_: str, change: dict[str, Any]) -> None:
    example = full(type_)
    assert problems("event", example | {"data": example["data"] | change})


@pytest.mark.parametrize(
    ("type_", "member"),
    [
        ("cas.task.started", "input"),
        ("cas.task.interrupted", "interrupts"),
        ("cas.task.resumed", "value"),
        ("cas.task.completed", "output"),
        ("cas.task.cancelled", "partial"),
        ("cas.task.rejected", "raw"),
        ("cas.log", "metadata"),
        ("cas.output", "value"),
        ("cas.state.updated", "state"),
    ],
)
def test_large_member_may_be_a_claim_check(type_: str, member: str) -> None:
    example = full(type_)
    check_event(json.dumps(example | {"data": example["data"] | {member: CLAIM}}).encode())


@pytest.mark.parametrize(
    "claim",
    [
        {"$ref": "x", "bytes": 300_000},
        CLAIM | {"more": 1},
        CLAIM | {"bytes": 0},
        CLAIM | {"sha256": "0F" * 32},
        CLAIM | {"$ref": "report.json"},
    ],
)
def test_almost_a_claim_check_is_none(claim: dict[str, Any]) -> None:
    example = full("cas.task.rejected")
    assert problems("event", example | {"data": example["data"] | {"raw": claim}})


def test_user_data_is_free_and_nested_null_is_allowed() -> None:
    output = {"a": None, "list": [None, 1.5, "ü\u0000"], "$ref": "mine"}
    assert problems("event", event_of("cas.task.completed", {"output": output, "duration_s": 1})) == []


def test_unknown_type_and_newer_data_version_need_only_the_envelope() -> None:
    unknown = event_of("cas.task.started", {"anything": [1]}, type="cas.future.thing")
    assert problems("event", unknown) == []
    assert "cas.future.thing" not in known_types_of_the_schema()
    assert problems("event", unknown | {"dataversion": 0})
    newer = full("cas.task.started") | {"dataversion": 2, "data": {"new": 1}}
    assert problems("event", newer) == []


def test_check_event_demands_that_the_id_repeats_the_key() -> None:
    with pytest.raises(AssertionError):
        check_event(json.dumps(full("cas.progress") | {"index": 7}).encode())


@pytest.mark.parametrize("raw", [b'{"a":NaN}', b'{"a":Infinity}', b'{"a":1,"a":2}', b"\xff", b""])
def test_strict_json_refuses(raw: bytes) -> None:
    with pytest.raises(ValueError):
        strict_json(raw)


GOOD_COMMANDS = [
    ("command-execute", {}),
    (
        "command-execute",
        {"input": {}, "metadata": {"user": "a"}, "timeout_s": 0.5, "max_attempts": 1, "parent_id": "p"},
    ),
    (
        "command-execute",
        {"input": CLAIM, "correlation_id": "p", "not_before": "2026-11-22T09:00:00Z", "more": 1},
    ),
    ("command-cancel", {}),
    ("command-cancel", {"reason": "why", "requested_by": "me", "more": 1}),
    ("command-resume", {}),
    ("command-resume", {"value": None}),
    ("command-resume", {"value": [1]}),
]
BAD_COMMANDS = [
    ("command-execute", []),
    ("command-execute", "text"),
    ("command-execute", {"input": 1}),
    ("command-execute", {"input": None}),
    ("command-execute", {"metadata": []}),
    ("command-execute", {"timeout_s": 0}),
    ("command-execute", {"timeout_s": "60"}),
    ("command-execute", {"max_attempts": 0}),
    ("command-execute", {"max_attempts": 1.5}),
    ("command-execute", {"parent_id": "a.b"}),
    ("command-execute", {"not_before": "tomorrow"}),
    ("command-execute", {"not_before": "2026-11-22T09:00:00"}),
    ("command-cancel", {"reason": 1}),
    ("command-cancel", None),
    ("command-resume", [1]),
]


@pytest.mark.parametrize(("name", "body"), GOOD_COMMANDS)
def test_good_command_is_accepted(name: str, body: object) -> None:
    assert problems(name, body) == []


@pytest.mark.parametrize(("name", "body"), BAD_COMMANDS)
def test_bad_command_is_refused(name: str, body: object) -> None:
    assert problems(name, body)


@pytest.mark.parametrize("body", [body for name, body in GOOD_COMMANDS if name == "command-execute"])
def test_what_the_schema_accepts_the_runner_reads(body: object) -> None:
    decode_execute(json.dumps(body).encode())


@pytest.mark.parametrize("body", [body for name, body in BAD_COMMANDS if name == "command-execute"])
def test_what_the_schema_refuses_the_runner_rejects(body: object) -> None:
    with pytest.raises(InvalidCommandError):
        decode_execute(json.dumps(body).encode())


@given(
    task=st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    agent=st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    attempt=st.integers(0, 2**40),
    index=st.integers(0, 2**40),
    time_ns=st.integers(0, 4_102_444_800 * 10**9),
    type_=st.sampled_from((*TASK_LIFECYCLE_TYPES, *TASK_TELEMETRY_TYPES)),
    optional=st.booleans(),
)
def test_what_the_encoder_writes_is_valid(
    task: str, agent: str, attempt: int, index: int, time_ns: int, type_: str, optional: bool
) -> None:
    encoder = EventEncoder(
        source="cas/runner/0198aaaa",
        task_id=task,
        agent_id=agent,
        attempt=attempt,
        correlation_id=task,
        parent_id="parent" if optional else None,
        causation_id="CAS_COMMANDS:17" if optional else None,
        traceparent=EVERY_OPTIONAL_ATTRIBUTE["traceparent"] if optional else None,
    )
    data = (full if optional else smallest)(type_)["data"]
    event = check_event(encoder.encode(type_, index, time_ns, json.dumps(data).encode()))
    assert (event.get_subject(), event.get_extension("attempt")) == (task, attempt)
    assert event.get_id() == encoder.event_id(index)


@pytest.mark.parametrize("type_", AGENT_TYPES)
def test_what_the_agent_encoder_writes_is_valid(type_: str) -> None:
    raw = encode_agent_event(
        type_,
        event_id=SOME_UUID,
        source="cas/client/me",
        agent_id="analyst",
        time_ns=1_795_338_000 * 10**9,
        data=json.dumps(EXAMPLES[type_][1]).encode(),
        causation_id="CAS_COMMANDS:4",
    )
    check_event(raw)


def test_schemas_are_in_the_wheel(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=60)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"cas_events/wire/schemas/{name}.schema.json" for name in contract.SCHEMA_NAMES} <= names
