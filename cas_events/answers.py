"""Interrupts as a client sees them: what a task waits on, and giving it an answer (PROTOCOL section 7).

Read from the log itself, so neither a runner nor a projector has to be up: an answer given today is taken by whichever
runner serves the agent tomorrow.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from cas_events import submit
from cas_events.domain.interrupts import Dialogue
from cas_events.domain.limits import CLAIM_BYTES_MAX
from cas_events.domain.tokens import require_token
from cas_events.errors import WireError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.blobs import BlobStore
from cas_events.jetstream.paging import stored_until
from cas_events.jetstream.patience import patiently
from cas_events.wire.claims import is_claim
from cas_events.wire.envelope import decode_event
from cas_events.wire.jsonvalue import decode_json
from cas_events.wire.subjects import Names

ResumeAnswer = Literal["accepted", "already_answered", "not_waiting", "already_finished", "unknown_task"]


class Interrupt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A question that a task waits on.

    Attributes:
        id: its name, good for `Client.resume_task`.
        value: what there is to decide on.
        schema: JSON Schema of the answer, if the agent has one.
        timeout_at: when it will wait no longer, if ever.
    """

    id: str
    value: Any = None
    schema: Any = None
    timeout_at: datetime | None = None


class Questions:
    """Reads one task's questions and stores answers to them.

    Args:
        js: where from.
        names: of the deployment.
        blobs: where large values are.
        agent_id: the task's agent.
        task_id: the task.
    """

    def __init__(self, js: JetStream, names: Names, blobs: BlobStore, agent_id: str, task_id: str) -> None:
        self._js = js
        self._names = names
        self._blobs = blobs
        self._agent_id = agent_id
        self._task_id = task_id

    async def open(self) -> list[Interrupt]:
        """What the task waits on now; empty while it runs, and when it has ended."""
        dialogue, last = await self._read()
        if last != "interrupted":
            return []
        return [await self._interrupt(item) for item in dialogue.open.values()]

    async def answer(self, interrupt_id: str, value: Any) -> ResumeAnswer:
        """Store an answer; see `Client.resume_task`."""
        require_token("interrupt", interrupt_id)
        dialogue, last = await self._read()
        if last in {"completed", "failed", "cancelled", "rejected"}:
            return "already_finished"
        if interrupt_id in dialogue.answered:
            return "already_answered"
        if interrupt_id not in dialogue.open:
            return "not_waiting"
        target = (self._agent_id, self._task_id, interrupt_id)
        is_ours = await submit.send_answer(self._js, self._names, self._blobs, target, value)
        return "accepted" if is_ours else "already_answered"

    async def _read(self) -> tuple[Dialogue, str]:
        """What was asked and answered, and the task's status; empty before its first event."""
        stream, subject, dialogue, status = self._names.events, self._lifecycle, Dialogue(), ""
        newest = await patiently(lambda: self._js.last_message(stream, subject), give_up_s=submit.PATIENCE_S)
        until_seq = newest.seq if newest is not None else 0
        async for message in stored_until(
            self._js, stream, subject, until_seq=until_seq, give_up_s=submit.PATIENCE_S
        ):
            try:
                event = decode_event(message.data, seq=message.seq, stream=message.stream)
            except WireError:
                continue  # Foreign bytes are nobody's question.
            dialogue.take(event.type, event.data)
            status = event.status or status
        return dialogue, status

    @property
    def _lifecycle(self) -> str:
        return self._names.lifecycle(self._agent_id, self._task_id)

    async def _interrupt(self, item: dict[str, Any]) -> Interrupt:
        members = {name: await self._whole(item.get(name)) for name in ("value", "schema")}
        timeout_at = item.get("timeout_at")
        moment = datetime.fromisoformat(timeout_at) if isinstance(timeout_at, str) else None
        return Interrupt(id=item["id"], timeout_at=moment, **members)

    async def _whole(self, value: Any) -> Any:
        if not is_claim(value):
            return value
        sha256 = value["sha256"]
        return decode_json(await patiently(lambda: self._blobs.get(sha256, max_bytes=CLAIM_BYTES_MAX)))
