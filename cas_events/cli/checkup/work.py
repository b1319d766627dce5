"""The work: consumers, agents, runners that answer, and how far the projector is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cas_events.cli.checkup.check import Check, Level, span
from cas_events.jetstream.diagnosis import ConsumerReport, Diagnosis, agent_of
from cas_events.jetstream.topology import (
    ConsumerSpec,
    agent_consumer,
    cancel_consumer,
    cron_consumer,
    wake_consumer,
)

AREA = "work"
LAG_WARNING_EVENTS = 10_000  # about a tenth of a second of replay
ACK_WAIT_MIN_S = 1.0
_NS = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What the projector says.

    Attributes:
        positions: last sequence of each stream that the tables hold; None when no projector answers.
        open: tasks that a runner has to do something about, by agent.
        error: why it could not say, when that is not simply that none runs.
    """

    positions: Mapping[str, int] | None = None
    open: Mapping[str, int] = field(default_factory=dict)
    error: str = ""


def work_checks(found: Diagnosis, tables: Tables) -> Iterator[Check]:
    """Everything about the work; nothing before the streams are there."""
    if not found.streams:
        return
    yield _runners(found)
    durable = [consumer for consumer in found.consumers if consumer.config.get("durable_name")]
    for consumer in durable:
        yield _consumer(consumer, found.deployment)
    if any(agent_of(consumer.name) for consumer in durable):
        yield from _missing_cancel(found)
    yield from _unserved(found, tables)
    yield _projector(found, tables)


# --- runners and agents


def _runners(found: Diagnosis) -> Check:
    runners = {runner for answers in found.runners.values() for runner in answers}
    served = sorted(agent for agent, answers in found.runners.items() if answers)
    if not runners:
        return Check(
            area=AREA,
            name="runners",
            level="warning",
            said="none answers: commands are stored and wait",
            advice="start one: `cas worker MODULE:RUNNER`",
            conditions=dict.fromkeys((1, 4, 5), "nothing happens until a runner comes"),
        )
    said = f"{len(runners)} answer{'s' if len(runners) == 1 else ''}, for {', '.join(served)}"
    alone = sorted(agent for agent, answers in found.runners.items() if len(answers) == 1)
    if not alone:
        return Check(area=AREA, name="runners", level="ok", said=said)
    return Check(
        area=AREA,
        name="runners",
        level="note",
        said=said,
        advice="a second one for each agent takes over at once when the first dies",
        conditions={4: f"{_few(alone)}: when its only runner dies, a task waits for another"},
    )


def _unserved(found: Diagnosis, tables: Tables) -> Iterator[Check]:
    for agent, words in sorted(_waiting(found, tables).items()):
        if not found.runners.get(agent):
            yield Check(
                area=AREA,
                name=f"agent {agent}",
                level="problem",
                said=f"no live runner serves it, and {words}",
                advice="start a runner that serves it, or cancel the tasks",
                conditions=dict.fromkeys((1, 4), f"tasks of {agent} wait until a runner comes"),
            )
    if found.agents_with_commands is None and tables.positions is None:
        said = "too many commands to look through for agents that never had a runner"
        advice = "start a projector, which knows"
        yield Check(area=AREA, name="unserved agents", level="note", said=said, advice=advice)


def _waiting(found: Diagnosis, tables: Tables) -> dict[str, str]:
    """The agents with work to do and how much, as the tables know it.

    Without tables that hold every command, consumers and commands give a hint.
    """
    commands = found.streams.get(found.names.commands)
    last_seq = commands.state.last_seq if commands else 0
    if tables.positions is not None and tables.positions.get(found.names.commands, 0) >= last_seq:
        return {agent: f"{count} of its tasks wait" for agent, count in tables.open.items()}
    counts = {agent_of(one.name): one.num_pending + one.num_ack_pending for one in found.consumers}
    never = (found.agents_with_commands or frozenset()) - counts.keys()
    return {
        **{agent: f"{count} of its commands wait" for agent, count in counts.items() if agent and count},
        **dict.fromkeys(never, "it has commands, but never had a runner"),
    }


def _few(agents: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    shown, more = ", ".join(agents[:3]), len(agents) - 3
    return f"{shown} and {more} more" if more > 0 else shown


# --- consumers


def _spec_of(consumer: ConsumerReport, deployment: str) -> ConsumerSpec | None:
    """The consumer as PROTOCOL has it, with its own lease and concurrency; None for one that is not ours."""
    lease_s = consumer.config.get("ack_wait", 0) / _NS
    places = int(consumer.config.get("max_ack_pending", 0))
    kind, _, agent = consumer.name.partition("-")
    if consumer.name == "cancel":
        return cancel_consumer(deployment, lease_s)
    if consumer.name == "cron":
        return cron_consumer(deployment, lease_s)
    if agent and kind == "agent":
        return agent_consumer(deployment, agent, lease_s, places)
    if agent and kind == "wake":
        return wake_consumer(deployment, agent, lease_s, places)
    return None


def _consumer(consumer: ConsumerReport, deployment: str) -> Check:
    spec = _spec_of(consumer, deployment)
    name = f"consumer {consumer.name}"
    if spec is None:
        said = f"of {consumer.stream_name} is somebody else's; {consumer.num_pending} pending"
        return Check(area=AREA, name=name, level="note", said=said)
    wrong = _faults(consumer, spec)
    if wrong:
        return Check(
            area=AREA,
            name=name,
            level="problem",
            said="; ".join(wrong),
            advice="delete it while no runner is up; the next runner makes it again",
            breaks=(1, 5) if consumer.name == "cancel" else (1,),
        )
    return _state(consumer, name, spec)


def _faults(consumer: ConsumerReport, spec: ConsumerSpec) -> list[str]:
    config = consumer.config
    found = []
    if config.get("ack_policy") != "explicit":
        found.append(f"ack_policy is {config.get('ack_policy')}, not explicit")
    if int(config.get("max_deliver", -1)) != -1:
        found.append(f"max_deliver is {config['max_deliver']}: after that a task is forgotten")
    if config.get("deliver_subject"):
        found.append("it pushes: no runner can pull from it")
    if config.get("deliver_policy", "all") != "all":
        found.append(f"deliver_policy is {config['deliver_policy']}: older commands are never delivered")
    filters = set(config.get("filter_subjects") or [config.get("filter_subject", "")])
    if filters != set(spec.filters):
        found.append(f"its filters are {', '.join(sorted(filters))}")
    return found


def _state(consumer: ConsumerReport, name: str, spec: ConsumerSpec) -> Check:
    """Lag, lease, concurrency, pause."""
    lease_s, places = spec.ack_wait_s, spec.max_ack_pending
    said = f"{consumer.num_pending} pending, {consumer.num_ack_pending} in hand, lease {span(lease_s)}"
    promised = 5 if consumer.name == "cancel" else 4
    if consumer.paused:
        left = span(round(consumer.pause_remaining / _NS))
        return Check(
            area=AREA,
            name=name,
            level="warning",
            said=f"{said}; paused for another {left}",
            advice="an open circuit breaker or an operator paused it; it goes on by itself",
            conditions={promised: f"{name} is paused: for {left} nothing is delivered"},
        )
    if places > 0 and consumer.num_ack_pending >= places:
        return Check(
            area=AREA,
            name=name,
            level="warning",
            said=f"{said}; all {places} places of the fleet are taken",
            advice="more tasks wait until one ends; raise max_ack_pending if the runners can take more",
            conditions={5: "cancels wait for a free place"} if consumer.name == "cancel" else {},
        )
    if lease_s < ACK_WAIT_MIN_S:
        advice = (
            "runners renew at a third of it: under load they ask each other needlessly; 2 s is a good least"
        )
        return Check(area=AREA, name=name, level="warning", said=said, advice=advice)
    if consumer.num_pending and not consumer.num_waiting:
        advice = "if that lasts, the runners are full, lag, or none is up"
        return Check(area=AREA, name=name, level="note", said=f"{said}; nobody pulls now", advice=advice)
    return Check(area=AREA, name=name, level="ok", said=said)


def _missing_cancel(found: Diagnosis) -> Iterator[Check]:
    if all(consumer.name != "cancel" for consumer in found.consumers):
        yield Check(
            area=AREA,
            name="consumer cancel",
            level="problem",
            said="is missing: cancels of tasks that nobody runs are not carried out",
            advice="the next runner that starts makes it",
            breaks=(5,),
        )


# --- projector


def _projector(found: Diagnosis, tables: Tables) -> Check:
    if tables.positions is None:
        return Check(
            area=AREA,
            name="projector",
            level="warning",
            said=tables.error or "none answers: the tables stand still",
            advice="" if tables.error else "start one: `cas projector`",
        )
    behind = {
        stream: max(0, found.streams[stream].state.last_seq - tables.positions.get(stream, 0))
        for stream in (found.names.commands, found.names.events)
        if stream in found.streams
    }
    ahead = [
        stream for stream in behind if tables.positions.get(stream, 0) > found.streams[stream].state.last_seq
    ]
    if ahead:
        return Check(
            area=AREA,
            name="projector",
            level="problem",
            said=f"the tables are ahead of {', '.join(ahead)}: the log was restored from an older copy, or made anew",
            advice="rebuild the tables from the log: move the .duckdb file away",
            breaks=(7,),
        )
    most = max(behind.values(), default=0)
    level: Level = "warning" if most > LAG_WARNING_EVENTS else "ok"
    said = f"{behind.get(found.names.commands, 0)} commands and {behind.get(found.names.events, 0)} events behind the log"
    advice = "" if level == "ok" else "look again in a moment: it should get less"
    return Check(area=AREA, name="projector", level=level, said=said, advice=advice)
