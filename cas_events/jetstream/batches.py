"""Several messages of one stream at once: one after another, or together or not at all.

An atomic batch is ADR-50 of nats-architecture-and-design. The messages go out back to back and only the last one is answered, so a batch costs one round trip. A condition on its
first message is the condition of all of it. At most 1,000 messages; a batch that is not completed within 10 s, by a
crash for example, never was. On a stream with one copy the server stages each batch in files of its own, which costs it milliseconds
(measured: 5 ms for two small messages, against 0.3 ms for one without a batch); there, `append_each` is for what need not be atomic.
Nothing here retries.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Sequence
from typing import NamedTuple

from cas_events.errors import NoRespondersError, ServerError, StreamUnavailableError
from cas_events.jetstream.api import JetStream, PubAck, decode_ack
from cas_events.jetstream.messages import Message, build_header

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


async def append_each(js: JetStream, messages: Sequence[Outgoing], *, timeout_s: float = 5.0) -> None:
    """Store messages one after another, all of them on their way at once; returns when the last one is stored.

    Raises:
        ServerError: as `append_together`, for the first one that failed; the others may be stored.
    """
    answers = []
    for each in messages:
        header = build_header(each.headers)
        answer = js.connection.request(each.subject, each.payload, header=header, timeout_s=timeout_s)
        answer.add_done_callback(_look_at)
        answers.append(answer)
    failure: BaseException | None = None
    for subject, answer in zip((each.subject for each in messages), answers, strict=True):
        try:
            decode_ack((await answer).data)
        except NoRespondersError:
            failure = failure or StreamUnavailableError(subject)
        except ServerError as error:
            failure = failure or error
    if failure is not None:
        raise failure


def _header(message: Outgoing, batch: str, number: int, *more: tuple[str, str]) -> bytes:
    own = (("Nats-Batch-Id", batch), ("Nats-Batch-Sequence", str(number)), *more)
    return build_header((*message.headers, *own))


def _look_at(answer: asyncio.Future[Message]) -> None:
    """Whoever waits may be gone, or have seen another failure first; this one is then nobody's."""
    if not answer.cancelled():
        answer.exception()
