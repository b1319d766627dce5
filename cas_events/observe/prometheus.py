"""The metrics of a runner, a projector and a client, by prometheus-client. With `endpoint`, the one door to it.

Names follow Prometheus: a unit last, `_total` for what only grows. Labels are bounded: an agent beyond the first
`AGENTS_MAX` of a process is ``other``, and nothing is ever labelled by a task. Counters are told as it happens; gauges
are asked for when somebody looks (`gauges`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cas_events.domain import events
from cas_events.errors import ObserveExtraMissingError
from cas_events.observe.meter import Meter

try:
    import prometheus_client
    from prometheus_client import Counter, Histogram
except ImportError as missing:
    raise ObserveExtraMissingError("metrics", "prometheus-client") from missing

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


class _Family:
    """The children of one metric by label values; finding one costs two lookups instead of prometheus-client's lock."""

    __slots__ = ("_agents", "_children", "_metric")

    def __init__(self, metric: Any, agents: AgentLabels) -> None:
        self._metric = metric
        self._agents = agents
        self._children: dict[tuple[str, ...], Any] = {}

    def __call__(self, agent_id: str, *labels: str) -> Any:
        key = (self._agents[agent_id], *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._metric.labels(*key)
        return child


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
        self._lag = Histogram(
            "cas_event_loop_lag_seconds",
            "How much later than asked the event loop ran.",
            registry=registry,
            buckets=LAG_BUCKETS_S,
        )

    def lagged(self, seconds: float) -> None:
        """See `Meter`."""
        self._lag.observe(seconds)


class RunnerMeter(LoopMeter):
    """The counters and histograms of a runner.

    Args:
        registry: where they are registered.
        agents: whose labels are bounded.
    """

    def __init__(self, registry: CollectorRegistry, agents: AgentLabels) -> None:
        super().__init__(registry)

        def counter(name: str, says: str, *labels: str) -> _Family:
            return _Family(Counter(name, says, ("agent", *labels), registry=registry), agents)

        def histogram(name: str, says: str, buckets: tuple[float, ...], *labels: str) -> _Family:
            metric = Histogram(name, says, ("agent", *labels), registry=registry, buckets=buckets)
            return _Family(metric, agents)

        self._submitted = counter(CLIENT_SUBMITTED, CLIENT_SUBMITTED_SAYS)
        self._started = counter("cas_tasks_started", "Tasks that started for the first time.")
        self._attempts = counter(
            "cas_attempts_started", "Attempts started, the first ones and all later ones."
        )
        self._finished = counter("cas_tasks_finished", "Tasks ended, by terminal status.", "status")
        self._retried = counter(
            "cas_tasks_retried", "Attempts given up for another one: error, handover or crash.", "reason"
        )
        self._interrupted = counter("cas_tasks_interrupted", "Times that a task began to wait for an answer.")
        self._redelivered = counter(
            "cas_redeliveries", "Deliveries that were not the first of their message.", "kind"
        )
        self._refused = counter(
            "cas_fenced_writes", "Lifecycle events that the log refused: another writer was first.", "event"
        )
        self._fenced = counter("cas_leases_lost", "Leases given up because the task was no longer ours.")
        self._wait = histogram(
            "cas_task_queue_wait_seconds", "From when a task could start to its start.", WAIT_BUCKETS_S
        )
        self._run = histogram(
            "cas_attempt_duration_seconds", "From an attempt's start to its end.", RUN_BUCKETS_S, "outcome"
        )

    def submitted(self, agent_id: str) -> None:
        """See `Meter`."""
        self._submitted(agent_id).inc()

    def claimed(self, agent_id: str, *, waited_s: float | None, after_crash: bool) -> None:
        """See `Meter`."""
        if waited_s is not None:
            self._wait(agent_id).observe(max(waited_s, 0.0))  # The clocks of two machines.
        if after_crash:
            self._retried(agent_id, "crash").inc()

    def appended(self, agent_id: str, type_: str, attempt: int, *, is_handover: bool = False) -> None:
        """See `Meter`."""
        if type_ == events.STARTED:
            self._attempts(agent_id).inc()
            if attempt == 1:
                self._started(agent_id).inc()
        elif type_ in events.TERMINAL_TYPES:
            self._finished(agent_id, events.STATUS_OF_TYPE[type_]).inc()
        elif type_ == events.RETRYING:
            self._retried(agent_id, "handover" if is_handover else "error").inc()
        elif type_ == events.INTERRUPTED:
            self._interrupted(agent_id).inc()

    def refused(self, agent_id: str, type_: str) -> None:
        """See `Meter`."""
        self._refused(agent_id, type_.rpartition(".")[2]).inc()

    def fenced(self, agent_id: str) -> None:
        """See `Meter`."""
        self._fenced(agent_id).inc()

    def ran(self, agent_id: str, type_: str, seconds: float) -> None:
        """See `Meter`."""
        self._run(agent_id, events.STATUS_OF_TYPE.get(type_, OTHER)).observe(seconds)

    def redelivered(self, agent_id: str, kind: str) -> None:
        """See `Meter`."""
        self._redelivered(agent_id, kind).inc()


class ProjectorMeter(LoopMeter):
    """What a projector counts: the tasks of the whole deployment, as their commands come by.

    Args:
        registry: where it is registered.
        agents: whose labels are bounded; anybody can name one in a command.
    """

    def __init__(self, registry: CollectorRegistry, agents: AgentLabels) -> None:
        super().__init__(registry)
        says = "Execute commands in the log, as the live tables take them in."
        metric = Counter("cas_tasks_submitted", says, ("agent",), registry=registry)
        self._submitted = _Family(metric, agents)

    def submitted(self, agent_id: str) -> None:
        """See `Meter`."""
        self._submitted(agent_id).inc()


class _ClientMeter(Meter):
    """Counts what clients submit."""

    def __init__(self, registry: CollectorRegistry) -> None:
        metric = Counter(CLIENT_SUBMITTED, CLIENT_SUBMITTED_SAYS, ("agent",), registry=registry)
        self._submitted = _Family(metric, AgentLabels())

    def submitted(self, agent_id: str) -> None:
        """See `Meter`."""
        self._submitted(agent_id).inc()


_client_meters: dict[int, tuple[CollectorRegistry, Meter]] = {}


def client_meter(registry: CollectorRegistry | None) -> Meter:
    """The meter of this process's clients; a registry has one, however often it is asked for."""
    wanted = prometheus_client.REGISTRY if registry is None else registry
    if id(wanted) not in _client_meters:
        _client_meters[id(wanted)] = (wanted, _ClientMeter(wanted))
    return _client_meters[id(wanted)][1]
