"""What became of a task, as its caller gets it."""

from __future__ import annotations

from typing import Any

import msgspec

from cas_events.domain.events import Event
from cas_events.domain.limits import CLAIM_BYTES_MAX
from cas_events.jetstream.blobs import BlobStore
from cas_events.jetstream.patience import patiently
from cas_events.wire.claims import is_claim
from cas_events.wire.jsonvalue import decode_json


class TaskResult(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a task.

    Attributes:
        task_id: the task.
        status: ``completed``, ``failed``, ``cancelled`` or ``rejected``.
        output: what the agent returned; None unless completed.
        error: ``type``, ``message`` and more, of a failed task; None otherwise.
        reason: why it failed, was cancelled or rejected, in a word or the caller's own words.
        seq: `CAS_EVENTS` sequence of the terminal event, good for ``wait_for``.
        attempt: the attempt that it ended in.
    """

    task_id: str
    status: str
    output: Any = None
    error: dict[str, Any] | None = None
    reason: str | None = None
    seq: int = 0
    attempt: int = 0

    @property
    def is_success(self) -> bool:
        """Whether the task completed."""
        return self.status == "completed"


async def result_from(event: Event, blobs: BlobStore) -> TaskResult:
    """Read a terminal event; an output that is a claim check is fetched."""
    output: Any = event.data.get("output")
    if is_claim(output):
        sha256 = output["sha256"]
        output = decode_json(await patiently(lambda: blobs.get(sha256, max_bytes=CLAIM_BYTES_MAX)))
    error, reason = event.data.get("error"), event.data.get("reason")
    if event.status == "rejected":
        error = {"type": "Rejected", "message": str(event.data.get("detail", ""))}
    return TaskResult(
        task_id=event.task_id,
        status=event.status or "",
        output=output,
        error=error if isinstance(error, dict) else None,
        reason=reason if isinstance(reason, str) else None,
        seq=event.seq,
        attempt=event.attempt,
    )
