"""What the torture torments: a server or a cluster, runners and clients behind proxies, a projector.

`Fleet` of the harness with everything around it. Whoever died is put back: by `revive`, which is called all the time.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from cas_events import Client
from cas_events.settings import Settings
from tests.harness.cluster import Cluster
from tests.harness.faults import AGENTS, Fleet
from tests.harness.processes import Process
from tests.harness.proxy import Proxy
from tests.harness.server import NatsServer

LEASE_S = 2.0
CLUSTER_LEASE_S = 4.0
MIX = f"{AGENTS},blocker,crasher,hopeless,big"


class World:
    """One deployment under torture; an async context manager.

    Args:
        folder: for stores, logs and the projection.
        runners: how many.
        clients: how many.
        is_cluster: three servers, and nothing between them and the others.
    """

    def __init__(self, folder: Path, *, runners: int, clients: int, is_cluster: bool) -> None:
        self.deployment = f"t{uuid.uuid4().hex[:12]}"
        self.is_cluster = is_cluster
        self.lease_s = CLUSTER_LEASE_S if is_cluster else LEASE_S
        self._folder = folder
        self._sizes = runners, clients
        self._stack = AsyncExitStack()
        self.server: NatsServer | None = None
        self.cluster: Cluster | None = None
        self.proxies: list[Proxy] = []
        self.clients: list[Client] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self, stack: AsyncExitStack) -> None:
        runners, clients = self._sizes
        if self.is_cluster:
            self.cluster = stack.enter_context(Cluster(self._folder / "cluster"))
            await self.cluster.until_ready()
            self.url = self.cluster.url
            urls = [self.url] * (runners + clients)
        else:
            self.server = NatsServer(self._folder / "nats")
            self.server.start()
            stack.callback(self.server.kill)
            self.url = self.server.url
            port = int(self.url.rpartition(":")[2])
            self.proxies = [stack.enter_context(Proxy(port)) for _ in range(runners + clients)]
            urls = [proxy.url for proxy in self.proxies]
        for url in urls[runners:]:
            settings = Settings(
                nats_url=url, deployment=self.deployment, replicas=3 if self.is_cluster else 1
            )
            self.clients.append(await stack.enter_async_context(Client(settings=settings)))
        self.fleet = stack.enter_context(
            Fleet(self.url, self.deployment, urls[:runners], agents=MIX, lease_s=self.lease_s)
        )
        self.projector = self._start_projector()
        stack.callback(self._end_projector)
        await self.fleet.until_up()

    def _end_projector(self) -> None:
        self.projector.end()

    def _start_projector(self) -> Process:
        return Process(
            ["-m", "cas_events.cli", "projector"],
            CAS_LOG_LEVEL="error",
            CAS_NATS_URL=self.url,
            CAS_DEPLOYMENT=self.deployment,
            CAS_HOME=str(self._folder),
            CAS_REPLICAS="3" if self.is_cluster else "1",
        )

    def revive(self) -> None:
        """Put back whoever has died: supervision, as every deployment has it."""
        for place, runner in enumerate(self.fleet.runners):
            if runner.is_dead():
                self.fleet.replace(place)
        if self.projector.is_dead():
            self.projector = self._start_projector()

    async def heal(self) -> None:
        """End every fault that may still last."""
        if self.server is not None:
            for proxy in self.proxies:
                await asyncio.to_thread(proxy.heal)
        if self.cluster is not None:
            self.cluster.start()
            await self.cluster.until_ready()
        self.revive()
