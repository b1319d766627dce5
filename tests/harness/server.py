"""A real nats-server for tests: the embedded one, with the means to crash it and to let it come back.

One server serves a test module; tests are kept apart by a deployment name of their own (`tests/conftest.py`). A test
that crashes the server brings it back on the same port and store before it ends.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from cas_events.server import EmbeddedServer
from tests.harness.pids import stopped_within
from tests.harness.ports import free_ports


class NatsServer:
    """A server that keeps its port and its store across crashes."""

    def __init__(self, store_dir: Path, *, sync_interval: str = "1s") -> None:
        self.store_dir = store_dir
        self._sync_interval = sync_interval
        self._server = EmbeddedServer(store_dir)
        self._port = free_ports(1)[0]

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def pid(self) -> int:
        return self._server.pid

    def start(self) -> None:
        self._server = EmbeddedServer(self.store_dir)
        self._server.start(port=self._port, sync_interval=self._sync_interval)

    def stop(self) -> None:
        """Go away politely."""
        self._server.stop()

    def kill(self) -> None:
        """Go away by kill -9."""
        self._server.kill()

    def restart(self) -> None:
        """Crash, and come back on the same port and store."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Keep the sockets open and answer nothing: a black hole. Returns when its last thread has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        assert stopped_within(self.pid, 5.0)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
