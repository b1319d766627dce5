"""From times to sequences of the log: a question to the tables, or to the stream when no projector answers.

A time is when the server stored an event. The tables know it of every event, so it is one question, whatever the
length of the log. Without a projector the server searches its stream by start time, which may have to look into more
than one of its blocks; nothing is read but one message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from cas_events.errors import ProjectionError, QueryError
from cas_events.jetstream.api import JetStream
from cas_events.replay import Span
from cas_events.sql_client import query
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

_TICK = timedelta(microseconds=1)
_LAST_BEFORE = "SELECT cas_seq_at(?::TIMESTAMP)"


async def span_of(
    js: JetStream,
    names: Names,
    stream: str,
    *,
    since: datetime | None,
    until: datetime | None,
    span: Span,
    on_fallback: Callable[[str], None] | None = None,
) -> Span:
    """The part of a range of sequences that was stored between two times, both included.

    Args:
        js: of the client.
        names: of the deployment.
        stream: whose sequences; the tables know those of the event stream.
        since: not before this; None for no bound.
        until: not after this; None for no bound.
        span: the range.
        on_fallback: told why, when the stream itself has to be asked.
    """
    if since is None and until is None:
        return span
    if stream != names.events:
        return await _from_stream(js, stream, since, until, span)
    first, last = span
    try:
        newest = (await js.stream_info(stream)).state.last_seq
        if since is not None:
            first = max(first, await _last_before(js, names, since - _TICK, newest) + 1)
        if until is not None:
            last = _least(last, await _last_before(js, names, until, newest))
    except ProjectionError as error:
        if isinstance(error, QueryError):
            raise
        _log.info("times are looked up in the stream: %s", error)
        if on_fallback is not None:
            on_fallback(str(error))
        return await _from_stream(js, stream, since, until, span)
    return Span(first, last)


async def _from_stream(
    js: JetStream, stream: str, since: datetime | None, until: datetime | None, span: Span
) -> Span:
    first, last = span
    if since is not None:
        first = max(first, await _first_from(js, stream, since))
    if until is not None:
        last = _least(last, await _first_from(js, stream, until + _TICK) - 1)
    return Span(first, last)


async def _last_before(js: JetStream, names: Names, moment: datetime, newest: int) -> int:
    text = moment.replace(tzinfo=None).isoformat()
    answer = await query(js.connection, names.deployment, _LAST_BEFORE, [text], wait_for=newest)
    return int(answer.rows[0][0])


async def _first_from(js: JetStream, stream: str, moment: datetime) -> int:
    """The first sequence that was stored at a time or later; one behind the newest if there is none."""
    found = await js.first_since(stream, moment)
    return (await js.stream_info(stream)).state.last_seq + 1 if found is None else found.seq


def _least(one: int | None, other: int) -> int:
    return other if one is None else min(one, other)
