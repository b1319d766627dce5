"""The metrics of a runner, a projector and a client, by prometheus-client. With `endpoint`, the one door to it.

Names follow Prometheus: a unit last, `_total` for what only grows. Labels are bounded: an agent beyond the first
`AGENTS_MAX` of a process is ``other``, and nothing is ever labelled by a task. Counters are told as it happens
(`tallies`); gauges are asked for when somebody looks (`gauges`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import prometheus_client

from cas_events.domain import events
from cas_events.observe.meter import Meter
from cas_events.observe.tallies import Count, Spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

AGENTS_MAX = 100
OTHER = "other"

CLIENT_SUBMITTED = "cas_client_tasks_submitted"
CLIENT_SUBMITTED_SAYS = "Execute commands that this process stored."

WAIT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
RUN_BUCKETS_S = (*WAIT_BUCKETS_S, 3600, 14400)
LAG_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)


class AgentLabels:
    """The agents of a process that have a label of their own: the first `AGENTS_MAX` that are heard of."""

    def __init__(self, agents_max: int = AGENTS_MAX) -> None:
        self._agents_max = agents_max
        self._known: set[str] = set()

    def __getitem__(self, agent_id: str) -> str:
        if agent_id in self._known:
            return agent_id
        if len(self._known) >= self._agents_max:
            return OTHER
        self._known.add(agent_id)
        return agent_id


def new_registry() -> CollectorRegistry:
    """A registry with what every process tells of itself: CPU, memory, file descriptors, collections."""
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=registry)
    prometheus_client.GCCollector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry) -> Callable[..., Any]:
    """The WSGI application that writes a registry's metrics."""
    return prometheus_client.make_wsgi_app(registry)


class LoopMeter(Meter):
    """How late the event loop runs: of every process that has a port."""

    def __init__(self, registry: CollectorRegistry) -> None:
        says = "How much later than asked the event loop ran."
        self._lag = Spread(registry, "cas_event_loop_lag_seconds", says, LAG_BUCKETS_S)

    def lagged(self, seconds: float) -> None:
        """See `Meter`."""
        self._lag.add((), seconds)


class RunnerMeter(LoopMeter):
    """The counters and histograms of a runner.

    Args:
        registry: where they are registered.
        agents: whose labels are bounded.
    """

    def __init__(self, registry: CollectorRegistry, agents: AgentLabels) -> None:
        super().__init__(registry)
        self._agents = agents

        def count(name: str, says: str, *labels: str) -> Count:
            return Count(registry, name, says, ("agent", *labels))

        self._submitted = count(CLIENT_SUBMITTED, CLIENT_SUBMITTED_SAYS)
        self._started = count("cas_tasks_started", "Tasks that started for the first time.")
        self._attempts = count("cas_attempts_started", "Attempts started, the first ones and all later ones.")
        self._finished = count("cas_tasks_finished", "Tasks ended, by terminal status.", "status")
        self._retried = count(
            "cas_tasks_retried", "Attempts given up for another one: error, handover or crash.", "reason"
        )
        self._interrupted = count("cas_tasks_interrupted", "Times that a task began to wait for an answer.")
        self._redelivered = count(
            "cas_redeliveries", "Deliveries that were not the first of their message.", "kind"
        )
        self._refused = count(
            "cas_fenced_writes", "Lifecycle events that the log refused: another writer was first.", "event"
        )
        self._fenced = count("cas_leases_lost", "Leases given up because the task was no longer ours.")
        says = "From when a task could start to its start."
        self._wait = Spread(registry, "cas_task_queue_wait_seconds", says, WAIT_BUCKETS_S, ("agent",))
        says = "From an attempt's start to its end."
        labels = ("agent", "outcome")
        self._run = Spread(registry, "cas_attempt_duration_seconds", says, RUN_BUCKETS_S, labels)

    def submitted(self, agent_id: str) -> None:
        """See `Meter`."""
        self._submitted.add((self._agents[agent_id],))

    def claimed(self, agent_id: str, *, waited_s: float | None, after_crash: bool) -> None:
        """See `Meter`."""
        if waited_s is not None:
            self._wait.add((self._agents[agent_id],), max(waited_s, 0.0))  # The clocks of two machines.
        if after_crash:
            self._retried.add((self._agents[agent_id], "crash"))

    def appended(self, agent_id: str, type_: str, attempt: int, *, is_handover: bool = False) -> None:
        """See `Meter`."""
        agent = self._agents[agent_id]
        if type_ == events.STARTED:
            self._attempts.add((agent,))
            if attempt == 1:
                self._started.add((agent,))
        elif type_ in events.TERMINAL_TYPES:
            self._finished.add((agent, events.STATUS_OF_TYPE[type_]))
        elif type_ == events.RETRYING:
            self._retried.add((agent, "handover" if is_handover else "error"))
        elif type_ == events.INTERRUPTED:
            self._interrupted.add((agent,))

    def refused(self, agent_id: str, type_: str) -> None:
        """See `Meter`."""
        self._refused.add((self._agents[agent_id], type_.rpartition(".")[2]))

    def fenced(self, agent_id: str) -> None:
        """See `Meter`."""
        self._fenced.add((self._agents[agent_id],))

    def ran(self, agent_id: str, type_: str, seconds: float) -> None:
        """See `Meter`."""
        self._run.add((self._agents[agent_id], events.STATUS_OF_TYPE.get(type_, OTHER)), seconds)

    def redelivered(self, agent_id: str, kind: str) -> None:
        """See `Meter`."""
        self._redelivered.add((self._agents[agent_id], kind))


class ProjectorMeter(LoopMeter):
    """What a projector counts: the tasks of the whole deployment, as their commands come by.

    Args:
        registry: where it is registered.
        agents: whose labels are bounded; anybody can name one in a command.
    """

    def __init__(self, registry: CollectorRegistry, agents: AgentLabels) -> None:
        super().__init__(registry)
        says = "Execute commands in the log, as the live tables take them in."
        self._submitted = Count(registry, "cas_tasks_submitted", says, ("agent",))
        self._agents = agents

    def submitted(self, agent_id: str) -> None:
        """See `Meter`."""
        self._submitted.add((self._agents[agent_id],))


class _ClientMeter(Meter):
    """Counts what clients submit."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._submitted = Count(registry, CLIENT_SUBMITTED, CLIENT_SUBMITTED_SAYS, ("agent",))
        self._agents = AgentLabels()

    def submitted(self, agent_id: str) -> None:
        """See `Meter`."""
        self._submitted.add((self._agents[agent_id],))


_client_meters: dict[int, tuple[CollectorRegistry, Meter]] = {}


def client_meter(registry: CollectorRegistry | None) -> Meter:
    """The meter of this process's clients; a registry has one, however often it is asked for."""
    wanted = prometheus_client.REGISTRY if registry is None else registry
    if id(wanted) not in _client_meters:
        _client_meters[id(wanted)] = (wanted, _ClientMeter(wanted))
    return _client_meters[id(wanted)][1]
