"""The layers of DESIGN, read from the imports.

Goal: lower layers never import higher ones, so that the core stays pure and each outside thing (NATS, DuckDB, the
environment) has one door. Method: every import statement of every module, also inside functions, against a table.
Each rule is shown a bad sample first: a rule that cannot fail proves nothing.
"""

from __future__ import annotations

import ast

import pytest

from tests.tidy.source import Module, dotted, imports, is_within, module_of, modules

# layer: (what belongs to it, the layers that it may import besides itself)
CORE = {"errors"}
CLIENT = tuple(
    f"cas_events.{name}"
    for name in (
        "client",
        "agent_control",
        "fleet",
        "fleet_client",
        "log_follow",
        "moments",
        "reading",
        "replay",
        "schedule_client",
        "selection",
        "sql_client",
        "state_client",
    )
)
# Starting tasks and waiting for them: what clients do, and agents that call others.
TASKS = tuple(
    f"cas_events.{name}"
    for name in (
        "agent_standing",
        "agent_states",
        "answers",
        "follow",
        "lineage",
        "live",
        "log_feed",
        "queue_depth",
        "results",
        "schedules",
        "session",
        "submit",
        "task_log",
        "waiter",
    )
)
LAYERS: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "errors": (("cas_events.errors",), set()),
    "settings": (("cas_events.settings",), CORE),
    "process_log": (("cas_events.process_log",), {"settings", "domain"}),
    "ids": (("cas_events.uuid7",), set()),
    "domain": (("cas_events.domain",), CORE),
    "wire": (("cas_events.wire",), CORE | {"domain"}),
    "jetstream": (("cas_events.jetstream",), CORE | {"settings", "domain", "wire"}),
    "observe": (("cas_events.observe",), CORE | {"settings", "domain", "wire", "jetstream"}),
    "server": (("cas_events.server", "cas_events.server_guard"), CORE | {"settings"}),
    "tasks": (TASKS, CORE | {"ids", "domain", "wire", "jetstream", "observe"}),
    "runner": (
        ("cas_events.runner",),
        CORE | {"settings", "process_log", "ids", "domain", "wire", "jetstream", "observe", "tasks"},
    ),
    "client": (CLIENT, CORE | {"settings", "ids", "domain", "wire", "jetstream", "observe", "tasks"}),
    "audit": (("cas_events.audit",), CORE | {"ids", "domain", "wire", "jetstream"}),
    "projections": (
        ("projections",),
        CORE | {"settings", "process_log", "ids", "domain", "wire", "jetstream", "observe", "audit"},
    ),
    "agents": (("cas_events.agents",), CORE | {"package", "settings", "server", "domain", "runner"}),
    "cli": (("cas_events.cli", "cas_events.__main__"), set()),
    "package": (
        ("cas_events",),
        CORE | {"settings", "domain", "wire", "jetstream", "observe", "tasks", "runner", "client"},
    ),
}
ANYTHING = {"cli"}

DOORS = {
    "nats": ("cas_events.jetstream",),
    "duckdb": ("projections.store",),
    "cryptography": ("cas_events.audit.keys",),
    "langgraph": ("cas_events.jetstream", "cas_events.runner", "cas_events.agents"),
    "langchain_core": ("cas_events.jetstream", "cas_events.runner", "cas_events.agents"),
    "typer": ("cas_events.cli",),
    "rich": ("cas_events.cli",),
    "prometheus_client": ("cas_events.observe",),
    "opentelemetry": ("cas_events.observe.otel", "cas_events.observe.sampling"),
    "langchain": ("cas_events.agents.model",),
}


def layer_of(name: str) -> str | None:
    for layer, (prefixes, _) in LAYERS.items():
        if layer != "package" and any(is_within(name, prefix) for prefix in prefixes):
            return layer
    return "package" if is_within(name, "cas_events") else None


def layer_complaints(module: Module) -> list[str]:
    own = layer_of(module.name)
    if own is None or own in ANYTHING:
        return []
    allowed = {own} | LAYERS[own][1]
    return [
        f"{module.path}:{line}: {own} must not import {layer} ({name})"
        for line, name in imports(module)
        if (layer := layer_of(name)) is not None and layer not in allowed
    ]


def door_complaints(module: Module) -> list[str]:
    return [
        f"{module.path}:{line}: only {' and '.join(DOORS[top])} may import {top}"
        for line, name in imports(module)
        if (top := name.partition(".")[0]) in DOORS
        and not any(is_within(module.name, door) for door in DOORS[top])
    ]


def environment_complaints(module: Module) -> list[str]:
    if module.name == "cas_events.settings":
        return []
    reads = {"os.environ", "os.environb", "os.getenv", "os.putenv", "environ", "getenv"}
    return [
        f"{module.path}:{node.lineno}: only cas_events/settings.py reads the environment"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute | ast.Name) and dotted(node) in reads
    ]


RULES = (layer_complaints, door_complaints, environment_complaints)


@pytest.mark.parametrize("rule", RULES)
def test_code_keeps_to_its_layers(rule) -> None:
    complaints = [text for module in modules("cas_events", "projections") for text in rule(module)]
    assert not complaints, "\n".join(complaints)


BAD = [
    (layer_complaints, "cas_events/errors.py", "from cas_events.domain import events"),
    (layer_complaints, "cas_events/settings.py", "import cas_events.wire.subjects"),
    (layer_complaints, "cas_events/domain/events.py", "from cas_events.wire.envelope import encode"),
    (layer_complaints, "cas_events/domain/events.py", "from cas_events import wire"),
    (layer_complaints, "cas_events/domain/events.py", "from ..wire import envelope"),
    (layer_complaints, "cas_events/domain/events.py", "from .. import wire"),
    (layer_complaints, "cas_events/domain/__init__.py", "from ..jetstream import connection"),
    (layer_complaints, "cas_events/domain/events.py", "def f():\n    import cas_events.jetstream.api"),
    (layer_complaints, "cas_events/wire/envelope.py", "from cas_events.jetstream import messages"),
    (layer_complaints, "cas_events/domain/events.py", "from cas_events.uuid7 import uuid7"),
    (layer_complaints, "cas_events/jetstream/api.py", "from cas_events.runner import worker"),
    (layer_complaints, "cas_events/jetstream/api.py", "from cas_events import Client"),
    (layer_complaints, "cas_events/runner/worker.py", "from cas_events.client import Client"),
    (layer_complaints, "cas_events/runner/worker.py", "import projections.store"),
    (layer_complaints, "cas_events/session.py", "from cas_events.runner import worker"),
    (layer_complaints, "cas_events/session.py", "from cas_events.client import Client"),
    (layer_complaints, "cas_events/runner/worker.py", "from cas_events.server import start"),
    (layer_complaints, "cas_events/client.py", "from cas_events.runner import context"),
    (layer_complaints, "cas_events/client.py", "from projections.store import Store"),
    (layer_complaints, "projections/projector.py", "from cas_events import client"),
    (layer_complaints, "projections/projector.py", "from cas_events.cli import main"),
    (door_complaints, "cas_events/client.py", "import nats.errors"),
    (door_complaints, "cas_events/jetstream_extra.py", "import nats"),
    (door_complaints, "projections/queries.py", "from duckdb import connect"),
    (door_complaints, "cas_events/domain/retry.py", "import langgraph.errors"),
    (environment_complaints, "cas_events/server.py", "import os\nx = os.environ['HOME']"),
    (environment_complaints, "cas_events/server.py", "from os import getenv\nx = getenv('HOME')"),
]
GOOD = [
    (layer_complaints, "cas_events/wire/envelope.py", "from cas_events.domain import events"),
    (layer_complaints, "cas_events/domain/events.py", "from . import tokens\nfrom ..errors import WireError"),
    (
        layer_complaints,
        "cas_events/cli/main.py",
        "from projections import process\nfrom cas_events import server",
    ),
    (door_complaints, "cas_events/jetstream/api.py", "import nats.aio.client"),
    (door_complaints, "projections/store.py", "import duckdb"),
    (environment_complaints, "cas_events/settings.py", "import os\nx = os.environ['HOME']"),
]


@pytest.mark.parametrize(("rule", "path", "text"), BAD)
def test_rule_sees_the_bad_sample(rule, path: str, text: str) -> None:
    assert len(rule(module_of(path, text))) == 1


@pytest.mark.parametrize(("rule", "path", "text"), GOOD)
def test_rule_lets_the_good_sample_pass(rule, path: str, text: str) -> None:
    assert rule(module_of(path, text)) == []


def test_every_module_belongs_to_a_layer() -> None:
    """A new module beside the folders is given a layer in the table above, by hand."""
    without = [
        module.path
        for module in modules("cas_events", "projections")
        if layer_of(module.name) in {None, "package"} and module.name != "cas_events"
    ]
    assert without == []
