"""Metrics and health without a server: bounded labels, addresses, missing extras, the dashboard."""

from __future__ import annotations

import asyncio
import json
import math
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cas_events import observe
from cas_events.cli.stack import Plan
from cas_events.domain import events
from cas_events.errors import InvalidNameError, MetricsAddressError, NotReadyError
from cas_events.observe import clients
from cas_events.observe.bridge import LoopBridge, LoopWatch
from cas_events.observe.consumers import ServerSamples
from cas_events.observe.endpoint import REQUESTS_MAX
from cas_events.observe.exposure import Exposure
from cas_events.observe.gauges import Gauges
from cas_events.observe.health import READY_STALL_S, Health
from cas_events.observe.meter import NO_METER
from cas_events.observe.prometheus import OTHER, AgentLabels, ProjectorMeter, RunnerMeter, new_registry
from cas_events.observe.sampling import BoundedRate
from cas_events.runner.observation import Rows as RunnerRows
from cas_events.settings import LOOPBACK, MetricsAddress, Settings, metrics_environment, trace_exporters
from projections.observation import Rows as ProjectorRows
from tests.harness.cas import Cas
from tests.harness.wait import until, until_async

REPOSITORY = Path(__file__).parents[2]


def samples_of(
    registry: prometheus_client.CollectorRegistry,
) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(prometheus_client.generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_agents_beyond_the_bound_are_others_and_are_added_up() -> None:
    registry = prometheus_client.CollectorRegistry()
    meter = RunnerMeter(registry, AgentLabels(agents_max=2))
    for agent_id in ("a", "b", "c", "d", "a"):
        meter.appended(agent_id, events.COMPLETED, 1)
    counted = {labels["agent"]: value for labels, value in samples_of(registry)["cas_tasks_finished_total"]}
    assert counted == {"a": 2, "b": 1, OTHER: 2}


def test_a_thousand_agents_named_by_strangers_make_no_thousand_series() -> None:
    registry = prometheus_client.CollectorRegistry()
    meter = ProjectorMeter(registry, AgentLabels())
    for number in range(1000):
        meter.submitted(f"agent-{number}")
    series = samples_of(registry)["cas_tasks_submitted_total"]
    assert len(series) == 101
    assert sum(value for _, value in series) == 1000


def test_every_lifecycle_event_is_counted_as_what_it_is() -> None:
    registry = prometheus_client.CollectorRegistry()
    meter = RunnerMeter(registry, AgentLabels())
    meter.appended("a", events.STARTED, 1)
    meter.appended("a", events.RETRYING, 1)
    meter.appended("a", events.STARTED, 2)
    meter.appended("a", events.RETRYING, 2, is_handover=True)
    meter.claimed("a", waited_s=None, after_crash=True)
    meter.claimed("a", waited_s=-0.5, after_crash=False)  # The submitter's clock is ahead.
    meter.appended("a", events.INTERRUPTED, 3)
    meter.appended("a", events.RESUMED, 4)
    meter.refused("a", events.COMPLETED)
    meter.fenced("a")
    meter.redelivered("a", "wake")
    meter.ran("a", events.INTERRUPTED, 1.5)
    samples = samples_of(registry)

    def one(name: str, **labels: str) -> float:
        [value] = [value for known, value in samples[name] if labels.items() <= known.items()]
        return value

    assert one("cas_tasks_started_total") == 1
    assert one("cas_attempts_started_total") == 2
    reasons = {labels["reason"]: value for labels, value in samples["cas_tasks_retried_total"]}
    assert reasons == {"error": 1, "handover": 1, "crash": 1}
    assert one("cas_tasks_interrupted_total") == 1
    assert one("cas_fenced_writes_total", event="completed") == 1
    assert one("cas_leases_lost_total") == 1
    assert one("cas_redeliveries_total", kind="wake") == 1
    assert one("cas_task_queue_wait_seconds_count") == 1
    assert one("cas_task_queue_wait_seconds_sum") == 0
    assert one("cas_attempt_duration_seconds_sum", outcome="interrupted") == 1.5
    assert "cas_tasks_finished_total" not in samples


def test_a_gauge_that_cannot_be_read_hides_no_other() -> None:
    registry = prometheus_client.CollectorRegistry()
    gauges = Gauges(registry)
    gauges.add("cas_broken", "Fails.", (), lambda: [((), 1 / 0)])
    gauges.add("cas_parts", "Adds up.", ("agent",), lambda: [(("a",), 1.0), (("b",), 2.0), (("a",), 3.0)])
    samples = samples_of(registry)
    assert "cas_broken" not in samples
    assert samples["cas_parts"] == [({"agent": "a"}, 4.0), ({"agent": "b"}, 2.0)]


def test_what_clients_submit_is_counted_only_where_asked_for() -> None:
    registry = prometheus_client.CollectorRegistry()
    assert clients.meter() is NO_METER
    observe.enable_metrics(registry)
    try:
        clients.meter().submitted("a")
        observe.enable_metrics(registry)  # A registry takes a name only once.
        clients.meter().submitted("a")
    finally:
        observe.disable_metrics()
    clients.meter().submitted("a")
    assert samples_of(registry)["cas_client_tasks_submitted_total"] == [({"agent": "a"}, 2.0)]


# --- where ---------------------------------------------------------------------------------------------------------------


def test_nothing_is_served_unless_asked_for_and_then_on_loopback() -> None:
    assert Settings.from_env({}).metrics is None
    assert Settings.from_env({"CAS_METRICS_HOST": "0.0.0.0"}).metrics is None
    assert Settings.from_env({"CAS_METRICS_PORT": "9464"}).metrics == MetricsAddress(9464, LOOPBACK)
    named = Settings.from_env({"CAS_METRICS_PORT": "9464", "CAS_METRICS_HOST": "0.0.0.0"}).metrics
    assert named == MetricsAddress(9464, "0.0.0.0")
    assert not named.is_loopback
    assert all(MetricsAddress(1, host).is_loopback for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"))


@pytest.mark.parametrize("port", ["x", "-1", "65536", "1.5", "0.0.0.0:9464"])
def test_a_bad_port_is_named(port: str) -> None:
    with pytest.raises(MetricsAddressError, match=re.escape(port)):
        Settings.from_env({"CAS_METRICS_PORT": port})


async def test_an_address_in_use_is_an_error_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = MetricsAddress(taken.getsockname()[1])
        with pytest.raises(MetricsAddressError, match=f"{address}: .*choose another --metrics-port"):
            await Exposure(address, stall_s=1, counts=RunnerMeter).__aenter__()


async def test_who_only_connects_takes_a_bounded_number_of_threads() -> None:
    def answering() -> int:
        return sum("process_request_thread" in thread.name for thread in threading.enumerate())

    before = answering()
    async with Exposure(MetricsAddress(0), stall_s=1e6, counts=RunnerMeter) as exposure:
        parts = urlsplit(exposure.url)
        address = (parts.hostname or "", parts.port or 0)
        idle = [socket.create_connection(address, timeout=30) for _ in range(REQUESTS_MAX + 8)]
        # Beyond the bound a connection is closed; those below it are closed when their time is up.
        assert await asyncio.to_thread(idle[-1].recv, 1) == b""
        assert answering() - before <= REQUESTS_MAX
        for connection in idle:
            connection.close()

        def alive() -> int:
            try:
                with urllib.request.urlopen(f"{exposure.url}/healthz", timeout=30) as answer:
                    status: int = answer.status
                    return status
            except OSError:
                return 0

        async def served() -> bool:
            return await asyncio.to_thread(alive) == 200

        await until_async(served)


def test_options_of_worker_and_projector_say_where(tmp_path: Path) -> None:
    cas = Cas({"CAS_HOME": str(tmp_path)})
    for command in ("worker", "projector", "up"):
        assert "--metrics-port" in cas(command, "--help").out
    refused = cas("worker", "x:y", "--metrics-port", "70000")
    assert (refused.code, "--metrics-port" in refused.err) == (2, True)


# --- without the extra ---------------------------------------------------------------------------------------------------


WITHOUT_THE_EXTRA = """
import asyncio, sys
sys.modules["prometheus_client"] = sys.modules["opentelemetry.sdk"] = None
from cas_events import Client, Runner, observe
from cas_events.errors import ObserveExtraMissingError
from cas_events.runner.observation import Observation
async def serve():
    async with Observation(None, stall_s=1) as observation:
        assert observation.url is None
    async with Observation(observe.MetricsAddress(0), stall_s=1): pass
for call in (observe.enable_metrics, observe.enable_tracing, lambda: asyncio.run(serve())):
    try:
        call()
    except ObserveExtraMissingError as error:
        print(error)
"""


def test_without_the_extra_the_error_names_it() -> None:
    command = [sys.executable, "-c", WITHOUT_THE_EXTRA]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = done.stdout.splitlines()
    assert [line.partition(" ")[0] for line in said] == ["metrics", "traces", "metrics"]
    assert all("pip install cas-events[observability]" in line for line in said)


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    code = (
        "import sys; from cas_events import Client, Runner, observe; import projections.process; "
        "print([m for m in ('prometheus_client', 'opentelemetry.sdk', 'requests') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"


def test_an_unknown_trace_exporter_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert trace_exporters() == []
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "")
    assert trace_exporters() == ["otlp"]
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console, pigeon")
    with pytest.raises(InvalidNameError, match="pigeon"):
        trace_exporters()


# --- health --------------------------------------------------------------------------------------------------------------


class Patient:
    """Health of a loop that this test runs."""

    def __init__(self, stall_s: float = 1e9) -> None:
        self.watch = LoopWatch(NO_METER)
        self.watch._ticked_s = math.inf  # Never late, unless the test is about that.
        self.health = Health(self.watch, LoopBridge(asyncio.get_running_loop()), stall_s=stall_s)

    async def ready(self) -> str:
        return await asyncio.to_thread(self.health.ready)


async def test_a_process_is_not_ready_before_it_says_what_ready_is() -> None:
    patient = Patient()
    assert await patient.ready() == "the process is starting"
    assert patient.health.alive() == ""


async def test_ready_is_what_the_check_says_and_one_answer_is_for_all() -> None:
    patient, asked = Patient(), 0

    async def check() -> None:
        nonlocal asked
        asked += 1
        raise NotReadyError("the link is down")

    patient.health.check = check
    answers = await asyncio.gather(*(patient.ready() for _ in range(20)))
    assert set(answers) == {"the link is down"}
    assert asked < 20


async def test_a_loop_that_stands_is_not_ready_and_in_the_end_dead() -> None:
    patient = Patient(stall_s=1e6)
    patient.watch._ticked_s = time.monotonic() - READY_STALL_S - 1
    assert "has not run for" in await patient.ready()
    assert patient.health.alive() == ""
    patient.watch._ticked_s -= 2e6
    assert "has not run for" in patient.health.alive()


async def nothing_is_left() -> None:
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)


def test_a_question_to_a_loop_that_does_not_answer_ends() -> None:
    loop = asyncio.new_event_loop()  # It never runs.
    try:
        bridge = LoopBridge(loop)

        async def never() -> None:
            await asyncio.Event().wait()

        with pytest.raises(NotReadyError, match="no answer"):
            bridge.ask(never, 0.01)
        bridge.close()
        with pytest.raises(NotReadyError, match="ending"):
            bridge.ask(never, 0.01)
        loop.run_until_complete(nothing_is_left())  # What was asked is cancelled.
    finally:
        loop.close()


async def test_lateness_of_the_loop_is_told() -> None:
    told: list[float] = []

    class Listening(type(NO_METER)):  # type: ignore[misc]
        def lagged(self, seconds: float) -> None:
            told.append(seconds)

    watch = LoopWatch(Listening())
    watching = asyncio.create_task(watch.run())
    await until(lambda: told)
    threading.Event().wait(0.3)  # Blocks the loop, as an agent might.
    assert watch.stalled_s >= 0.1
    await until(lambda: max(told) >= 0.1)
    watching.cancel()


# --- the dashboard and the page -----------------------------------------------------------------------------------------


def metric_names() -> set[str]:
    """Every metric of a runner, a projector and a client, as Prometheus stores them."""
    registry, clients_registry = new_registry(), prometheus_client.CollectorRegistry()
    gauges = Gauges(registry)
    nobody: Any = SimpleNamespace(desk=None)
    RunnerRows(nobody, AgentLabels()).add_to(gauges)
    ProjectorRows(nobody, nobody, nobody).add_to(gauges)
    ServerSamples(nobody, nobody, work=()).add_to(gauges)
    RunnerMeter(registry, AgentLabels())
    ProjectorMeter(clients_registry, AgentLabels())
    families = [*registry.collect(), *clients_registry.collect()]
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {family.name + suffix for family in families for suffix in suffixes.get(family.type, ("",))} | {
        "cas_event_loop_stalled_seconds"  # `Exposure` adds it, which has a loop.
    }


NAME = re.compile(r"\b(?:cas|process|python)_[a-z_]+\b(?!\()")


def expressions(panels: list[dict[str, Any]]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def test_the_dashboard_asks_only_for_metrics_that_exist() -> None:
    dashboard = json.loads((REPOSITORY / "deploy/grafana/cas-events.json").read_text())
    asked = [*expressions(dashboard["panels"])]
    asked += [str(item["query"]) for item in dashboard["templating"]["list"]]
    used = {name for text in asked for name in NAME.findall(text)}
    assert used - metric_names() == set()
    # And it shows all that the runtime measures, but for what a client's own program serves.
    shown = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in used}
    there = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in metric_names()}
    unseen = {name for name in there - shown if name.startswith("cas_")}
    assert unseen == {"cas_client_tasks_submitted", "cas_attempts_started", "cas_projection_position"}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_the_page_lists_every_metric_and_no_other() -> None:
    page = (REPOSITORY / "docs/observability.md").read_text()
    named = set(re.findall(r"`(cas_[a-z_]+)`", page))
    there = {re.sub(r"_(bucket|sum|count)$", "", name) for name in metric_names() if name.startswith("cas_")}
    assert named == there


def test_children_of_one_stack_have_ports_of_their_own() -> None:
    plan = Plan(settings=Settings(), metrics=MetricsAddress(9464, "127.0.0.2"))
    assert plan.metrics_of("runner") == MetricsAddress(9464, "127.0.0.2")
    assert plan.metrics_of("projector") == MetricsAddress(9465, "127.0.0.2")
    assert Plan(settings=Settings(), metrics=MetricsAddress(0)).metrics_of("projector") == MetricsAddress(0)
    assert metrics_environment(None) == {"CAS_METRICS_PORT": "", "CAS_METRICS_HOST": ""}
    assert Settings.from_env(metrics_environment(plan.metrics)).metrics == plan.metrics


def test_traces_are_all_recorded_up_to_a_rate() -> None:
    now_s = 0.0
    sampler = BoundedRate(10.0, clock=lambda: now_s)

    def taken(count: int) -> int:
        decisions = [sampler.should_sample(None, 1, "submit a").decision for _ in range(count)]
        return sum(decision.is_sampled() for decision in decisions)

    assert taken(100) == 10
    now_s = 0.5
    assert taken(100) == 5
    now_s = 60.0
    assert taken(100) == 10
    for _ in range(20):
        now_s += 0.1
        assert taken(1) == 1
    assert "10" in sampler.get_description()
