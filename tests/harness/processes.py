"""Real processes for tests: started by us, waited for by their effect, ended by their pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from cas_events import Client
from cas_events.settings import Settings
from tests.harness.patience import promised
from tests.harness.wait import until_async

ROOT = Path(__file__).parents[2]
START_S = 20.0


class Process:
    """One child process."""

    def __init__(self, args: Sequence[str], **environment: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, *args],
            cwd=ROOT,
            env={**os.environ, **environment},
            stderr=subprocess.PIPE if environment.get("LOG_TO_TEST") else None,
        )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def is_alive(self) -> bool:
        return self.popen.poll() is None

    def is_dead(self) -> bool:
        return not self.is_alive

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(10)

    def terminate(self, timeout_s: float = 15.0) -> int:
        self.popen.terminate()
        return self.popen.wait(promised(timeout_s))

    def end(self) -> None:
        if self.is_alive:
            self.popen.send_signal(signal.SIGCONT)
            self.kill()


class RunnerProcess(Process):
    """`tests.harness.agents` in a process of its own."""

    def __init__(
        self, url: str, deployment: str, *, agents: str = "", lease_s: float = 10, grace_s: float = 5
    ) -> None:
        environment = {
            "CAS_NATS_URL": url,
            "CAS_DEPLOYMENT": deployment,
            "LEASE_S": str(lease_s),
            "GRACE_S": str(grace_s),
        }
        if agents:
            environment["AGENTS"] = agents
        super().__init__(["-m", "tests.harness.agents"], **environment)


def settings(url: str, deployment: str) -> Settings:
    return Settings(nats_url=url, deployment=deployment)


async def until_served(client: Client, agent_id: str) -> None:
    await until_async(lambda: client.is_served(agent_id), timeout_s=START_S, what=f"a runner for {agent_id}")


@asynccontextmanager
async def serving(
    url: str, deployment: str, agents: str = "", **options: float
) -> AsyncIterator[RunnerProcess]:
    """A runner process that serves already."""
    process = RunnerProcess(url, deployment, agents=agents, **options)
    try:
        async with Client(settings=settings(url, deployment)) as client:
            await until_served(client, agents.partition(",")[0] or "echo")
        yield process
    finally:
        process.end()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
