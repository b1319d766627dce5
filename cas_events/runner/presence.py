"""A runner's presence: it beats, it answers who asks for beats, and NATS' own tools find it (`nats micro ls`).

Lives on the keeper's thread and connection, so that a runner whose agents block its event loop is not taken for dead.
One that is killed says nothing more, and that is how it is known.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from cas_events.errors import ServerError
from cas_events.jetstream.connection import Connection, Message
from cas_events.jetstream.services import MicroService
from cas_events.runner.holds import Desk
from cas_events.wire.beats import BEAT_S, Beat
from cas_events.wire.envelope import format_time
from cas_events.wire.subjects import Names

SERVICE = "cas-runner"
_VERSION = "1.0.0"


class Presence:
    """How one runner process shows itself.

    Args:
        names: of the deployment.
        runner_id: the process's token.
        agent_ids: what it serves.
        desk: knows what it runs.
        is_pulling: whether it takes tasks.
        publish: best effort.
    """

    def __init__(
        self,
        names: Names,
        runner_id: str,
        agent_ids: Sequence[str],
        *,
        desk: Desk,
        is_pulling: Callable[[], bool],
        publish: Callable[[str, bytes], None],
    ) -> None:
        self._names = names
        self._runner_id = runner_id
        self._agent_ids = sorted(agent_ids)
        self._desk = desk
        self._is_pulling = is_pulling
        self._publish = publish
        self._host = socket.gethostname()
        self._due_s = 0.0
        self._service: MicroService | None = None

    async def open(self, connection: Connection) -> None:
        """Answer over this connection.

        Raises:
            ServerError: it went down meanwhile.
        """
        await connection.subscribe(self._names.beats, self._answer)
        self._service = MicroService(
            connection,
            name=SERVICE,
            version=_VERSION,
            description=f"CAS Events runner of {', '.join(self._agent_ids)}",
            subject=self._names.runner_beat(self._runner_id),
            handler=self._tell,
            metadata={
                "deployment": self._names.deployment,
                "runner": self._runner_id,
                "agents": ",".join(self._agent_ids),
            },
        )
        await self._service.start()

    async def close(self) -> None:
        """Answer no more."""
        if self._service is not None:
            service, self._service = self._service, None
            try:
                await service.stop()
            except ServerError:  # With the connection the subscriptions end.
                return

    def beat_if_due(self) -> None:
        """Publish the beat, once in `BEAT_S`."""
        now_s = time.monotonic()
        if now_s >= self._due_s:
            self._due_s = now_s + BEAT_S
            self._publish(self._names.beat(self._runner_id), self._encoded())

    def _answer(self, request: Message) -> None:
        self._publish(request.reply, self._encoded())

    async def _tell(self, _request: Message) -> bytes:
        return self._encoded()

    def _encoded(self) -> bytes:
        running = Counter(hold.agent_id for hold in list(self._desk.holds.values()) if not hold.is_lost)
        return msgspec.json.encode(
            Beat(
                runner=self._runner_id,
                agents={agent_id: running[agent_id] for agent_id in self._agent_ids},
                places=self._desk.places,
                free_places=max(0, self._desk.free_places),
                is_pulling=self._is_pulling(),
                host=self._host,
                pid=os.getpid(),
                time=format_time(time.time_ns()),
            )
        )
