"""A runner's presence: it beats, answers who asks for it or for its agents, and NATS' tools find it (`nats micro ls`).

Lives on the keeper's thread and connection, so that a runner whose agents block its event loop is not taken for dead.
One that is killed says nothing more, and that is how it is known.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec

from cas_events.errors import ServerError
from cas_events.jetstream.connection import Connection, Message
from cas_events.jetstream.services import MicroService
from cas_events.jetstream.subscriptions import Subscription
from cas_events.runner.holds import Desk
from cas_events.runner.roster import Roster
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
        roster: what it serves.
        desk: knows what it runs.
        is_pulling: whether it takes tasks.
        publish: best effort.
        word_of: what is told of an agent to who asks whether it is served.
    """

    def __init__(
        self,
        names: Names,
        runner_id: str,
        roster: Roster,
        *,
        desk: Desk,
        is_pulling: Callable[[], bool],
        publish: Callable[[str, bytes], None],
        word_of: Callable[[str], dict[str, Any]],
    ) -> None:
        self._names = names
        self._runner_id = runner_id
        self._roster = roster
        self._desk = desk
        self._is_pulling = is_pulling
        self._publish = publish
        self._word_of = word_of
        self._host = socket.gethostname()
        self._due_s = 0.0
        self._connection: Connection | None = None
        self._service: MicroService | None = None
        self._answers: dict[str, Subscription] = {}

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
            description="CAS Events runner",
            subject=self._names.runner_beat(self._runner_id),
            handler=self._tell,
        )
        self._connection, self._answers = connection, {}
        self.follow_roster()
        await self._service.start()

    def follow_roster(self) -> None:
        """What is served may have changed: answer for it, have discovery say so, and the next beat is due."""
        if self._connection is None:
            return
        served = sorted(self._roster.served)
        for agent_id in self._answers.keys() - set(served):
            self._answers.pop(agent_id).unsubscribe()
        for agent_id in set(served) - self._answers.keys():
            subject = self._names.agent_service(agent_id)
            self._answers[agent_id] = self._connection.listen(subject, self._answer_agent)
        if self._service is not None:
            metadata = {
                "deployment": self._names.deployment,
                "runner": self._runner_id,
                "agents": ",".join(served),
            }
            self._service.describe_as(f"CAS Events runner of {', '.join(served)}", metadata)
        self._due_s = 0.0

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

    def _answer_agent(self, request: Message) -> None:
        if self._is_pulling():
            word = self._word_of(request.subject.rpartition(".")[2])
            self._publish(request.reply, msgspec.json.encode({"runner": self._runner_id, **word}))

    def _answer(self, request: Message) -> None:
        self._publish(request.reply, self._encoded())

    async def _tell(self, _request: Message) -> bytes:
        return self._encoded()

    def _encoded(self) -> bytes:
        running = self._desk.running()
        return msgspec.json.encode(
            Beat(
                runner=self._runner_id,
                agents={agent_id: running[agent_id] for agent_id in sorted(self._roster.served)},
                withdrawn={agent_id: running[agent_id] for agent_id in sorted(self._roster.withdrawn)},
                places=self._desk.places,
                free_places=max(0, self._desk.free_places),
                is_pulling=self._is_pulling(),
                host=self._host,
                pid=os.getpid(),
                time=format_time(time.time_ns()),
            )
        )
