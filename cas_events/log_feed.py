"""The newest events of the log, read once for any number of followers.

A live message says that something was stored; the log itself says what. So each filter that is followed has one core
subscription, which costs the server no consumer, and one reader of direct gets, however many follow. Live delivery may
lose messages (a reconnect, a server that restarts): at a reconnect and every few seconds the log is read without a
hint. Invariants: a feed hands over every event of its filter behind its position once, in the order of the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from datetime import UTC, datetime
from typing import NamedTuple

from cas_events.domain.events import GAP, Event
from cas_events.errors import CasEventsError, NotConnectedError, WireError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection, Message
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.patience import patiently
from cas_events.wire.envelope import decode_event
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

SWEEP_S = 5.0
PAGE_MESSAGES = 1_000
INBOX_EVENTS = 10_000


class Page(NamedTuple):
    """Stored events in order, and up to which sequence nothing of the filter is missing."""

    events: list[Event]
    until: int
    more: bool


class LogPages:
    """Reads one filter of one stream in pages, with an item for what retention took."""

    def __init__(self, js: JetStream, stream: str, subject_filter: str) -> None:
        self.js = js
        self.stream = stream
        self.subject_filter = subject_filter

    async def read(self, position: int, *, looks_for_gap: bool = True) -> Page:
        """What follows a position; from any replica first, then from the leader, so that the end is the end.

        Args:
            position: everything up to it is known.
            looks_for_gap: ask what retention took; one request more.
        """
        found, more = await self.js.direct_batch(
            self.stream, self.subject_filter, from_seq=position + 1, batch=PAGE_MESSAGES
        )
        if not found:
            newest = await self.js.next_message(self.stream, self.subject_filter, from_seq=position + 1)
            if newest is None:
                return Page([], position, more=False)
            found, more = [newest], True
        events = [event for event in map(_decoded, found) if event is not None]
        if looks_for_gap:
            first_seq = (await self.js.stream_info(self.stream)).state.first_seq
            lost_to = min(first_seq, found[0].seq) - 1
            if lost_to > position:
                events.insert(0, self._gap(position + 1, lost_to, found[0]))
        return Page(events, found[-1].seq, more)

    async def last_seq(self) -> int:
        """The newest sequence of the stream."""
        return (await self.js.stream_info(self.stream)).state.last_seq

    def _gap(self, from_seq: int, to_seq: int, before: StoredMessage) -> Event:
        data = {"stream": self.stream, "from_seq": from_seq, "to_seq": to_seq}
        time = datetime.fromtimestamp(before.time_ns / 1e9, UTC)
        return Event(type=GAP, time=time, data=data, seq=to_seq, stream=self.stream)


class Inbox:
    """Where a feed puts events for one follower."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self.is_cut = False  # Too slow: the rest has to be read from the log.
        self.error: Exception | None = None
        self._wake = asyncio.Event()

    def put(self, events: list[Event]) -> None:
        """Take what came; a follower that leaves too much untaken is cut off."""
        if len(self.events) + len(events) > INBOX_EVENTS:
            self.is_cut = True
        else:
            self.events.extend(events)
        self._wake.set()

    def end(self, error: Exception) -> None:
        """Nothing comes any more."""
        self.error = error
        self._wake.set()

    async def wait(self) -> None:
        """Return when there is something to look at."""
        while not (self.events or self.is_cut or self.error):
            self._wake.clear()
            await self._wake.wait()


class LogFeed:
    """The live end of one filter.

    Args:
        connection: the client's.
        names: of the deployment.
        pages: of the filter.
        position: from where on the feed reads.

    Attributes:
        position: everything of the filter up to here has been handed over.
    """

    def __init__(self, connection: Connection, names: Names, pages: LogPages, position: int) -> None:
        self.position = position
        self._pages = pages
        self._inboxes: set[Inbox] = set()
        self._failure: Exception | None = None
        self._wake = asyncio.Event()
        self._hint = 0
        self._subscription = connection.listen(names.live(pages.subject_filter), self._hear)
        self._forget = connection.on_reconnect(self._wake.set)
        self._reading = asyncio.get_running_loop().create_task(self._read())

    def join(self, inbox: Inbox) -> None:
        """Put what comes behind `position` into an inbox, from now on."""
        self._inboxes.add(inbox)
        if self._failure is not None:
            inbox.end(self._failure)

    def leave(self, inbox: Inbox) -> None:
        """Put nothing into it any more; idempotent."""
        self._inboxes.discard(inbox)

    def stop(self, error: Exception | None = None) -> None:
        """Read no more; whoever still follows gets the error."""
        self._subscription.unsubscribe()
        self._forget()
        self._reading.cancel()
        if error is not None:
            self._end(error)

    def _hear(self, message: Message) -> None:
        self._hint = max(self._hint, int(message.header_value("Nats-Sequence") or 0))
        self._wake.set()

    async def _read(self) -> None:
        try:
            is_hinted = False
            while True:
                self._wake.clear()
                hint = self._hint
                page = await patiently(
                    lambda: self._pages.read(self.position, looks_for_gap=not is_hinted)  # noqa: B023 - awaited here
                )
                if page.events:
                    self._hand_over(page.events)
                # Nothing behind it: what was heard of is gone again.
                self.position = page.until if page.events or page.more else max(page.until, hint)
                is_hinted = self._hint > self.position
                if not (page.more or is_hinted):
                    is_hinted = await self._until_woken()
        except CasEventsError as error:  # The stream is gone, for example: nobody is left waiting.
            _log.warning("following %s has ended: %s", self._pages.stream, error)
            self._end(error)
        except Exception as error:  # A fault of ours must not leave everybody waiting in silence.
            _log.exception("following %s has failed", self._pages.stream)
            self._end(error)

    async def _until_woken(self) -> bool:
        """Wait for a sign; whether it was a message, not a reconnect or that nothing came for long."""
        try:
            async with asyncio.timeout(SWEEP_S):
                await self._wake.wait()
        except TimeoutError:
            return False
        return self._hint > self.position

    def _hand_over(self, events: list[Event]) -> None:
        for inbox in list(self._inboxes):
            inbox.put(events)
            if inbox.is_cut:
                self._inboxes.discard(inbox)

    def _end(self, error: Exception) -> None:
        self._failure = error
        for inbox in self._inboxes:
            inbox.end(error)


class LogFeeds:
    """The feeds of one client: one a filter, for as long as somebody follows."""

    def __init__(self, connection: Connection, js: JetStream, names: Names) -> None:
        self._connection = connection
        self._js = js
        self._names = names
        self._feeds: dict[tuple[str, str], tuple[LogFeed, list[object]]] = {}
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._feeds)

    def pages(self, stream: str, subject_filter: str) -> LogPages:
        """Pages of a filter."""
        return LogPages(self._js, stream, subject_filter)

    def take(self, pages: LogPages, position: int, owner: object) -> LogFeed:
        """The feed of a filter for one more follower; a new one reads from the position on.

        Raises:
            NotConnectedError: the client is closed.
        """
        if self._is_closed:
            raise NotConnectedError("the client is closed")
        key = (pages.stream, pages.subject_filter)
        if key not in self._feeds:
            self._feeds[key] = (LogFeed(self._connection, self._names, pages, position), [])
        feed, owners = self._feeds[key]
        owners.append(owner)
        return feed

    def give_back(self, pages: LogPages, owner: object) -> None:
        """One follower less; the last one stops the feed."""
        key = (pages.stream, pages.subject_filter)
        if key not in self._feeds:
            return
        feed, owners = self._feeds[key]
        owners.remove(owner)
        if not owners:
            del self._feeds[key]
            feed.stop()

    def close(self) -> None:
        """The client is closed: end every feed, and tell whoever follows."""
        self._is_closed = True
        for feed, _ in self._feeds.values():
            feed.stop(NotConnectedError("the client was closed while the log went on"))
        self._feeds.clear()


def _decoded(message: StoredMessage) -> Event | None:
    try:
        return decode_event(message.data, seq=message.seq, stream=message.stream)
    except WireError as error:
        _log.warning("skipped a foreign message: %s", error)
        return None
