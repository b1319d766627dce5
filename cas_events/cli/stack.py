"""A whole deployment on this machine: embedded server, a runner and a projector, under one home.

For `cas up` and the demo. Writes `$CAS_HOME/server.json`, by which other commands find the server, and removes it.
Everything that dies is started again; everything ends in order: runner, projector, server. The store's lock keeps a
second one out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from cas_events.cli.asking import query
from cas_events.cli.children import Backoff, Child
from cas_events.errors import NoRespondersError, ProjectionError, ServerError, ServerStartError
from cas_events.jetstream.connection import Connection
from cas_events.server import EmbeddedServer
from cas_events.settings import MetricsAddress, Settings, metrics_environment
from cas_events.wire.subjects import Names

RUNNER_STOP_S = 20.0  # Two graces of 5 s and a few seconds to flush.
PROJECTOR_STOP_S = 10.0
_TEND_S = 0.1
_ASK_S = 1.0
_RETRY_S = 0.05

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to bring up.

    Attributes:
        settings: home and deployment; a URL in them is not looked at.
        runner: what the runner serves, as `cas worker` takes it.
        agent: one of its agents, by which it is known to be ready.
        port: of the server; 0 for a free one.
        sync_interval: of the server's store: a duration, or ``always``.
        with_projector: whether to run one.
        metrics: where the runner serves its metrics, and the projector at the next port; None for nowhere.
        log_folder: where the children's logs go; to our standard error without one.
    """

    settings: Settings
    runner: str = "cas_events.agents.samples:runner"
    agent: str = "echo"
    port: int = 0
    sync_interval: str = "1s"
    with_projector: bool = True
    metrics: MetricsAddress | None = None
    log_folder: Path | None = None

    def metrics_of(self, name: str) -> MetricsAddress | None:
        """The metrics address of a child: a port of their own each, unless each takes a free one."""
        address = self.metrics
        if address is None or name == "runner" or not address.port:
            return address
        return MetricsAddress(address.port + 1, address.host)


class Stack:
    """A deployment between entering and leaving the block.

    Attributes:
        settings: those of the children, with the server's URL.
        hurry: once set, what is left is killed.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.settings = plan.settings
        self.hurry = asyncio.Event()
        home = plan.settings.home.absolute()
        self._server = EmbeddedServer(home / "nats", binary=plan.settings.nats_server)
        self._server_file = plan.settings.server_file.absolute()
        self._children: list[Child] = []
        self._tending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start everything; `wait_ready` says when it answers.

        Raises:
            StoreLockedError: one runs under this home already.
            ServerStartError: the server does not come up.
        """
        plan = self._plan
        await asyncio.to_thread(self._server.start, port=plan.port, sync_interval=plan.sync_interval)
        try:
            home = plan.settings.home.absolute()
            self.settings = replace(plan.settings, nats_url=self._server.url, home=home)
            self._write_server_file()
            self._children = [self._child("runner", ["worker", plan.runner])]
            if plan.with_projector:
                self._children.append(self._child("projector", ["projector"]))
            for child in self._children:
                child.start()
            self._tending = asyncio.create_task(self._tend())
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    @property
    def url(self) -> str:
        """Where the server listens."""
        return self._server.url

    def pids(self) -> dict[str, int]:
        """The process ids, by name; 0 for what is down at this moment."""
        return {"server": self._server.pid} | {child.name: child.pid for child in self._children}

    async def wait_ready(self, timeout_s: float) -> list[str]:
        """Wait until the runner serves and the projector answers; the names of those that do not within the time."""
        late = {child.name for child in self._children}
        deadline_s = time.monotonic() + timeout_s
        async with await Connection.open(self.url, name="cas-up") as connection:
            while late and time.monotonic() < deadline_s:
                for name in sorted(late):
                    if await self._answers(connection, name):
                        late.discard(name)
                await asyncio.sleep(_RETRY_S)
        return sorted(late)

    async def failed(self) -> None:
        """Wait for the end of what keeps the deployment alive, which is an error and raised here."""
        assert self._tending is not None
        await asyncio.shield(self._tending)

    async def _answers(self, connection: Connection, name: str) -> bool:
        try:
            if name == "projector":
                await query(replace(self.settings, home=Path(os.devnull)), connection, "SELECT 1")
            else:
                service = Names(self.settings.deployment).agent_service(self._plan.agent)
                await connection.request(service, timeout_s=_ASK_S)
        except (NoRespondersError, ProjectionError, ServerError):
            return False
        return True

    # --- keeping it up -----------------------------------------------------------------------------------------------

    def _child(self, name: str, arguments: list[str]) -> Child:
        folder = self._plan.log_folder
        return Child(
            name,
            arguments,
            environment=self.settings.child_environment() | metrics_environment(self._plan.metrics_of(name)),
            log_file=folder / f"{name}.log" if folder is not None else None,
        )

    def metrics_urls(self) -> dict[str, str]:
        """Where the children serve their metrics, as far as that is known: who takes a free port says it in its log."""
        found = {child.name: self._plan.metrics_of(child.name) for child in self._children}
        return {name: f"http://{address}" for name, address in found.items() if address and address.port}

    async def _tend(self) -> None:
        backoff, started_s = Backoff(), time.monotonic()
        while True:
            await asyncio.sleep(_TEND_S)
            for child in self._children:
                child.tend()
            if not self._server.is_running:
                wait_s = backoff.after(time.monotonic() - started_s)
                log.error(
                    "nats-server (process %d) ended; starting it again in %g s", self._server.pid, wait_s
                )
                await asyncio.sleep(wait_s)
                await self._restart_server()
                started_s = time.monotonic()

    async def _restart_server(self) -> None:
        """On the same port, where everybody looks for it."""
        port = int(self._server.url.rpartition(":")[2])
        await asyncio.to_thread(self._server.kill)
        try:
            await asyncio.to_thread(self._server.start, port=port, sync_interval=self._plan.sync_interval)
        except ServerStartError as error:
            log.error("nats-server does not come back: %s", error)  # noqa: TRY400 - tried again; no trace needed
        else:
            log.warning("nats-server is back as process %d", self._server.pid)

    async def _end(self) -> None:
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
        try:
            for child in self._children:
                await child.stop(RUNNER_STOP_S if child.name == "runner" else PROJECTOR_STOP_S, self.hurry)
        finally:
            for child in self._children:
                child.kill()
            await asyncio.to_thread(self._server.stop)
            self._remove_server_file()

    # --- how others find it --------------------------------------------------------------------------------------------

    def _write_server_file(self) -> None:
        known = {"url": self._server.url, "pid": os.getpid()}
        new = self._server_file.with_suffix(".json.new")
        new.write_text(json.dumps(known) + "\n")
        new.replace(self._server_file)  # Nobody reads half a file.

    def _remove_server_file(self) -> None:
        with suppress(OSError, ValueError, KeyError, TypeError):
            if json.loads(self._server_file.read_text())["pid"] == os.getpid():
                self._server_file.unlink()
