"""Metrics of a runner (issue 6, item 4): counted as it happens, served on loopback, bounded in their labels."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from http.client import HTTPConnection
from typing import Self
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from cas_events import Client, NonRetryableError, Runner, TaskContext
from cas_events.domain.retry import RetryPolicy
from cas_events.settings import MetricsAddress, Settings
from tests.harness.cas import CasProcess
from tests.harness.cas import running as running_process
from tests.harness.own_runner import noop, send_raw
from tests.harness.patience import promised
from tests.harness.processes import until_served
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
        assert await get(served.url, "/readyz") == (200, '{"status": "ok"}\n')
        status, body = await get(served.url, "/secrets")
        assert (status, json.loads(body)["paths"]) == (404, ["/metrics", "/healthz", "/readyz"])
        names = cas._session.names
        stored = await cas._session.js.last_message(names.checkpoints, names.probe)
        assert stored is not None
        assert json.loads(stored.data)["by"].startswith("cas/runner/")
        before = stored.seq

        async def tried_again() -> bool:
            assert (await get(served.url, "/readyz"))[0] == 200
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
        assert (await get(url, "/readyz"))[0] == 200
