"""What a server tells a client about itself and about a deployment, for `cas doctor`.

Asks only: nothing is created, changed, published into a stream or claimed. What the server does not tell (its
`sync_interval`, the disk behind its store, ports other than the client's) is not guessed here. Judging is the
caller's.

Source: the JetStream API's answers carry ``ts``, the leader's clock at that moment, which is the clock that stamps
stored messages.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cas_events.domain.events import AGENT_REGISTERED
from cas_events.errors import NotFoundError, ServerError, WireError
from cas_events.jetstream.answers import ConsumerInfo, StreamInfo, time_ns
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection, Message
from cas_events.jetstream.topology import stream_specs
from cas_events.wire.envelope import decode_event
from cas_events.wire.subjects import Names

CLOCK_SAMPLES = 5
ANSWER_S = 1.0  # how long anybody has to answer first
MORE_ANSWERS_S = 0.2  # how long after one answer another may come
SUBJECTS_LISTED_MAX = 20_000  # the listing costs the server a walk over all of them

_encode = msgspec.json.Encoder().encode
_NO_RESPONDERS = 503


class Replica(msgspec.Struct, frozen=True):
    """A follower of a replicated stream: ``lag`` counts operations, ``active`` is nanoseconds since it was heard."""

    name: str = ""
    current: bool = False
    offline: bool = False
    active: int = 0
    lag: int = 0


class Cluster(msgspec.Struct, frozen=True):
    """Who holds a stream; a lone server names only itself, or nothing."""

    name: str = ""
    leader: str = ""
    replicas: list[Replica] = []


class StreamReport(StreamInfo, frozen=True):
    """A stream's info with what `api.StreamInfo` leaves out."""

    cluster: Cluster | None = None
    ts: str = ""


class ConsumerReport(ConsumerInfo, frozen=True):
    """A consumer's info with what `api.ConsumerInfo` leaves out; ``pause_remaining`` in nanoseconds."""

    pause_remaining: int = 0


class _ConsumerPage(msgspec.Struct, frozen=True):
    total: int = 0
    consumers: list[ConsumerReport] = []


class _Subjects(msgspec.Struct, frozen=True):
    subjects: dict[str, int] = {}


class _SubjectsAnswer(msgspec.Struct, frozen=True):
    state: _Subjects


class _RunnerAnswer(msgspec.Struct, frozen=True):
    runner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """How far the server's clock is ahead of ours, in seconds, give or take ``error_s``."""

    ahead_s: float
    error_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was found.

    Attributes:
        url: where the server was reached.
        deployment: the deployment.
        version: of the server, such as ``2.15.1``.
        host: the address that the server listens on; empty if it does not say.
        has_auth: whether it asks clients who they are.
        has_tls: whether it asks for TLS.
        max_payload_bytes: its limit for one message.
        account: usage and limits of the account, raw; None without JetStream.
        jetstream_error: why there is no JetStream; empty if there is.
        streams: those of the deployment that exist, by name.
        consumers: those of the command and timer streams.
        clock: None where no stream tells the time.
        runners: the runners that answer, by the agent that they serve; agents without any are in it, too.
        limits: what each agent's newest registration says of its limits (``timeout_s``, ``max_attempts``).
        agents_with_commands: agents with execute commands in the stream; None where that was too dear to ask.
    """

    url: str
    deployment: str
    version: str
    host: str
    has_auth: bool
    has_tls: bool
    max_payload_bytes: int
    account: dict[str, Any] | None = None
    jetstream_error: str = ""
    streams: dict[str, StreamReport] = field(default_factory=dict)
    consumers: tuple[ConsumerReport, ...] = ()
    clock: Clock | None = None
    runners: dict[str, tuple[str, ...]] = field(default_factory=dict)
    limits: dict[str, dict[str, Any]] = field(default_factory=dict)
    agents_with_commands: frozenset[str] | None = None

    @property
    def names(self) -> Names:
        """The deployment's names."""
        return Names(self.deployment)


async def diagnose(connection: Connection, deployment: str) -> Diagnosis:
    """Ask the server everything; takes a second or two, longer on a server in trouble.

    Raises:
        ServerError: it stopped answering meanwhile, or forbids to ask.
    """
    js, names = JetStream(connection), Names(deployment)
    server = connection.nc._server_info  # noqa: SLF001 - as `Connection.server_version`; there is no other way
    known: dict[str, Any] = {
        "url": connection.url,
        "deployment": deployment,
        "version": connection.server_version,
        "host": str(server.get("host", "")),
        "has_auth": bool(server.get("auth_required")),
        "has_tls": bool(server.get("tls_required")),
        "max_payload_bytes": connection.max_payload_bytes,
    }
    try:
        known["account"] = await js.account_info()
    except ServerError as error:
        return Diagnosis(**known, jetstream_error=str(error))
    streams = await _streams(js, [spec.name for spec in stream_specs(deployment)])
    consumers = await _consumers(js, [name for name in (names.commands, names.timers) if name in streams])
    with_commands = await _agents_with_commands(js, streams.get(names.commands), names)
    limits = await _limits(js, names) if names.events in streams else {}
    agents = {*_agents_of(consumers), *(with_commands or ()), *limits}
    return Diagnosis(
        **known,
        streams=streams,
        consumers=consumers,
        clock=await _clock(js, streams),
        runners=await _runners(connection, names, agents),
        limits=limits,
        agents_with_commands=with_commands,
    )


def agent_of(consumer: str) -> str:
    """The agent of a consumer ``agent-<agent>``; empty for any other."""
    return consumer.removeprefix("agent-") if consumer.startswith("agent-") else ""


def _agents_of(consumers: Iterable[ConsumerReport]) -> set[str]:
    return {agent_of(consumer.name) for consumer in consumers} - {""}


# --- streams and consumers


async def _streams(js: JetStream, wanted: Sequence[str]) -> dict[str, StreamReport]:
    reports = await asyncio.gather(*(_stream(js, name) for name in wanted))
    return {name: report for name, report in zip(wanted, reports, strict=True) if report is not None}


async def _stream(js: JetStream, name: str) -> StreamReport | None:
    try:
        return msgspec.json.decode(await js.call(f"STREAM.INFO.{name}"), type=StreamReport)
    except NotFoundError:
        return None


async def _consumers(js: JetStream, streams: Sequence[str]) -> tuple[ConsumerReport, ...]:
    found: list[ConsumerReport] = []
    for stream in streams:
        offset, total = 0, 1
        while offset < total:
            answer = await js.call(f"CONSUMER.LIST.{stream}", {"offset": offset})
            page = msgspec.json.decode(answer, type=_ConsumerPage)
            if not page.consumers:
                break
            found += page.consumers
            offset, total = offset + len(page.consumers), page.total
    return tuple(found)


async def _agents_with_commands(
    js: JetStream, commands: StreamReport | None, names: Names
) -> frozenset[str] | None:
    if commands is None:
        return frozenset()
    if commands.state.num_subjects > SUBJECTS_LISTED_MAX:
        return None
    query = {"subjects_filter": names.execute("*", "*")}
    answer = msgspec.json.decode(await js.call(f"STREAM.INFO.{names.commands}", query), type=_SubjectsAnswer)
    parsed = (names.parse_command(subject) for subject in answer.state.subjects)
    return frozenset(subject.agent for subject in parsed if subject is not None)


async def _limits(js: JetStream, names: Names) -> dict[str, dict[str, Any]]:
    """The limits of every agent whose own subject ends with a registration."""
    found: dict[str, dict[str, Any]] = {}
    for message in await js.direct_last(names.events, [names.agent_event("*")]):
        try:
            event = decode_event(message.data, seq=message.seq, stream=message.stream)
        except WireError:
            continue
        limits = event.data.get("limits")
        if event.type == AGENT_REGISTERED and isinstance(limits, dict):
            found[event.agent_id] = limits
    return found


# --- clocks


async def _clock(js: JetStream, streams: Iterable[str]) -> Clock | None:
    """The server's clock against ours: of several questions, the one that was answered fastest."""
    stream = next(iter(streams), None)
    if stream is None:
        return None
    best: Clock | None = None
    for _ in range(CLOCK_SAMPLES):
        asked_ns = time.time_ns()
        answer = await js.call(f"STREAM.INFO.{stream}")
        answered_ns = time.time_ns()
        server_ns = time_ns(msgspec.json.decode(answer, type=StreamReport).ts)
        error_s = (answered_ns - asked_ns) / 2e9
        if best is None or error_s < best.error_s:
            best = Clock(ahead_s=(server_ns - (asked_ns + answered_ns) / 2) / 1e9, error_s=error_s)
    return best


# --- who answers


async def _runners(connection: Connection, names: Names, agents: Iterable[str]) -> dict[str, tuple[str, ...]]:
    in_order = sorted(agents)
    said = await asyncio.gather(*(_answers(connection, names.agent_service(agent)) for agent in in_order))
    return {agent: tuple(sorted(runners)) for agent, runners in zip(in_order, said, strict=True)}


async def _answers(connection: Connection, subject: str) -> set[str]:
    """The runners that answer a request on a subject that any number of them may listen on."""
    found: set[str] = set()
    news = asyncio.Event()
    nobody = False

    def receive(message: Message) -> None:
        nonlocal nobody
        if message.header and message.status == _NO_RESPONDERS:
            nobody = True
        else:
            found.add(_runner_named(message.data))
        news.set()

    inbox = connection.new_inbox()
    subscription = connection.listen(inbox, receive)
    try:
        connection.publish(subject, reply=inbox)
        while not nobody:
            news.clear()
            await asyncio.wait_for(news.wait(), MORE_ANSWERS_S if found else ANSWER_S)
    except TimeoutError:
        pass  # Nobody else answers: that is how the question ends.
    finally:
        subscription.unsubscribe()
    return found - {""}


def _runner_named(answer: bytes) -> str:
    try:
        return msgspec.json.decode(answer, type=_RunnerAnswer).runner
    except msgspec.DecodeError:
        return ""
