"""Three real nats-servers on loopback as one cluster, each with a store of its own, each killed and restarted alone.

The servers do not advertise each other to clients, so that a client knows exactly the URLs that it is given and a
proxy stays between. Each dies with the process that started it (`cas_events.server_guard`); start them from the main
thread, whose end is what the kernel watches.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cas_events
from cas_events.errors import CasEventsError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from tests.harness.nats_process import NATS_SERVER
from tests.harness.ports import free_ports
from tests.harness.wait import until_async

SIZE = 3
READY_S = 30.0
_GUARD = Path(cas_events.__file__).with_name("server_guard.py")
_CONFIG = """\
server_name: n{number}
listen: "127.0.0.1:{port}"
log_file: {log}
jetstream {{ store_dir: {store} }}
cluster {{
  name: c
  listen: "127.0.0.1:{route_port}"
  no_advertise: true
  routes: [{routes}]
}}
"""


class Node:
    """One server of a cluster; keeps its ports and its store across crashes."""

    def __init__(self, folder: Path, number: int, port: int, route_ports: list[int]) -> None:
        self.name = f"n{number}"
        self.port = port
        folder.mkdir(parents=True)
        self._config = folder / "server.conf"
        routes = ", ".join(f'"nats://127.0.0.1:{other}"' for other in route_ports)
        self._config.write_text(
            _CONFIG.format(
                number=number,
                port=port,
                log=json.dumps(str(folder / "server.log")),
                store=json.dumps(str(folder / "store")),
                route_port=route_ports[number],
                routes=routes,
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def is_up(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, without waiting for anything."""
        if not self.is_up:
            guard = [sys.executable, "-I", "-S", str(_GUARD), str(os.getpid())]
            self._process = subprocess.Popen([*guard, NATS_SERVER, "-c", str(self._config)])

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


class Cluster:
    """Three nodes; a context manager that starts and kills them.

    Args:
        folder: for their stores and logs.
    """

    def __init__(self, folder: Path) -> None:
        ports = free_ports(2 * SIZE)
        self.nodes = [Node(folder / f"n{n}", n, ports[n], ports[SIZE:]) for n in range(SIZE)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.kill()

    @property
    def url(self) -> str:
        """All nodes' URLs, as a client takes them."""
        return ",".join(node.url for node in self.nodes)

    def start(self) -> None:
        """Start every node that is down."""
        for node in self.nodes:
            node.start()

    def kill_all(self) -> None:
        """kill -9 of all three, one right after the other."""
        for node in self.nodes:
            if node.is_up:
                node.send(signal.SIGKILL)
        for node in self.nodes:
            node.kill()

    async def until_ready(self) -> None:
        """Wait until JetStream has a leader and answers."""

        async def answers() -> bool:
            try:
                async with await Connection.open(self.url, name="ready?", connect_timeout_s=1) as connection:
                    await JetStream(connection).account_info(timeout_s=1)
            except CasEventsError:
                return False
            return True

        await until_async(answers, timeout_s=READY_S, what="JetStream has a leader")

    async def until_settled(self, stream: str) -> None:
        """Wait until a stream has a leader and every replica is current."""
        await until_async(lambda: self._is_settled(stream), timeout_s=READY_S, what=f"{stream} is settled")

    async def leader_of(self, stream: str) -> Node:
        """The node that leads a stream."""

        async def leader() -> str:
            return str((await self._cluster_info(stream)).get("leader") or "")

        name = await until_async(leader, timeout_s=READY_S, what=f"a leader of {stream}")
        return next(node for node in self.nodes if node.name == name)

    async def _is_settled(self, stream: str) -> bool:
        info = await self._cluster_info(stream)
        replicas = info.get("replicas", [])
        return bool(info.get("leader")) and len(replicas) == SIZE - 1 and all(r["current"] for r in replicas)

    async def _cluster_info(self, stream: str) -> dict[str, Any]:
        try:
            async with await Connection.open(self.url, name="cluster info") as connection:
                answer = json.loads(await JetStream(connection).call(f"STREAM.INFO.{stream}", timeout_s=2))
        except CasEventsError:
            return {}
        info: dict[str, Any] = answer.get("cluster") or {}
        return info
