"""Streams and consumers of a deployment, and how they come into being (PROTOCOL section 1).

Whoever connects first creates the streams; equal creations race harmlessly. What exists already is compared in the
fields that PROTOCOL names, and nothing is ever changed: a difference is an error that lists it. Consumers are created
with action "create" and never updated, because a second version of a consumer would rob the first; an existing one
with other settings is adopted with a warning. Stream and subject names are `wire.subjects`'.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from cas_events.errors import (
    ConnectionLostError,
    NotFoundError,
    RefusedError,
    ServerFeatureError,
    StreamUnavailableError,
    TopologyMismatchError,
)
from cas_events.jetstream.api import ConsumerInfo, JetStream, StreamInfo
from cas_events.jetstream.patience import patiently
from cas_events.wire.subjects import EVENT_CLASSES, Names

_NS = 1_000_000_000
_DAY_S = 86_400
_SERVER_VERSION_MIN = (2, 12)
_INFO_TIMEOUT_S = 2.0
_PATIENCE_S = 20.0  # Electing a leader takes 5 to 10 s.
_CREATE_TIMEOUT_S = 10.0  # Creating six streams on three servers takes elections.
_STREAM_EXISTS = 10058
_CONSUMER_EXISTS = 10148

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One stream.

    Attributes:
        name: of the stream.
        compared: settings that PROTOCOL names, in the server's JSON words; an existing stream must have them.
        defaults: further settings of a new stream; an existing one may have others.
    """

    name: str
    compared: dict[str, Any]
    defaults: dict[str, Any] = field(default_factory=dict)

    def config(self, replicas: int) -> dict[str, Any]:
        """The body of its creation."""
        return {
            "name": self.name,
            "storage": "file",
            "num_replicas": replicas,
            **self.defaults,
            **self.compared,
        }


@dataclass(frozen=True, slots=True)
class ConsumerSpec:
    """One durable pull consumer with explicit acks, as an argument of `ensure_consumer`."""

    stream: str
    name: str
    filters: tuple[str, ...]
    ack_wait_s: float
    max_ack_pending: int

    def config(self) -> dict[str, Any]:
        """The body of its creation."""
        return {
            "name": self.name,
            "durable_name": self.name,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": int(self.ack_wait_s * _NS),
            "max_deliver": -1,
            "max_ack_pending": self.max_ack_pending,
            "replay_policy": "instant",
            **_filter_config(self.filters),
        }


def stream_specs(deployment: str) -> tuple[StreamSpec, ...]:
    """The six streams of a deployment."""
    names = Names(deployment)
    return (
        _commands(names),
        _events(names),
        _output(names),
        _timers(names),
        _checkpoints(names),
        _blobs(names),
    )


def _commands(names: Names) -> StreamSpec:
    return StreamSpec(
        names.commands,
        {
            "subjects": [names.execute("*", "*"), names.cancel("*"), names.resume("*", "*", "*")],
            "retention": "limits",
            "discard": "new",
            "discard_new_per_subject": True,
            "max_msgs_per_subject": 1,
            "duplicate_window": _NS // 10,
            "deny_delete": True,
            "deny_purge": True,
            "allow_direct": True,
        },
    )


def _events(names: Names) -> StreamSpec:
    agent_subjects = [
        names.agent_event("*"),
        f"{names.deployment}.evt.state.*",
        f"{names.deployment}.evt.state.*.*",
    ]
    return StreamSpec(
        names.events,
        {
            "subjects": [
                *(names.event(class_, "*", "*") for class_ in EVENT_CLASSES),
                *agent_subjects,
                f"{names.deployment}.evt.audit.head",
            ],
            "retention": "limits",
            "discard": "new",
            "deny_delete": True,
            "deny_purge": True,
            "allow_direct": True,
            "allow_atomic": True,
            "compression": "s2",
            "republish": {"src": names.all_events, "dest": names.live(names.all_events)},
        },
    )


def _output(names: Names) -> StreamSpec:
    everything = f"{names.deployment}.out.>"
    return StreamSpec(
        names.output,
        {
            "subjects": [names.out("*", "*")],
            "retention": "limits",
            "discard": "old",
            "max_age": _DAY_S * _NS,
            "republish": {"src": everything, "dest": names.live(everything)},
        },
        {"allow_direct": True, "compression": "s2"},
    )


def _timers(names: Names) -> StreamSpec:
    return StreamSpec(
        names.timers,
        {
            "subjects": [names.timer("*", "*"), names.due("*", "*", "*"), names.cron_due("*")],
            "allow_msg_schedules": True,
        },
        {"allow_direct": True},
    )


def _checkpoints(names: Names) -> StreamSpec:
    return StreamSpec(
        names.checkpoints,
        {"subjects": [f"{names.deployment}.ckpt.>"], "max_msgs_per_subject": 1},
        # Names are only links between messages that follow each other (`batches.append_linked`).
        {"allow_direct": True, "allow_atomic": True, "compression": "s2", "duplicate_window": _NS // 10},
    )


def _blobs(names: Names) -> StreamSpec:
    """As NATS' own object stores are, so that `nats object` reads it."""
    bucket = f"$O.{names.blob_bucket}"
    return StreamSpec(
        names.blobs,
        {"subjects": [f"{bucket}.C.>", f"{bucket}.M.>"], "discard": "new", "allow_rollup_hdrs": True},
        {"allow_direct": True, "compression": "s2"},
    )


def agent_consumer(deployment: str, agent: str, lease_s: float, max_ack_pending: int = 1000) -> ConsumerSpec:
    """What the runners of an agent share; ``max_ack_pending`` is the fleet's concurrency."""
    names = Names(deployment)
    filters = (names.execute(agent, "*"), names.resume(agent, "*", "*"))
    return ConsumerSpec(names.commands, f"agent-{agent}", filters, lease_s, max_ack_pending)


def cancel_consumer(deployment: str, lease_s: float) -> ConsumerSpec:
    """What makes cancels final; shared by all runners."""
    names = Names(deployment)
    return ConsumerSpec(names.commands, "cancel", (names.cancel("*"),), lease_s, -1)


def wake_consumer(deployment: str, agent: str, lease_s: float, max_ack_pending: int = 1000) -> ConsumerSpec:
    """The fired schedules of an agent's tasks."""
    names = Names(deployment)
    return ConsumerSpec(
        names.timers, f"wake-{agent}", (names.due(agent, "*", "*"),), lease_s, max_ack_pending
    )


def cron_consumer(deployment: str, lease_s: float) -> ConsumerSpec:
    """The fired cron schedules."""
    names = Names(deployment)
    return ConsumerSpec(names.timers, "cron", (names.cron_due("*"),), lease_s, 1000)


async def ensure_streams(
    js: JetStream, deployment: str, replicas: int = 1, *, only: str = ""
) -> dict[str, StreamInfo]:
    """Create what is missing and check what is there: one round trip when all exist; ``only`` one stream, if named.

    Returns:
        Each stream's info, by its name.

    Raises:
        TopologyMismatchError: one exists with other settings; nothing was changed.
        ServerFeatureError: the server is too old, or has no JetStream.
    """
    check_server(js.connection.server_version)
    specs = [spec for spec in stream_specs(deployment) if only in {"", spec.name}]
    try:
        infos = await asyncio.gather(
            *(_while_electing(partial(_ensure_stream, js, spec, replicas)) for spec in specs)
        )
    except StreamUnavailableError as error:
        raise ServerFeatureError(
            f"JetStream does not answer at {js.connection.url}: switch it on (`nats-server -js`), or wait for its leader"
        ) from error
    return {spec.name: info for spec, info in zip(specs, infos, strict=True)}


async def _while_electing(call: Callable[[], Awaitable[T]]) -> T:
    """Ask anew while nobody answers: a stream that elects its leader is silent. Only for what may be repeated."""
    return await patiently(call, errors=(ConnectionLostError,), give_up_s=_PATIENCE_S)


async def _ensure_stream(js: JetStream, spec: StreamSpec, replicas: int) -> StreamInfo:
    try:
        info = await js.stream_info(spec.name, timeout_s=_INFO_TIMEOUT_S)
    except NotFoundError:
        info = await _create_stream(js, spec, replicas)
    found = differences(spec.compared, info.config)
    if found:
        raise TopologyMismatchError(f"stream {spec.name}", found)
    return info


async def _create_stream(js: JetStream, spec: StreamSpec, replicas: int) -> StreamInfo:
    try:
        info = await js.create_stream(spec.config(replicas), timeout_s=_CREATE_TIMEOUT_S)
    except RefusedError as error:
        if error.err_code != _STREAM_EXISTS:
            raise
        return await js.stream_info(spec.name, timeout_s=_CREATE_TIMEOUT_S)  # Somebody else was first.
    logger.info("created stream %s with %d replicas", spec.name, replicas)
    return info


async def ensure_consumer(js: JetStream, spec: ConsumerSpec) -> ConsumerInfo:
    """Create a consumer, or adopt the one of its name as it is: what counts is the returned ``config``.

    A runner renews at a third of the server's ``ack_wait`` (nanoseconds there; see `ack_wait_s`).

    Raises:
        TopologyMismatchError: one of the name exists with other filters: it would bring other messages.
        NotFoundError: there is no such stream.
    """
    config = spec.config()
    try:
        return await _while_electing(lambda: js.create_consumer(spec.stream, config))
    except RefusedError as error:
        if error.err_code != _CONSUMER_EXISTS:
            raise
    info = await _while_electing(lambda: js.consumer_info(spec.stream, spec.name))
    if _filters(info.config) != set(spec.filters):
        wrong = [f"filters are {sorted(_filters(info.config))}, not {sorted(spec.filters)}"]
        raise TopologyMismatchError(f"consumer {spec.name} of {spec.stream}", wrong)
    found = differences(config, info.config)
    logger.warning("consumer %s of %s keeps its own settings: %s", spec.name, spec.stream, "; ".join(found))
    return info


def ack_wait_s(info: ConsumerInfo) -> float:
    """The server's lease of a consumer, in seconds."""
    return float(info.config.get("ack_wait", 0)) / _NS


def check_server(version: str) -> None:
    """Refuse a server that lacks what the protocol needs.

    Raises:
        ServerFeatureError: it is older than 2.12.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < _SERVER_VERSION_MIN:
        raise ServerFeatureError(
            f"nats-server {version or 'of unknown version'} is too old: 2.12 or newer is needed"
        )


def differences(wanted: dict[str, Any], actual: dict[str, Any]) -> list[str]:
    """What is not as wanted, in words; fields that ``wanted`` does not name do not count."""
    found = []
    for name, value in wanted.items():
        present = actual.get(name, _absent(value))
        if isinstance(value, dict) and isinstance(present, dict):
            found += [f"{name}.{line}" for line in differences(value, present)]
        elif _comparable(present) != _comparable(value):
            found.append(f"{name} is {present!r}, not {value!r}")
    return found


def _absent(value: Any) -> Any:
    """What the server's leaving a field out means: the zero of its type."""
    return type(value)() if value is not None else None


def _comparable(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value


def _filter_config(filters: tuple[str, ...]) -> dict[str, Any]:
    return {"filter_subject": filters[0]} if len(filters) == 1 else {"filter_subjects": list(filters)}


def _filters(config: dict[str, Any]) -> set[str]:
    return set(config.get("filter_subjects") or [config.get("filter_subject", "")])
