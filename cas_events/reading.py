"""`Client.follow` and `Client.replay`: which way of reading the log answers which question."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Literal, NamedTuple, TypedDict

from cas_events.domain.events import GAP, OUTPUT, Event
from cas_events.jetstream.patience import patiently
from cas_events.log_follow import follow_log, follow_workflow
from cas_events.moments import span_of
from cas_events.replay import Pace, Span, moment_of, paced, replay_events
from cas_events.selection import Selection
from cas_events.session import Session

FollowFrom = Literal["now", "start"] | int


class Choice(NamedTuple):
    """What to read; None chooses everything."""

    task_id: str | None = None
    agent: str | None = None
    workflow: str | None = None
    type: str | None = None


class ReplayOptions(TypedDict, total=False):
    """What a replay may be told beyond what to read.

    Attributes:
        to_seq: sequence of the last event.
        since: only what was stored at this time or later: an aware time, or text in ISO 8601 (UTC without an offset).
        until: only what was stored until this time.
        speed: 1.0 for the pace in which it happened, 10.0 for ten times that; as fast as possible without it.
        pause_max_s: with a speed: no longer pause than this between two events, in seconds.
        on_fallback: told why, when a time is looked up in the stream because no projector answers.
    """

    to_seq: int
    since: datetime | str | None
    until: datetime | str | None
    speed: float | None
    pause_max_s: float | None
    on_fallback: Callable[[str], None]


async def replay(
    session: Session, choice: Choice, *, from_seq: int, follow: bool, options: ReplayOptions
) -> AsyncIterator[Event]:
    """See `Client.replay`."""
    selection = Selection.of(choice.agent, choice.type)
    since, until = options.get("since"), options.get("until")
    speed = options.get("speed")
    if speed is not None and speed <= 0:
        raise ValueError(f"speed {speed} is not above 0")
    span = await span_of(
        session.js,
        session.names,
        selection.stream(session.names),
        since=None if since is None else moment_of(since),
        until=None if until is None else moment_of(until),
        span=Span(from_seq, options.get("to_seq")),
        on_fallback=options.get("on_fallback"),
    )
    events = replay_events(
        session.connection,
        session.js,
        session.names,
        selection,
        task_id=choice.task_id,
        span=span,
        follow=follow,
    )
    if speed is not None:
        events = paced(events, Pace(speed, options.get("pause_max_s")))
    async for event in events:
        yield event


def follow(
    session: Session, choice: Choice, *, after: int | None, from_: FollowFrom | None
) -> AsyncIterator[Event]:
    """See `Client.follow`."""
    named = [value for value in (choice.task_id, choice.agent, choice.workflow) if value is not None]
    if len(named) > 1:
        raise ValueError("follow a task, an agent or a workflow, not several of them")
    if after is not None and from_ is not None:
        raise ValueError("give `after` or `from_`, not both")
    if isinstance(from_, int):
        after = max(0, from_ - 1)
    elif from_ == "start" or (from_ is None and after is None and (choice.task_id or choice.workflow)):
        after = 0
    selection = Selection.of(choice.agent, choice.type)
    if choice.task_id is not None:
        return _follow_task(session, choice.task_id, selection, after)
    if choice.workflow is not None:
        if selection.type == OUTPUT:
            raise ValueError("outputs are in a stream of their own: follow each task of a workflow for them")
        root = choice.workflow
        return follow_workflow(session.feeds, session.js, session.names, root, selection, after=after)
    return follow_log(session.feeds, session.names, selection, after=after)


async def _follow_task(
    session: Session, task_id: str, selection: Selection, after: int | None
) -> AsyncIterator[Event]:
    if after is None:
        stream = session.names.events
        after = (await patiently(lambda: session.js.stream_info(stream))).state.last_seq
    task = await session.find(task_id)
    async with aclosing(task.events(after=after)) as events:
        async for event in events:
            if event.type == GAP or selection.matches(event):
                yield event
