"""What being looked at costs a no-op task: metrics, and traces as they are by default, of one task in a hundred and of all.

`python -m benchmarks.observing --cycles 30` prints one JSON document. Five workers serve the same agent on one server,
each as its variant says, and one client runs tasks on them in turns, a few at a time: in each cycle every variant has
its turn, in another order, so that what else the machine does meets them all. Traces go by OTLP to a collector that
takes and forgets them; metrics are scraped every `SCRAPE_S`. The client traces what its worker traces.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import AsyncExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased

from benchmarks.children import START_TIMEOUT_S, cas_worker, child
from benchmarks.figures import p50
from benchmarks.plan import Plan, Sizes
from benchmarks.stopwatch import TASK_TIMEOUT_S, CpuMeter, latencies_ms
from cas_events import Client
from cas_events.observe import disable_tracing, enable_tracing
from cas_events.observe.sampling import default_sampler
from cas_events.server import EmbeddedServer
from cas_events.settings import Settings
from tests.harness.ports import free_ports

VARIANTS = ("off", "metrics", "tracing", "sampled", "traced")
SAMPLED = 0.01
SCRAPE_S = 5.0
LATENCIES = 40
BURST = 300


class _Forgetting(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def look(ports: list[int]) -> None:
    """The process that looks: takes spans and forgets them, and scrapes."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Forgetting)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        time.sleep(SCRAPE_S)
        for port in ports:
            with contextlib.suppress(OSError):  # It has not started yet, or has ended.
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read()


def environment_of(variant: str, endpoint: str, port: int) -> dict[str, str]:
    if variant == "off":
        return {}
    environment = {"CAS_METRICS_PORT": str(port)}
    if variant == "metrics":
        return environment
    sampler = {"OTEL_TRACES_SAMPLER": "parentbased_always_on"} if variant == "traced" else {}
    if variant == "sampled":
        sampler = {
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(SAMPLED),
        }
    return {**environment, **sampler, "CAS_TRACING": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}


def providers(endpoint: str) -> dict[str, TracerProvider]:
    """What the client traces with."""
    made = {}
    samplers = {
        "tracing": default_sampler(),
        "sampled": ParentBased(TraceIdRatioBased(SAMPLED)),
        "traced": ParentBased(ALWAYS_ON),
    }
    for variant, sampler in samplers.items():
        made[variant] = TracerProvider(sampler=sampler)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")
        made[variant].add_span_processor(BatchSpanProcessor(exporter))
    return made


class Turn:
    """One variant: its client, its worker, and what was measured."""

    def __init__(self, cas: Client, provider: TracerProvider | None, worker_pid: int) -> None:
        self._cas = cas
        self._provider = provider
        self._worker_pid = worker_pid
        self.measured: dict[str, list[float]] = {
            "noop_ms": [], "tasks_per_s": [], "worker_us": [], "client_us": []
        }  # fmt: skip

    async def run(self, _: str) -> None:
        result = await self._cas.execute_task("noop", {}, wait_for_runner_s=START_TIMEOUT_S)
        assert result.status == "completed", result

    async def measure(self, cycle: int) -> None:
        if self._provider is not None:
            enable_tracing(self._provider)
        try:
            # The burst comes first, so that what follows is measured of a process that has work all the time: one
            # that was idle may trace as many tasks as it does in a second.
            cpu = CpuMeter(worker_us=self._worker_pid, client_us=os.getpid())
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            async with asyncio.timeout(TASK_TIMEOUT_S * 4):
                await asyncio.gather(*(self.run("") for _ in range(BURST)))
            took_s, cpu_us = loop.time() - began_s, cpu.us_per(BURST)
            latencies = await latencies_ms(self.run, f"{cycle}-", LATENCIES)
        finally:
            disable_tracing()
        values = {"noop_ms": p50(latencies), "tasks_per_s": BURST / took_s, **cpu_us}
        if cycle >= 0:
            for name, value in values.items():
                self.measured[name].append(value)


async def measure(cycles: int) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cas-observing-"))
        server = stack.enter_context(EmbeddedServer(Path(folder)))
        ports = dict(zip(VARIANTS, free_ports(len(VARIANTS)), strict=True))
        looked_at = ",".join(str(ports[name]) for name in VARIANTS if name != "off")
        looking = await stack.enter_async_context(child("benchmarks.observing", "--look", looked_at))
        assert looking.stdout is not None
        endpoint = f"http://127.0.0.1:{int(await looking.stdout.readline())}"
        traced = providers(endpoint)
        turns = {}
        for variant in VARIANTS:
            plan = Plan(url=server.url, deployment=variant, wanted=(), sizes=Sizes())
            environment = environment_of(variant, endpoint, ports[variant])
            worker = await stack.enter_async_context(
                cas_worker(plan, "benchmarks.agents:runner", environment)
            )
            settings = Settings(nats_url=server.url, deployment=variant)
            cas = await stack.enter_async_context(Client(settings=settings))
            turns[variant] = Turn(cas, traced.get(variant), worker.pid)
            await turns[variant].run("")
        shuffle = random.Random(7)
        for cycle in range(-1, cycles):  # The first one warms up.
            for variant in shuffle.sample(VARIANTS, len(VARIANTS)):
                await turns[variant].measure(cycle)
        for provider in traced.values():
            await asyncio.to_thread(provider.shutdown)
    return {"cycles": cycles, "variants": {name: turn.measured for name, turn in turns.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=30, help="how often each variant has its turn")
    parser.add_argument("--look", metavar="PORTS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.look:
        look([int(port) for port in arguments.look.split(",")])
    report = asyncio.run(measure(arguments.cycles))
    for name, measured in report["variants"].items():
        medians = {figure: round(p50(values), 3) for figure, values in measured.items()}
        off = report["variants"]["off"]
        ratios = {
            figure: round(p50([ours / theirs for ours, theirs in zip(values, off[figure], strict=True)]), 3)
            for figure, values in measured.items()
        }
        print(f"{name}: {medians} ratios {ratios}", file=sys.stderr)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
