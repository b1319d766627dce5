"""Reading subjects in pages from any replica: as far as it has them, or up to a message that the leader has named."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from functools import partial

from cas_events.jetstream.api import JetStream
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.patience import patiently

BEHIND_PAUSE_S = 0.02


async def stored_at_a_replica(
    js: JetStream,
    stream: str,
    subject_filter: str,
    *,
    from_seq: int = 1,
    give_up_s: float = math.inf,
) -> AsyncIterator[StoredMessage]:
    """Every message that matches, oldest first, as far as the copies that answer have them.

    Args:
        js: the connection's JetStream.
        stream: the stream's name.
        subject_filter: subjects, perhaps with wildcards.
        from_seq: where to begin.
        give_up_s: how long a server that is away is waited for, per page.
    """
    more = True
    while more:
        read = partial(js.direct_batch, stream, subject_filter, from_seq=from_seq)
        messages, more = await patiently(read, give_up_s=give_up_s)
        more = more and bool(messages)
        for message in messages:
            from_seq = message.seq + 1
            yield message


async def stored_until(
    js: JetStream, stream: str, subject: str, *, until_seq: int, give_up_s: float = math.inf
) -> AsyncIterator[StoredMessage]:
    """Every message of a subject, oldest first, at least up to the stored one at ``until_seq``.

    Args:
        js: the connection's JetStream.
        stream: the stream's name.
        subject: an exact subject.
        until_seq: sequence of one of its messages; a replica that does not have it yet is asked again. 0 for nothing.
        give_up_s: how long a server that is away is waited for, per page.
    """
    from_seq = 1
    while from_seq <= until_seq:
        read = partial(js.direct_batch, stream, subject, from_seq=from_seq)
        messages, _ = await patiently(read, give_up_s=give_up_s)
        for message in messages:
            from_seq = message.seq + 1
            yield message
        if not messages:  # A replica that is behind.
            await asyncio.sleep(BEHIND_PAUSE_S)
