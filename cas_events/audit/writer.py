"""Signs the log as it grows: one head every so many messages or seconds, appended to the log itself.

Where to go on stands in the log: the newest head of the own key, whose signature and root are checked before anything
is built on it. Without one (first start, another key) the trees begin at the first message of each stream. A head is
made only when something besides heads was stored, so heads cause no heads, whoever else writes some. Each head names
the head before it, whoever signed that, and is stored only if that still is the newest: the heads are one chain.

Invariants: nothing is signed that was not read; a log that ends before what was signed is an error, never a new
beginning; memory is bounded by ``events`` (8 bytes each) and one batch of the reader. Does not judge what was signed:
that is `verify`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

import msgspec

from cas_events.audit.heads import is_signed, sign_head
from cas_events.audit.keys import SigningKey
from cas_events.domain.events import AUDIT_HEAD
from cas_events.domain.merkle import Frontier
from cas_events.errors import AuditError, CasEventsError, ServerError, WireError, WrongLastSequenceError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.reader import StreamReader
from cas_events.uuid7 import uuid7
from cas_events.wire.audit import (
    FINGERPRINT_BYTES,
    Head,
    StreamHead,
    decode_head,
    hash_message,
    hash_missing,
    stream_head,
)
from cas_events.wire.envelope import encode_audit_event
from cas_events.wire.subjects import Names

log = logging.getLogger(__name__)

DEFAULT_EVENTS = 5_000
DEFAULT_INTERVAL_S = 60.0
_LOOK_S = 1.0  # How often the streams' ends are asked for.
_PAUSE_S = 5.0  # After an error of the server.
_LONG_PAUSE_S = 60.0  # After one that does not go away by itself.
_REST_BYTES = 16 * 1024  # Of a head, without its fingerprints, at most.
_YIELD_EVERY = 500  # messages, about 1 ms
_BACK_MAX = 256  # Heads to go back one by one before they are all read.


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often a head is made.

    Attributes:
        events: after so many new messages of a stream, 1 to 10,000: the fingerprints of as many stay well below what
            may stand inline in an event (256 KiB).
        interval_s: or when the oldest message without a head has waited so long.
    """

    events: int = DEFAULT_EVENTS
    interval_s: float = DEFAULT_INTERVAL_S


@dataclass(slots=True)
class _Growing:
    """One stream's tree while it grows."""

    stream: str
    first: int
    tree: Frontier
    since: int
    fingerprints: bytearray = field(default_factory=bytearray)

    @property
    def next_seq(self) -> int:
        return self.first + self.tree.size

    def add(self, leaf_hash: bytes) -> None:
        self.tree.append(leaf_hash)
        self.fingerprints += leaf_hash[:FINGERPRINT_BYTES]

    def head(self) -> StreamHead:
        return stream_head(self.stream, self.first, self.tree, self.since, bytes(self.fingerprints))


class HeadWriter:
    """Signs one deployment's log.

    Args:
        connection: to the server.
        names: of the deployment.
        key: to sign with.
        source: who writes: ``cas/projector/<id>``.
        pace: how often.
    """

    def __init__(
        self, connection: Connection, names: Names, key: SigningKey, *, source: str, pace: Pace | None = None
    ) -> None:
        self._connection = connection
        self._js = JetStream(connection)
        self._names = names
        self._key = key
        self._source = source
        self._pace = pace or Pace()
        # Two streams' fingerprints, in base64, have to fit one message.
        fitting = (connection.max_payload_bytes - _REST_BYTES) // (2 * FINGERPRINT_BYTES * 4 // 3 + 1)
        self._events = max(1, min(self._pace.events, fitting))
        self._streams: list[_Growing] = []
        self._unsigned = 0
        self._waiting_since_s: float | None = None

    async def run(self) -> None:
        """Sign until cancelled.

        An error ends no more than this try: it is logged, and the next begins from the newest head that is stored.
        """
        while True:
            try:
                await self._resume()
                while True:
                    while await self.step():
                        pass
                    await asyncio.sleep(_LOOK_S)
            except ServerError as error:
                log.warning("the log is not signed for now: %s", error)
                pause_s = _PAUSE_S
            except CasEventsError as error:
                log.error("the log is not signed: %s", error)  # noqa: TRY400 - it says all in one line
                pause_s = _LONG_PAUSE_S
            except Exception:
                # Tables and answers must not stop because signing does; `cas audit verify` shows what lacks a head.
                log.exception("the log is not signed")
                pause_s = _LONG_PAUSE_S
            self._streams, self._unsigned = [], 0
            await asyncio.sleep(pause_s)

    async def sign_now(self) -> int | None:
        """Sign everything that is stored; the last head's sequence, None if nothing but heads was new."""
        if not self._streams:
            await self._resume()
        seq = None
        while await self._read_on():
            seq = await self._append()
        return await self._append() if self._unsigned else seq

    async def step(self) -> bool:
        """Take in what is new and sign it, if it is time; whether there is more to take in."""
        new = [await self._last_seq(growing) - growing.next_seq + 1 for growing in self._streams]
        if not any(new):
            self._waiting_since_s = None
            return False
        now_s = time.monotonic()
        if self._waiting_since_s is None:
            self._waiting_since_s = now_s
        if max(new) < self._events and now_s - self._waiting_since_s < self._pace.interval_s:
            return False
        is_full = await self._read_on()
        if is_full or self._unsigned:
            await self._append()
        self._waiting_since_s = None
        return is_full

    # --- where to go on

    async def _resume(self) -> None:
        own = await self._newest_own()
        parts = {part.stream: part for part in own.streams} if own else {}
        streams = []
        for name in (self._names.commands, self._names.events):
            state = (await self._js.stream_info(name)).state
            part = parts.get(name)
            if part is None:
                first = max(1, state.first_seq)
                streams.append(_Growing(name, first, Frontier(), first))
                continue
            if state.last_seq < part.last:
                raise AuditError(
                    f"{name} ends at {state.last_seq}, but a head of this key signed it up to {part.last}: "
                    f"messages are gone; see `cas audit verify`"
                )
            streams.append(_Growing(name, part.first, part.tree(), part.last + 1))
        self._streams, self._unsigned = streams, 0

    async def _newest_own(self) -> Head | None:
        """The newest head that this key signed; None if there is none. Anybody may have put something else there."""
        message = await self._js.last_message(self._names.events, self._names.audit_head)
        for _ in range(_BACK_MAX):
            if message is None:
                return None
            try:
                head = decode_head(message.data, f"{message.stream} {message.seq}")
            except WireError as error:
                log.warning("passed over: %s", error)
                break  # It names no head before it.
            if head.public_key == self._key.public_key:
                if _is_own(head):
                    return head
                log.warning(
                    "passed over: %s %d bears this key, but not its signature", message.stream, message.seq
                )
                break
            if head.previous is None or head.previous.seq >= message.seq:
                break
            message = await self._js.message(self._names.events, head.previous.seq)
        return await self._search_own(message)

    async def _search_own(self, until: StoredMessage | None) -> Head | None:
        """The same by reading every head: the way back is long or broken."""
        newest = None
        if until is None:
            return None
        filters = (self._names.audit_head,)
        async with StreamReader(self._connection, self._names.events, filters=filters) as reader:
            async for batch in reader.batches():
                for message in batch.messages:
                    try:
                        head = decode_head(message.data, f"{message.stream} {message.seq}")
                    except WireError:
                        continue  # Said above, or of no interest.
                    if head.public_key == self._key.public_key and _is_own(head):
                        newest = head
                if not batch.pending:
                    break
        return newest

    # --- taking in

    async def _read_on(self) -> bool:
        """Take in what is stored, up to a full head; whether it is full."""
        is_full = False
        for growing in self._streams:
            last_seq = await self._last_seq(growing)
            if last_seq < growing.next_seq - 1:
                raise AuditError(
                    f"{growing.stream} ends at {last_seq}; it was read to {growing.next_seq - 1}"
                )
            full_seq = growing.since + self._events - 1
            await self._take_in(growing, min(last_seq, full_seq))
            is_full = is_full or growing.next_seq > full_seq
        return is_full

    async def _last_seq(self, growing: _Growing) -> int:
        return (await self._js.stream_info(growing.stream)).state.last_seq

    async def _take_in(self, growing: _Growing, last_seq: int) -> None:
        """Read up to a sequence; what is not there is taken in as missing."""
        if growing.next_seq > last_seq:
            return
        async with StreamReader(
            self._connection, growing.stream, from_seq=growing.next_seq, max_outstanding_messages=2_000
        ) as reader:
            async for batch in reader.batches():
                for message in batch.messages:
                    if message.seq > last_seq:
                        break
                    self._fill(growing, message.seq)
                    self._add(growing, message)
                    if not growing.tree.size % _YIELD_EVERY:
                        await asyncio.sleep(0)
                if growing.next_seq > last_seq:
                    return
                if not batch.pending and await self._is_gone(growing, last_seq):
                    self._fill(growing, last_seq + 1)
                    return

    async def _is_gone(self, growing: _Growing, last_seq: int) -> bool:
        """Whether the leader has nothing from here to a sequence: a reader's replica may only be behind."""
        message = await self._js.next_message(growing.stream, ">", from_seq=growing.next_seq)
        return message is None or message.seq > last_seq

    def _add(self, growing: _Growing, message: StoredMessage) -> None:
        growing.add(
            hash_message(
                message.stream, message.seq, message.subject, message.time_ns, message.header, message.data
            )
        )
        if message.subject != self._names.audit_head:
            self._unsigned += 1

    def _fill(self, growing: _Growing, seq: int) -> None:
        while growing.next_seq < seq:
            growing.add(hash_missing(growing.stream, growing.next_seq))
            self._unsigned += 1

    # --- signing

    async def _append(self) -> int:
        """Sign, and store behind the newest head; its sequence."""
        while True:
            newest = await self._js.last_message(self._names.events, self._names.audit_head)
            payload = self._encode(newest)
            try:
                ack = await self._js.append(
                    self._names.audit_head, payload, expected_last_seq=newest.seq if newest else 0
                )
            except WrongLastSequenceError:
                continue  # Somebody else's head came between.
            break
        for growing in self._streams:
            growing.since = growing.next_seq
            growing.fingerprints.clear()
        self._unsigned = 0
        return ack.seq

    def _encode(self, newest: StoredMessage | None) -> bytes:
        head = sign_head(self._key, [growing.head() for growing in self._streams], newest)
        return encode_audit_event(
            AUDIT_HEAD,
            event_id=uuid7(),
            source=self._source,
            time_ns=time.time_ns(),
            data=msgspec.json.encode(head),
        )


def _is_own(head: Head) -> bool:
    """Whether a head that bears this key was signed with it."""
    try:
        return is_signed(head)
    except WireError as error:
        log.debug("a head contradicts itself: %s", error)
        return False
