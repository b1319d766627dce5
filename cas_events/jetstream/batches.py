"""Atomic batches: several messages of one stream stored together or not at all (ADR-50 of nats-architecture-and-design).

The messages go out back to back and only the last one is answered, so a batch costs one round trip. A condition on its
first message is the condition of all of it. At most 1,000 messages; a batch that is not completed within 10 s, by a
crash for example, never was. Nothing here retries.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Sequence
from typing import NamedTuple

from cas_events.jetstream.api import JetStream, PubAck
from cas_events.jetstream.messages import build_header

BATCH_MESSAGES_MAX = 1000
# Too many open batches, or one that the server gave up: nothing of it was stored, and it may be sent anew.
UNFINISHED = frozenset({10176, 10210, 10211})

_prefix = uuid.uuid4().hex[:12]
_numbers = itertools.count(1)


class Outgoing(NamedTuple):
    """A message that is to be stored.

    Attributes:
        subject: where.
        payload: what.
        headers: names and values.
    """

    subject: str
    payload: bytes
    headers: tuple[tuple[str, str], ...] = ()


async def append_together(js: JetStream, messages: Sequence[Outgoing], *, timeout_s: float = 5.0) -> PubAck:
    """Store messages together, and wait for the server's word; one alone is an ordinary append.

    Returns:
        The acknowledgement of the last one; those before it have the sequences right before its.

    Raises:
        WrongLastSequenceError, StreamFullError, RefusedError, StreamUnavailableError, NotConnectedError: none is stored.
        ConnectionLostError: no answer; all may be stored, or none.
    """
    *before, last = messages
    if not before:
        header = build_header(last.headers) if last.headers else b""
        return await js.append(last.subject, last.payload, header=header, timeout_s=timeout_s)
    batch = f"{_prefix}{next(_numbers)}"
    for number, message in enumerate(before, start=1):
        js.connection.publish(message.subject, message.payload, header=_header(message, batch, number))
    header = _header(last, batch, len(messages), ("Nats-Batch-Commit", "1"))
    return await js.append(last.subject, last.payload, header=header, timeout_s=timeout_s)


def _header(message: Outgoing, batch: str, number: int, *more: tuple[str, str]) -> bytes:
    own = (("Nats-Batch-Id", batch), ("Nats-Batch-Sequence", str(number)), *more)
    return build_header((*message.headers, *own))
