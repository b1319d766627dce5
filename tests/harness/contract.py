"""The contract that every client in every language may rely on, as checks over raw bytes.

An event is good when three independent readers agree: Python's strict JSON parser, the official `cloudevents`
package, and the checked-in JSON Schema. What a schema cannot say (the id repeats the key) is said here.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.formats.json import JSONFormat
from jsonschema import Draft202012Validator

SCHEMA_NAMES = ("event", "command-execute", "command-cancel", "command-resume")

# The table of PROTOCOL section 3, by hand: a type that is added there must be added here and in the schema.
TASK_LIFECYCLE_TYPES = (
    "cas.task.started",
    "cas.task.retrying",
    "cas.task.interrupted",
    "cas.task.resumed",
    "cas.task.completed",
    "cas.task.failed",
    "cas.task.cancelled",
    "cas.task.rejected",
)
TASK_TELEMETRY_TYPES = (
    "cas.step.started",
    "cas.step.completed",
    "cas.step.failed",
    "cas.progress",
    "cas.log",
    "cas.output",
)
AGENT_TYPES = (
    "cas.agent.registered",
    "cas.agent.deregistered",
    "cas.agent.paused",
    "cas.agent.unpaused",
    "cas.agent.breaker_opened",
    "cas.agent.breaker_half_opened",
    "cas.agent.breaker_closed",
    "cas.agent.command_ignored",
    "cas.state.updated",
    "cas.state.reset",
)
ALL_TYPES = (*TASK_LIFECYCLE_TYPES, *TASK_TELEMETRY_TYPES, *AGENT_TYPES, "cas.audit.head")


@cache
def schema(name: str) -> dict[str, Any]:
    """The schema as it is shipped in the package."""
    text = files("cas_events.wire").joinpath("schemas", f"{name}.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@cache
def validator(name: str) -> Draft202012Validator:
    """A validator for one of `SCHEMA_NAMES`."""
    return Draft202012Validator(schema(name), format_checker=Draft202012Validator.FORMAT_CHECKER)


def problems(name: str, value: object) -> list[str]:
    """What the schema has against a value, one line each; empty when it is valid."""
    errors = sorted(validator(name).iter_errors(value), key=lambda error: error.json_path)
    return [f"{error.json_path}: {error.message}" for error in errors]


def strict_json(raw: bytes) -> Any:
    """Parse JSON as the standard has it: no NaN, no infinity, no repeated key.

    Raises:
        ValueError: it is not that.
    """
    return json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeats)


def check_event(raw: bytes) -> BaseCloudEvent:
    """Assert that stored bytes are an event of the contract; return it as the official package reads it."""
    value = strict_json(raw)
    assert problems("event", value) == [], (
        f"{value.get('type')}: {problems('event', value)} in {raw[:2000]!r}"
    )
    if "attempt" in value and value["type"] in (*TASK_LIFECYCLE_TYPES, *TASK_TELEMETRY_TYPES):
        assert value["id"] == f"{value['subject']}.{value['attempt']}.{value['index']}"
    event = JSONFormat().read(None, raw)
    assert event.get_specversion() == "1.0"
    assert (event.get_id(), event.get_type()) == (value["id"], value["type"])
    assert event.get_data() == value["data"]
    return event


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError(f"a key is repeated in {[key for key, _ in pairs]}")
    return value
