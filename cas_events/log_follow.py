"""Following the log: an agent's events, those of a type, or those of a workflow, in the order of their sequences.

A follower reads pages of the log until it stands where the shared feed stands (`log_feed`), and takes from the feed
from then on; one that is too slow goes back to pages. Invariants: every chosen event once, whatever the connection
does; memory is bounded by a page, an inbox and the keys of the last events. What a publisher had to send twice is
stored twice, and handed over once. The events of one task come in order by `follow.EventStream`, which also has its
outputs; here they come as they were stored.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from cas_events.domain.events import GAP, STEP_STARTED, Event
from cas_events.domain.tokens import require_token
from cas_events.errors import UnknownTaskError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.patience import patiently
from cas_events.log_feed import Inbox, LogFeed, LogFeeds, LogPages
from cas_events.selection import Selection
from cas_events.wire.subjects import Names

REMEMBERED_KEYS = 50_000


async def follow_log(
    feeds: LogFeeds, names: Names, selection: Selection, *, after: int | None
) -> AsyncGenerator[Event, None]:
    """Yield the chosen events behind a position, without end; None for what is stored from now on.

    Raises:
        NotConnectedError: the client was closed.
    """
    pages = feeds.pages(selection.stream(names), selection.subject_filter(names))
    position = await patiently(pages.last_seq) if after is None else after
    is_new = _Once()
    async with aclosing(_stored_and_live(feeds, pages, position)) as events:
        async for event in events:
            if event.type == GAP or (selection.matches(event) and is_new(event)):
                yield event


async def follow_workflow(
    feeds: LogFeeds, js: JetStream, names: Names, root_id: str, selection: Selection, *, after: int | None
) -> AsyncGenerator[Event, None]:
    """Yield the chosen events of a task and all its descendants, until all of them have ended.

    Raises:
        UnknownTaskError: the task is not in the log.
        NotConnectedError: the client was closed.
    """
    pages = feeds.pages(names.events, names.all_events)
    last_seq = await patiently(pages.last_seq)
    begin = await patiently(lambda: _position_before(js, names, root_id, last_seq))
    shown_after = last_seq if after is None else after
    family, is_new = Family(root_id), _Once()
    async with aclosing(_stored_and_live(feeds, pages, begin)) as events:
        async for event in events:
            if event.type != GAP and not (family.take(event) and is_new(event)):
                continue
            if event.seq > shown_after and (event.type == GAP or selection.matches(event)):
                yield event
            if event.is_terminal and family.has_ended(root_id):
                for child in family.unheard():
                    if not await _is_commanded(js, names, child):
                        family.forget(child)
                if family.is_over:
                    return


class Family:
    """Who belongs to a workflow: the root, and whoever has a parent in it. Pure."""

    def __init__(self, root_id: str) -> None:
        self._root_id = root_id
        self._members = {root_id}
        self._heard: set[str] = set()
        self._ended: set[str] = set()

    @property
    def is_over(self) -> bool:
        """Whether every member has ended."""
        return self._members == self._ended

    def take(self, event: Event) -> bool:
        """Learn from an event of the log; whether it is a member's."""
        task_id = event.task_id
        if not task_id or event.is_duplicate_rejection:
            return False
        if task_id not in self._members:
            if event.parent_id not in self._members and event.correlation_id != self._root_id:
                return False
            self._members.add(task_id)
        self._heard.add(task_id)
        if event.is_terminal:
            self._ended.add(task_id)
        child = event.data.get("child") if event.type == STEP_STARTED else None
        if isinstance(child, dict) and isinstance(child.get("task_id"), str):
            self._members.add(
                child["task_id"]
            )  # Recorded before it is started: it is waited for from now on.
        return True

    def has_ended(self, task_id: str) -> bool:
        """Whether a member has ended."""
        return task_id in self._ended

    def unheard(self) -> list[str]:
        """Members that a parent has recorded and of which nothing else is known."""
        return sorted(self._members - self._heard)

    def forget(self, task_id: str) -> None:
        """A member that was recorded but never started."""
        self._members.discard(task_id)


async def _stored_and_live(feeds: LogFeeds, pages: LogPages, position: int) -> AsyncGenerator[Event, None]:
    """Everything behind a position, once: from pages, then from the feed, and back when it was too slow."""
    owner = object()
    feed = feeds.take(pages, await patiently(pages.last_seq), owner)
    try:
        while True:
            while position < feed.position:
                target = feed.position
                page = await patiently(lambda: pages.read(position))  # noqa: B023 - awaited here
                for event in page.events:
                    yield event
                # Nothing behind it: what the feed saw there is gone, or none of ours.
                position = page.until if page.events or page.more else max(page.until, target)
            async with aclosing(_from_feed(feed, position)) as events:
                async for event in events:
                    position = max(position, event.seq)
                    yield event
    finally:
        feeds.give_back(pages, owner)


async def _from_feed(feed: LogFeed, position: int) -> AsyncGenerator[Event, None]:
    """What the feed hands over behind a position, until the reader of it is too slow."""
    inbox = Inbox()
    feed.join(inbox)
    try:
        while True:
            await inbox.wait()
            while inbox.events:
                event = inbox.events.popleft()
                if event.seq > position:
                    yield event
            if inbox.error is not None:
                raise inbox.error
            if inbox.is_cut:
                return
    finally:
        feed.leave(inbox)


async def _position_before(js: JetStream, names: Names, task_id: str, last_seq: int) -> int:
    """A position before everything of a task, and not much before it."""
    command = await js.next_message(names.commands, names.execute("*", require_token("task id", task_id)))
    if command is None:
        raise UnknownTaskError(task_id)
    first = await js.next_message(names.events, names.lifecycle(command.subject.split(".")[3], task_id))
    return last_seq if first is None else min(first.seq - 1, last_seq)


async def _is_commanded(js: JetStream, names: Names, task_id: str) -> bool:
    command = names.execute("*", task_id)
    return await patiently(lambda: js.next_message(names.commands, command)) is not None


def _once_key(event: Event) -> tuple[str, str, int, int] | str:
    return (event.agent_id, event.task_id, event.attempt, event.index) if event.task_id else event.id


class _Once:
    """Says of each event whether its key is new, as far back as it remembers."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str, int, int] | str, None] = {}

    def __call__(self, event: Event) -> bool:
        key = _once_key(event)
        if key in self._keys:
            return False
        self._keys[key] = None
        if len(self._keys) > REMEMBERED_KEYS:
            del self._keys[next(iter(self._keys))]
        return True
