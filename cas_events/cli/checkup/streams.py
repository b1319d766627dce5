"""The streams: settings against PROTOCOL section 1, retention, replicas, room, what the log has lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cas_events.cli.checkup.check import Check, size, span
from cas_events.cli.checkup.server import storage_check
from cas_events.jetstream.diagnosis import Diagnosis, StreamReport
from cas_events.jetstream.topology import StreamSpec, differences, stream_specs
from cas_events.wire.subjects import Names

AREA = "streams"
_NS = 1e9
_UNLIMITED = -1


def stream_checks(found: Diagnosis) -> Iterator[Check]:
    """Everything about the streams; nothing without JetStream."""
    if found.account is None:
        return
    specs = stream_specs(found.deployment)
    if not found.streams:
        yield Check(
            area=AREA,
            name="streams",
            level="warning",
            said=f"deployment {found.deployment} has none yet",
            advice="the first runner, projector or client that runs creates them; `cas up` starts all",
        )
        return
    for spec in specs:
        yield _settings(spec, found.streams.get(spec.name), found.names)
    yield from _retention(found)
    yield from _losses(found)
    yield _replicas(found)
    for report in found.streams.values():
        yield from _peers(report)
        yield from _room(report)


def _promises_of(stream: str, names: Names) -> tuple[int, ...]:
    """The promises that rest on a stream's settings."""
    return {
        names.commands: (1, 5),
        names.events: (1, 2, 3, 6, 7),
        names.output: (6,),
        names.timers: (1,),
        names.checkpoints: (3, 4),
        names.blobs: (1, 8),
    }[stream]


# --- settings


def _settings(spec: StreamSpec, report: StreamReport | None, names: Names) -> Check:
    if report is None:
        return Check(
            area=AREA,
            name=spec.name,
            level="problem",
            said="is missing, while other streams of the deployment are there",
            advice="if it was not deleted on purpose, restore it; a runner that starts creates an empty one",
            breaks=_promises_of(spec.name, names),
        )
    found = differences(spec.compared, report.config) + dangers(report.config, names)
    if not found:
        state = report.state
        return Check(
            area=AREA,
            name=spec.name,
            level="ok",
            said=f"as PROTOCOL has it; {state.messages} messages, {size(state.bytes)}",
        )
    return Check(
        area=AREA,
        name=spec.name,
        level="problem",
        said="; ".join(found),
        advice="runners refuse to start on it; change it back with `nats stream edit`, or use another deployment",
        breaks=_promises_of(spec.name, names),
    )


def dangers(config: dict[str, Any], names: Names) -> list[str]:
    """Settings that PROTOCOL does not name, with a value that breaks it."""
    found = []
    if config.get("storage", "file") != "file":
        found.append("it is kept in memory: a restart of the server loses it")
    if config.get("persist_mode") == "async":
        found.append("persist_mode is async: the server acknowledges what it has not written")
    if config.get("sealed"):
        found.append("it is sealed: nothing can be appended")
    size_limit = int(config.get("max_msg_size", _UNLIMITED))
    if 0 <= size_limit < 1024 * 1024:
        found.append(f"max_msg_size is {size_limit}, less than an event may have")
    if config.get("name") == names.events and int(config.get("max_msgs_per_subject", _UNLIMITED)) > 0:
        found.append("max_msgs_per_subject is set: the log forgets a task's older events")
    if config.get("name") in {names.commands, names.events} and (
        config.get("sources") or config.get("mirror")
    ):
        found.append("it takes messages from another stream")
    return found


# --- retention (PROTOCOL section 1)


def _age_s(found: Diagnosis, stream: str) -> float:
    """How long a stream keeps a message, in seconds; 0 for ever."""
    report = found.streams.get(stream)
    return 0.0 if report is None else report.config.get("max_age", 0) / _NS


def longest_task_s(found: Diagnosis) -> float | None:
    """All tries of the slowest registered agent, in seconds; None when one has no limit."""
    longest_s = 0.0
    for limits in found.limits.values():
        timeout_s = limits.get("timeout_s")
        if not isinstance(timeout_s, int | float):
            return None
        longest_s = max(longest_s, timeout_s * int(limits.get("max_attempts") or 1))
    return longest_s


def _retention(found: Diagnosis) -> Iterator[Check]:
    names = found.names
    commands_s, events_s = _age_s(found, names.commands), _age_s(found, names.events)
    if not commands_s and not events_s:
        said = "commands and events are kept for ever"
        yield Check(area=AREA, name="retention", level="ok", said=said)
    if commands_s:
        yield _finite_commands(commands_s)
    if events_s:
        yield _finite_events(commands_s, events_s, longest_task_s(found))
    for stream in (names.blobs, names.timers, names.checkpoints):
        kept_s = _age_s(found, stream)
        if kept_s and (not events_s or kept_s < events_s):
            yield Check(
                area=AREA,
                name=f"retention of {stream}",
                level="problem",
                said=f"kept for {span(kept_s)} only, while the log still refers to it",
                advice="set its max_age to 0",
                breaks=_promises_of(stream, names),
            )


def _finite_commands(commands_s: float) -> Check:
    return Check(
        area=AREA,
        name="retention of commands",
        level="warning",
        said=f"a command is kept for {span(commands_s)}: whatever waits longer is lost with it",
        advice="commands must outlive the longest wait: queue, retry delay, interrupt, schedule",
        conditions={
            1: f"what waits longer than {span(commands_s)} is lost",
            5: f"a cancel that waits longer than {span(commands_s)} for a runner is lost",
        },
    )


def _finite_events(commands_s: float, events_s: float, task_s: float | None) -> Check:
    """Events must outlive the commands plus the longest task."""
    need_s = commands_s + (task_s or 0.0)
    name = "retention of events"
    if not commands_s or events_s < need_s:
        kept = f"commands for {span(commands_s)}" if commands_s else "commands for ever"
        return Check(
            area=AREA,
            name=name,
            level="problem",
            said=f"events are kept for {span(events_s)}, {kept}: a task could outlive what is known of it",
            advice="events must outlive the commands plus the longest task; raise max_age of the events, or set it to 0",
            breaks=(1, 2, 6, 7),
        )
    kept = f"events are kept for {span(events_s)}, commands for {span(commands_s)}"
    conditions = {
        6: f"events older than {span(events_s)} are gone; a follower is told which",
        7: "a rebuild has only what is left",
    }
    if task_s is None:
        conditions[1] = f"a task of more than {span(events_s - commands_s)} outlives what is known of it"
        advice = "give every agent a timeout_s, or keep events for ever"
        return Check(
            area=AREA,
            name=name,
            level="warning",
            said=f"{kept}; an agent has no time limit",
            advice=advice,
            conditions=conditions,
        )
    return Check(area=AREA, name=name, level="note", said=kept, conditions=conditions)


def _losses(found: Diagnosis) -> Iterator[Check]:
    for stream in (found.names.commands, found.names.events):
        report = found.streams.get(stream)
        if report is None:
            continue
        state = report.state
        if state.messages and state.first_seq > 1:
            yield Check(
                area=AREA,
                name=f"beginning of {stream}",
                level="warning",
                said=f"gone up to sequence {state.first_seq - 1}",
                advice="older tasks that never started are rejected as expired; a rebuild begins there",
                conditions={
                    6: "older events are gone; followers are told which",
                    7: "a rebuild has only what is left",
                },
            )
        if state.num_deleted:
            yield Check(
                area=AREA,
                name=f"gaps in {stream}",
                level="problem",
                said=f"{state.num_deleted} messages are missing between the first and the last",
                advice="somebody deleted them, or the store was damaged: compare with a backup",
                breaks=(1, 2, 6, 7),
            )


# --- replicas and room


def _replicas(found: Diagnosis) -> Check:
    counts = {name: int(report.config.get("num_replicas", 1)) for name, report in found.streams.items()}
    least, most = min(counts.values()), max(counts.values())
    said = f"{least} of each stream" if least == most else _counted(counts)
    if least >= 3:
        return Check(area=AREA, name="replicas", level="ok", said=said)
    if least == 2 or least != most:
        advice = (
            "use 3, or 1 everywhere: two copies stop when either is lost, and one single stream stops all"
        )
        condition = {1: "the loss of one server stops writes, or takes a stream"}
        return Check(
            area=AREA, name="replicas", level="warning", said=said, advice=advice, conditions=condition
        )
    advice = "a cluster of three and CAS_REPLICAS=3 survive the loss of a machine"
    condition = {1: "the loss of the server's disk is the loss of the log"}
    return Check(area=AREA, name="replicas", level="note", said=said, advice=advice, conditions=condition)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _peers(report: StreamReport) -> Iterator[Check]:
    if report.cluster is None or int(report.config.get("num_replicas", 1)) == 1:
        return
    name = f"peers of {report.config['name']}"
    late = [peer.name for peer in report.cluster.replicas if peer.offline or not peer.current]
    if late or not report.cluster.leader:
        words = f"not up to date: {', '.join(late)}" if late else "it has no leader now"
        yield Check(
            area=AREA,
            name=name,
            level="warning" if _has_majority(report, late) else "problem",
            said=words,
            advice="look at that server; writes stop when more than half are away",
            conditions={1: "the loss of another server stops all writes"},
        )


def _has_majority(report: StreamReport, late: Sequence[str]) -> bool:
    replicas = int(report.config.get("num_replicas", 1))
    return report.cluster is not None and bool(report.cluster.leader) and replicas - len(late) > replicas / 2


def _room(report: StreamReport) -> Iterator[Check]:
    if report.config.get("discard") != "new":
        return  # What discards its oldest is never full.
    for setting, used in (("max_bytes", report.state.bytes), ("max_msgs", report.state.messages)):
        limit = int(report.config.get(setting, _UNLIMITED))
        if limit > 0:
            shown = (size(used), size(limit)) if setting == "max_bytes" else (str(used), str(limit))
            name = f"room in {report.config['name']}"
            yield storage_check(AREA, name, used / limit, f"{setting}: {shown[0]} of {shown[1]} used")
