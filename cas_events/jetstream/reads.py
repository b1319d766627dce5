"""Reads that decide: coherent with everything that was stored before, and as cheap as that can be.

A decision needs the leader's word (`STREAM.MSG.GET`; ADR-31: a direct get is answered by any replica). A stream with
one replica has nobody else to answer, and there a direct get costs the server a quarter to a fifth of it (measured:
7 to 10 µs against 33). So: direct while the stream is known to have one replica, the leader otherwise.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from cas_events.jetstream.answers import decode_direct_read, decode_leader_read
from cas_events.jetstream.connection import Connection, Message
from cas_events.jetstream.messages import StoredMessage

_TIMEOUT_S = 5.0


class PendingRead:
    """A read that is on its way; await it for the message, or None if there is none."""

    __slots__ = ("_answer", "_is_direct", "_stream")

    def __init__(self, stream: str, answer: Any, *, is_direct: bool) -> None:
        self._stream = stream
        self._answer = answer
        self._is_direct = is_direct

    def __await__(self) -> Generator[Any, None, StoredMessage | None]:
        answer: Message = yield from self._answer
        if self._is_direct:
            return decode_direct_read(self._stream, answer)
        return decode_leader_read(self._stream, answer.data)


class DecidingReads:
    """Coherent reads of one stream.

    Args:
        connection: to the server.
        stream: the stream.

    Attributes:
        is_single_copy: whether the stream has one replica; whoever knows keeps it true to the facts.
    """

    def __init__(self, connection: Connection, stream: str) -> None:
        self.is_single_copy = False
        self._connection = connection
        self._stream = stream
        self._direct = f"$JS.API.DIRECT.GET.{stream}"
        self._leader = f"$JS.API.STREAM.MSG.GET.{stream}"

    def last(self, subject: str) -> PendingRead:
        """The newest message of an exact subject; sent at once.

        Raises:
            NotConnectedError: nothing was sent.
        """
        return self._send(b'{"last_by_subj":"%b"}' % subject.encode())

    def first(self, subject_filter: str) -> PendingRead:
        """The oldest message that matches a filter; sent at once.

        Raises:
            NotConnectedError: nothing was sent.
        """
        return self._send(b'{"seq":1,"next_by_subj":"%b"}' % subject_filter.encode())

    def glance(self, subject: str) -> PendingRead:
        """As `last`, from any replica, which may be behind: not for decisions.

        Raises:
            NotConnectedError: nothing was sent.
        """
        return self._send(b'{"last_by_subj":"%b"}' % subject.encode(), is_direct=True)

    def _send(self, query: bytes, *, is_direct: bool | None = None) -> PendingRead:
        if is_direct is None:
            is_direct = self.is_single_copy
        api = self._direct if is_direct else self._leader
        answer = self._connection.request(api, query, timeout_s=_TIMEOUT_S)
        return PendingRead(self._stream, answer, is_direct=is_direct)
