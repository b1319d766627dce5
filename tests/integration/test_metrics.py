"""Metrics of a runner (issue 6, item 4): counted as it happens, served on loopback, bounded in their labels."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from cas_events import Client, NonRetryableError, Runner, TaskContext
from cas_events.domain import events
from cas_events.domain.breaker import BreakerPolicy
from cas_events.domain.retry import RetryPolicy
from cas_events.settings import MetricsAddress, Settings
from cas_events.wire.envelope import EventEncoder
from tests.harness.cas import Cas, CasProcess
from tests.harness.cas import running as running_process
from tests.harness.own_runner import lifecycle, noop, send_raw
from tests.harness.patience import promised
from tests.harness.processes import RunnerProcess, until_served
from tests.harness.server import NatsServer
from tests.harness.wait import until, until_async

Samples = dict[str, list[tuple[dict[str, str], float]]]


async def get(url: str, path: str) -> tuple[int, str]:
    """Ask a process's port; its loop may be this one, so in a thread."""

    def ask() -> tuple[int, str]:
        parts = urlsplit(url)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=promised(10))
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


async def scrape(url: str) -> Samples:
    status, text = await get(url, "/metrics")
    assert status == 200, text
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(samples: Samples, name: str, **labels: str) -> float | None:
    values = [number for known, number in samples.get(name, []) if labels.items() <= known.items()]
    return sum(values) if values else None


async def is_ready(url: str) -> bool:
    """Whether a process says so; one whose loop waits for its turn on this machine says no."""
    status, body = await get(url, "/readyz")
    assert json.loads(body)["status"] == ("ok" if status == 200 else "failed")
    return status == 200


async def metrics_url(process: CasProcess) -> str:
    """Where a process that took a free port says that it serves."""
    line = await asyncio.to_thread(process.line_with, "metrics on http://")
    return line[line.index("http://") :].partition('"')[0]


class Served:
    """A runner with a port, in this loop."""

    def __init__(self, cas: Client, runner: Runner) -> None:
        self.cas, self.runner = cas, runner

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.runner.run(handle_signals=False, metrics=MetricsAddress(0)))
        for agent_id in self.runner.agent_ids:
            await until_served(self.cas, agent_id)
        await until(self.runner.ready.is_set)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.runner.stop()
        await asyncio.wait_for(self._task, promised(20))

    @property
    def url(self) -> str:
        assert self.runner.metrics_url is not None
        return self.runner.metrics_url

    async def scrape(self) -> Samples:
        return await scrape(self.url)


async def test_tasks_are_counted_by_how_they_went(cas: Client, make_runner) -> None:
    runner = make_runner()
    runner.agent("noop")(noop)

    @runner.agent("shaky", retry=RetryPolicy(base_s=0.01, cap_s=0.01))
    async def shaky(ctx: TaskContext, _input: dict) -> dict:
        if ctx.attempt == 1:
            raise ValueError("once")
        return {}

    @runner.agent("hopeless")
    async def hopeless(_ctx: TaskContext, _input: dict) -> dict:
        raise NonRetryableError("no use")

    async with Served(cas, runner) as served:
        for _ in range(3):
            assert (await cas.execute_task("noop")).is_success
        assert (await cas.execute_task("shaky")).is_success
        assert not (await cas.execute_task("hopeless")).is_success

        # A client may hear of an end before its runner has counted it.
        async def all_counted() -> bool:
            return value(await served.scrape(), "cas_attempt_duration_seconds_count") == 6

        await until_async(all_counted)
        samples = await served.scrape()  # Anew: one scrape is not of one moment.
        assert value(samples, "cas_tasks_finished_total", agent="noop", status="completed") == 3
        assert value(samples, "cas_tasks_finished_total", agent="hopeless", status="failed") == 1
        assert value(samples, "cas_tasks_started_total", agent="shaky") == 1
        assert value(samples, "cas_attempts_started_total", agent="shaky") == 2
        assert value(samples, "cas_tasks_retried_total", agent="shaky", reason="error") == 1
        assert value(samples, "cas_task_queue_wait_seconds_count", agent="noop") == 3
        assert value(samples, "cas_attempt_duration_seconds_count", agent="shaky", outcome="retrying") == 1
        assert value(samples, "cas_breaker_state", agent="noop") in {None, 0.0}
        assert value(samples, "cas_connected", link="keeper") == 1
        assert "process_cpu_seconds_total" in samples


async def test_the_port_says_that_it_is_ready_and_what_there_is(cas: Client, make_runner) -> None:
    runner = make_runner()
    runner.agent("noop")(noop)
    async with Served(cas, runner) as served:
        assert urlsplit(served.url).hostname == "127.0.0.1"
        assert (await get(served.url, "/healthz"))[0] == 200
        await until_async(lambda: is_ready(served.url), timeout_s=20)
        status, body = await get(served.url, "/secrets")
        assert (status, json.loads(body)["paths"]) == (404, ["/metrics", "/healthz", "/readyz"])
        names = cas._session.names
        stored = await cas._session.js.last_message(names.checkpoints, names.probe)
        assert stored is not None
        assert json.loads(stored.data)["by"].startswith("cas/runner/")
        before = stored.seq

        async def tried_again() -> bool:
            await get(served.url, "/readyz")
            newer = await cas._session.js.last_message(names.checkpoints, names.probe)
            return newer is not None and newer.seq > before

        await until_async(tried_again)
        # However often it was tried, one message stays.
        state = (await cas._session.js.stream_info(names.checkpoints)).state
        assert (state.messages, state.num_subjects) == (1, 1)
    await until(lambda: "cas-metrics" not in {thread.name for thread in threading.enumerate()})


async def test_a_projector_tells_how_far_it_is(cas: Client, nats_url: str, deployment: str, tmp_path) -> None:
    place = Settings(nats_url=nats_url, deployment=deployment, home=tmp_path, metrics=MetricsAddress(0))
    environment = place.child_environment() | {"CAS_METRICS_PORT": "0"}
    with running_process([sys.executable, "-m", "projections"], environment) as projector:
        url = await metrics_url(projector)
        for number in range(3):
            await send_raw(cas, "nobody", f"t{number}")

        async def caught_up() -> Samples | None:
            samples = await scrape(url)
            lag = value(samples, "cas_projection_lag_messages", stream=cas._session.names.commands)
            taken = value(samples, "cas_tasks_submitted_total", agent="nobody")
            return samples if (taken, lag) == (3, 0) else None

        samples = await until_async(caught_up)
        assert samples is not None
        assert value(samples, "cas_projection_rebuilding") == 0
        await until_async(lambda: is_ready(url), timeout_s=20)


async def test_a_worker_is_ready_again_when_its_server_is(
    nats_server: NatsServer, deployment: str, tmp_path: Path
) -> None:
    environment = {
        "CAS_NATS_URL": nats_server.url,
        "CAS_DEPLOYMENT": deployment,
        "CAS_HOME": str(tmp_path),
        "CAS_METRICS_PORT": "0",
    }
    with Cas(environment).process("worker", "cas_events.agents.samples:runner") as worker:
        url = await metrics_url(worker)
        status, body = 0, ""

        async def ready_is(wanted: int) -> bool:
            nonlocal status, body
            status, body = await get(url, "/readyz")
            return status == wanted

        await until_async(lambda: ready_is(200), timeout_s=20)
        nats_server.kill()
        try:
            await until_async(lambda: ready_is(503), timeout_s=20)
            assert json.loads(body)["reason"]
            assert (await get(url, "/healthz"))[0] == 200  # It lives, and will be back by itself.
            assert (await get(url, "/metrics"))[0] == 200
        finally:
            nats_server.start()
        await until_async(lambda: ready_is(200), timeout_s=20)


async def test_a_crash_is_redelivered_and_counted_as_a_retry(
    cas: Client, make_runner, nats_url: str, deployment: str
) -> None:
    dying = RunnerProcess(nats_url, deployment, agents="crasher", lease_s=1)
    try:
        await until_served(cas, "crasher")
        task = await cas.submit_task("crasher", {"crashes": 1})
        await until(dying.is_dead, timeout_s=30)
    finally:
        dying.end()
    runner = make_runner(lease_s=1)
    runner.agent("crasher")(noop)
    async with Served(cas, runner) as served:
        assert (await task.result()).is_success
        samples = await served.scrape()
        assert value(samples, "cas_tasks_retried_total", agent="crasher", reason="crash") == 1
        redelivered = value(samples, "cas_redeliveries_total", agent="crasher", kind="task")
        assert redelivered is not None
        assert redelivered >= 1
        assert value(samples, "cas_tasks_started_total", agent="crasher") is None
        assert value(samples, "cas_attempts_started_total", agent="crasher") == 1


async def test_a_runner_that_was_overruled_counts_what_the_log_refused(cas: Client, make_runner) -> None:
    runner, begun, go_on = make_runner(lease_s=30), asyncio.Event(), asyncio.Event()

    @runner.agent("slow")
    async def slow(_ctx: TaskContext, _input: dict) -> dict:
        begun.set()
        await go_on.wait()
        return {}

    async with Served(cas, runner) as served:
        task = await cas.submit_task("slow")
        await asyncio.wait_for(begun.wait(), promised(10))
        [started] = await lifecycle(cas, "slow", task.task_id)
        encoder = EventEncoder(
            source="cas/runner/other",
            task_id=task.task_id,
            agent_id="slow",
            attempt=2,
            correlation_id=task.task_id,
        )
        data = b'{"reason":"","requested_by":"","started":true,"tries":1,"command_seq":%d}' % task.seq
        over = encoder.encode(events.CANCELLED, 0, time.time_ns(), data)
        subject = cas._session.names.lifecycle("slow", task.task_id)
        await cas._session.js.append(subject, over, expected_last_seq=started.seq)
        go_on.set()

        # Its own end is refused, unless the keeper has seen before that the task is not ours any more.
        async def noticed() -> bool:
            samples = await served.scrape()
            refused = value(samples, "cas_fenced_writes_total", agent="slow", event="completed")
            lost = value(samples, "cas_leases_lost_total", agent="slow")
            return (refused or 0) + (lost or 0) > 0

        await until_async(noticed)
        assert value(await served.scrape(), "cas_tasks_finished_total", agent="slow") is None


async def test_breakers_and_consumers_and_children_are_shown(cas: Client, make_runner) -> None:
    runner = make_runner(places=1)
    policy = BreakerPolicy(calls_min=2, open_s=600.0)

    @runner.agent("bad", max_attempts=1, breaker=policy)
    async def bad(_ctx: TaskContext, _input: dict) -> dict:
        raise ValueError("always")

    runner.agent("child")(noop)

    @runner.agent("parent")
    async def parent(ctx: TaskContext, _input: dict) -> Any:
        return await ctx.call("child", {})

    async with Served(cas, runner) as served:
        assert (await cas.execute_task("parent")).is_success
        for _ in range(2):
            await cas.execute_task("bad")
        await cas.submit_task("bad")  # The consumer is paused, or about to be.

        async def shown() -> bool:
            samples = await served.scrape()
            commands = cas._session.names.commands
            waiting = [
                value(samples, f"cas_consumer_{figure}_messages", stream=commands, consumer="agent-bad")
                for figure in ("pending", "ack_pending")
            ]
            # Let through before the pause, the third one has ended, or it waits.
            return (
                None not in waiting
                and value(samples, "cas_breaker_state", agent="bad") == 2
                and value(samples, "cas_tasks_running", agent="child") == 0
                and bool(value(samples, "cas_event_loop_lag_seconds_count"))
            )

        await until_async(shown, timeout_s=20)
        samples = await served.scrape()
        assert value(samples, "cas_client_tasks_submitted_total", agent="child") == 1
        assert value(samples, "cas_consumer_ack_pending_messages", consumer="wake-child") == 0
        assert value(samples, "cas_places") == 1
