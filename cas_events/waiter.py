"""Waiting for one task's end: its terminal event and nothing else."""

from __future__ import annotations

import asyncio
import logging
from typing import Self

from cas_events.domain.events import Event
from cas_events.errors import NotConnectedError, WireError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Message
from cas_events.live import LiveHub
from cas_events.wire.envelope import decode_event
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

_STARTED = b'"type":"cas.task.started"'
_HEAD_BYTES = 200  # our envelopes begin with specversion, id and type; data comes later than this


class ResultWaiter:
    """Waits for one task's terminal event.

    Args:
        hub: the client's live subscriptions.
        js: its JetStream.
        names: of the deployment.
        agent_id: the task's agent.
        task_id: the task.
    """

    wants_all = False

    def __init__(self, hub: LiveHub, js: JetStream, names: Names, agent_id: str, task_id: str) -> None:
        self._hub = hub
        self._js = js
        self._names = names
        self.agent_id = agent_id
        self.task_id = task_id
        self._terminal: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> Self:
        self._hub.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._hub.remove(self)
        self._terminal.cancel()

    async def wait(self) -> Event:
        """The terminal event."""
        return await self._terminal

    def receive(self, message: Message) -> None:
        """Take a live message."""
        if _STARTED in message.data[:_HEAD_BYTES]:
            return  # Every task's first event, and never what is waited for: not worth decoding.
        self._offer(message.data, seq=int(message.header_value("Nats-Sequence") or 0))

    def end(self) -> None:
        """The client is closed: nothing comes any more."""
        if not self._terminal.done():
            self._terminal.set_exception(
                NotConnectedError(f"the client was closed while task {self.task_id} went on")
            )
            self._terminal.exception()  # Nobody has to wait for it.

    async def look(self) -> None:
        """Read the task's last lifecycle event."""
        if self._terminal.done():
            return
        subject = self._names.lifecycle(self.agent_id, self.task_id)
        message = await self._js.last_message(self._names.events, subject)
        if message is not None:
            self._offer(message.data, seq=message.seq)

    def _offer(self, data: bytes, *, seq: int) -> None:
        try:
            event = decode_event(data, seq=seq, stream=self._names.events)
        except WireError as error:
            _log.warning("ignored a foreign message of task %s: %s", self.task_id, error)
            return
        # A rejected duplicate is what the second user of an id waits for, too.
        if (event.is_terminal or event.is_duplicate_rejection) and not self._terminal.done():
            self._terminal.set_result(event)
