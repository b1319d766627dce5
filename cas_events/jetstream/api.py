"""JetStream over raw requests: append, read, and ask about streams and consumers.

Requests and answers are the server's JSON (https://docs.nats.io/reference/reference-protocols/nats_api_reference),
decoded into structs; no nats-py JetStream objects. Server errors are told apart by their code (`answers`). Nothing
here retries: who calls knows what a second try would mean.

Ambiguity of an append (PROTOCOL section 4): `ConnectionLostError` may or may not have been stored; every other error
was surely not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from cas_events.errors import NoRespondersError, RefusedError, StreamUnavailableError
from cas_events.jetstream.answers import (
    ApiError,
    ConsumerInfo,
    PubAck,
    StreamInfo,
    StreamState,
    checked,
    decode_ack,
    decode_consumer,
    decode_direct,
    decode_leader_read,
    decode_stream,
    refusal,
)
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import Message, StoredMessage

__all__ = [
    "ApiError",
    "ConsumerInfo",
    "JetStream",
    "PubAck",
    "StreamInfo",
    "StreamState",
    "decode_ack",
    "refusal",
]

_API = "$JS.API."
_TIMEOUT_S = 5.0
# One answer to a batched direct get; the server cuts off a connection that is 64 MiB behind.
_BATCH_BYTES = 4 * 1024 * 1024

_encode = msgspec.json.Encoder().encode


class JetStream:
    """The server's JetStream, through one connection. Has no state of its own."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    # --- appending

    async def append(
        self,
        subject: str,
        payload: bytes,
        *,
        expected_last_seq: int | None = None,
        header: bytes = b"",
        timeout_s: float = _TIMEOUT_S,
    ) -> PubAck:
        """Store one message and wait for the server's word.

        Args:
            subject: the exact subject.
            payload: the bytes to store.
            expected_last_seq: store only if this is the last sequence of the subject; 0: if there is none.
            header: a raw header block of one's own; with it, ``expected_last_seq`` is added to its end.
            timeout_s: how long to wait for the answer.

        Raises:
            WrongLastSequenceError: the condition does not hold, or another write of the subject is in flight.
            StreamFullError: a limit of the stream, account or server is reached.
            RefusedError: refused for another reason; not stored.
            StreamUnavailableError, NotConnectedError: surely not stored.
            ConnectionLostError: no answer; it may have been stored.
        """
        if expected_last_seq is not None:
            header = _with_expectation(header, expected_last_seq)
        try:
            answer = await self.connection.request(subject, payload, header=header, timeout_s=timeout_s)
        except NoRespondersError:
            raise StreamUnavailableError(subject) from None
        return decode_ack(answer.data)

    # --- reading from the leader: coherent with what was appended before

    async def last_message(
        self, stream: str, subject: str, *, timeout_s: float = _TIMEOUT_S
    ) -> StoredMessage | None:
        """The newest message of a subject, from the stream's leader; None if there is none."""
        return await self._leader_read(stream, {"last_by_subj": subject}, timeout_s)

    async def next_message(
        self, stream: str, subject_filter: str, *, from_seq: int = 1, timeout_s: float = _TIMEOUT_S
    ) -> StoredMessage | None:
        """The first message at or after a sequence that matches the filter, from the leader; None if there is none."""
        return await self._leader_read(stream, {"seq": from_seq, "next_by_subj": subject_filter}, timeout_s)

    async def message(self, stream: str, seq: int, *, timeout_s: float = _TIMEOUT_S) -> StoredMessage | None:
        """The message with this sequence, from the leader; None if it is not (or no longer) there."""
        return await self._leader_read(stream, {"seq": seq}, timeout_s)

    async def _leader_read(
        self, stream: str, query: dict[str, Any], timeout_s: float
    ) -> StoredMessage | None:
        return decode_leader_read(stream, await self._call(f"STREAM.MSG.GET.{stream}", query, timeout_s))

    # --- reading in batches from any replica, which may miss the newest messages; for decisions, ask the leader

    async def direct_batch(
        self,
        stream: str,
        subject_filter: str,
        *,
        from_seq: int = 1,
        batch: int = 256,
        max_bytes: int = _BATCH_BYTES,
        timeout_s: float = _TIMEOUT_S,
    ) -> tuple[list[StoredMessage], bool]:
        """Messages that match, in order, from a sequence on, and whether there are more behind them."""
        query = {"seq": from_seq, "batch": batch, "max_bytes": max_bytes, "next_by_subj": subject_filter}
        messages, pending = await self._direct(stream, query, timeout_s)
        return messages, pending > 0

    async def direct_last(
        self, stream: str, subjects: Sequence[str], *, up_to_seq: int = 0, timeout_s: float = _TIMEOUT_S
    ) -> list[StoredMessage]:
        """The newest message of each subject (or of each that matches a filter; 1,024 at most), by sequence.

        With ``up_to_seq`` the newest until that sequence.
        """
        query = {"multi_last": list(subjects), "batch": 1024}
        messages, _ = await self._direct(
            stream, query | ({"up_to_seq": up_to_seq} if up_to_seq else {}), timeout_s
        )
        return messages

    async def first_since(
        self, stream: str, moment: datetime, *, timeout_s: float = _TIMEOUT_S
    ) -> StoredMessage | None:
        """The first message that was stored at an aware time or later; None if there is none."""
        query = {"batch": 1, "start_time": moment.isoformat(), "next_by_subj": ">"}
        messages, _ = await self._direct(stream, query, timeout_s)
        return messages[0] if messages else None

    async def count(self, stream: str, subject_filter: str, *, timeout_s: float = _TIMEOUT_S) -> int:
        """How many messages match, by any replica; none of them is transferred but one."""
        query = {"seq": 1, "batch": 1, "next_by_subj": subject_filter}
        messages, pending = await self._direct(stream, query, timeout_s)
        return len(messages) + pending

    async def _direct(
        self, stream: str, query: dict[str, Any], timeout_s: float
    ) -> tuple[list[StoredMessage], int]:
        """Collect the answers of one batched direct get until its end marker (status 204)."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        messages: list[StoredMessage] = []

        def receive(answer: Message) -> None:
            if answer.header_value("Nats-Sequence") is not None:
                messages.append(decode_direct(stream, answer))
            elif not done.done():
                _end_of_batch(answer, done)

        inbox = self.connection.new_inbox()
        subscription = self.connection.listen(inbox, receive)
        try:
            self.connection.publish(f"{_API}DIRECT.GET.{stream}", _encode(query), reply=inbox)
            pending = await self.connection.bounded(done, f"direct get from {stream}", timeout_s)
        finally:
            subscription.unsubscribe()
        return messages, pending

    # --- streams, consumers, account

    async def stream_info(self, stream: str, *, timeout_s: float = _TIMEOUT_S) -> StreamInfo:
        """Settings and state of a stream.

        Raises:
            NotFoundError: there is none of this name.
        """
        return decode_stream(await self.call(f"STREAM.INFO.{stream}", timeout_s=timeout_s))

    async def create_stream(self, config: dict[str, Any], *, timeout_s: float = _TIMEOUT_S) -> StreamInfo:
        """Create a stream; an equal one that exists is the same success."""
        return decode_stream(await self.call(f"STREAM.CREATE.{config['name']}", config, timeout_s=timeout_s))

    async def delete_stream(self, stream: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        """Delete a stream with all that it holds."""
        await self.call(f"STREAM.DELETE.{stream}", timeout_s=timeout_s)

    async def create_consumer(
        self, stream: str, config: dict[str, Any], *, action: str = "create", timeout_s: float = _TIMEOUT_S
    ) -> ConsumerInfo:
        """Create (or, by ``action``, update) a consumer named by ``config["name"]``.

        Raises:
            RefusedError: with ``err_code`` 10148 if one with other settings has the name.
        """
        body = {"stream_name": stream, "config": config, "action": action}
        data = await self.call(f"CONSUMER.CREATE.{stream}.{config['name']}", body, timeout_s=timeout_s)
        return decode_consumer(data)

    async def consumer_info(
        self, stream: str, consumer: str, *, timeout_s: float = _TIMEOUT_S
    ) -> ConsumerInfo:
        """Settings and state of a consumer.

        Raises:
            NotFoundError: there is no such consumer, or no such stream.
        """
        return decode_consumer(await self.call(f"CONSUMER.INFO.{stream}.{consumer}", timeout_s=timeout_s))

    async def delete_consumer(self, stream: str, consumer: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        """Delete a consumer; what it has not acknowledged stays in the stream."""
        await self.call(f"CONSUMER.DELETE.{stream}.{consumer}", timeout_s=timeout_s)

    async def pause_consumer(
        self, stream: str, consumer: str, until: str, *, timeout_s: float = _TIMEOUT_S
    ) -> None:
        """Stop deliveries until a time (RFC 3339); one in the past resumes."""
        await self.call(f"CONSUMER.PAUSE.{stream}.{consumer}", {"pause_until": until}, timeout_s=timeout_s)

    def forget(self, stream: str, seq: int) -> None:
        """Ask for a message's removal, without waiting for an answer: for what is of no use to anybody any more.

        Raises:
            NotConnectedError: nothing was sent.
        """
        self.connection.publish(f"{_API}STREAM.MSG.DELETE.{stream}", b'{"seq":%d,"no_erase":true}' % seq)

    async def account_info(self, *, timeout_s: float = _TIMEOUT_S) -> dict[str, Any]:
        """Usage and limits of the account, as raw JSON."""
        answer: dict[str, Any] = msgspec.json.decode(await self.call("INFO", timeout_s=timeout_s))
        return answer

    async def call(
        self, action: str, body: dict[str, Any] | None = None, *, timeout_s: float = _TIMEOUT_S
    ) -> bytes:
        """Ask the JetStream API and return its JSON.

        Raises:
            RefusedError: the server answered with an error (`NotFoundError` and so on, by code).
            StreamUnavailableError: nobody answers: JetStream is off, or has no leader now.
            NotConnectedError, ConnectionLostError: as `Connection.request`.
        """
        return checked(await self._call(action, body, timeout_s))

    async def _call(self, action: str, body: dict[str, Any] | None, timeout_s: float) -> bytes:
        subject = _API + action
        try:
            answer = await self.connection.request(
                subject, _encode(body) if body else b"", timeout_s=timeout_s
            )
        except NoRespondersError:
            raise StreamUnavailableError(subject) from None
        return answer.data


def _with_expectation(header: bytes, expected_last_seq: int) -> bytes:
    start = header[:-2] if header else b"NATS/1.0\r\n"
    return b"%bNats-Expected-Last-Subject-Sequence: %d\r\n\r\n" % (start, expected_last_seq)


def _end_of_batch(answer: Message, done: asyncio.Future[int]) -> None:
    status = answer.status
    if status == 204:  # end of batch; the header says how many are behind it
        done.set_result(int(answer.header_value("Nats-Num-Pending") or 0))
    elif status == 404:  # nothing matches
        done.set_result(0)
    elif status == 503:  # no responders
        done.set_exception(StreamUnavailableError("the direct get API of the stream"))
    else:
        done.set_exception(RefusedError(answer.description or "direct get refused", code=status, err_code=0))
