"""What JetStream's API answers, as structs, and which of our errors an answer means.

Pure: bytes in, values or errors out. Errors are told apart by the server's error code, never by text; the codes are
those of the server's errors.json, and of PROTOCOL.
"""

from __future__ import annotations

import base64
import re
from datetime import datetime
from typing import Any

import msgspec

from cas_events.errors import (
    NotFoundError,
    RefusedError,
    ServerError,
    StreamFullError,
    StreamUnavailableError,
    WireError,
    WrongLastSequenceError,
)
from cas_events.jetstream.messages import Message, StoredMessage

_WRONG_LAST_SEQUENCE = frozenset({10071, 10164})
_FULL = frozenset({10002, 10023, 10028, 10047, 10077})
_DIRECT_NOT_FOUND = 404
_NO_MESSAGE = 10037
_NOT_FOUND = frozenset({10014, _NO_MESSAGE, 10059})
# A cluster without a leader at this moment; it comes back.
TEMPORARILY_UNAVAILABLE = frozenset({10007, 10008, 10009})


class ApiError(msgspec.Struct, frozen=True):
    """The ``error`` member of a JetStream answer."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct, frozen=True, gc=False):
    """The server's word that a message is stored.

    Attributes:
        stream: where; empty only inside an error answer.
        seq: its sequence there.
        duplicate: the message was *not* stored now, because one with its ``Nats-Msg-Id`` was before.
    """

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


class StreamState(msgspec.Struct, frozen=True):
    """How full a stream is; sequences count from 1, ``first_seq`` is ``last_seq`` + 1 when it is empty."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    first_ts: str = ""
    last_seq: int = 0
    last_ts: str = ""
    consumer_count: int = 0
    num_subjects: int = 0
    num_deleted: int = 0

    @property
    def first_time_ns(self) -> int:
        """The server's time of storing the first message, in nanoseconds since the epoch; 0 if there is none."""
        return time_ns(self.first_ts) if self.messages else 0


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream's settings, as raw JSON, and its state."""

    config: dict[str, Any]
    state: StreamState
    created: str = ""


class Progress(msgspec.Struct, frozen=True):
    """How far a consumer is, and when that changed; None for never."""

    stream_seq: int = 0
    last_active: datetime | None = None


class ConsumerInfo(msgspec.Struct, frozen=True):
    """A consumer's settings, as raw JSON, and what it has to do.

    Attributes:
        num_pending: messages that match and were never delivered.
        num_ack_pending: messages delivered and not acknowledged.
        num_waiting: pull requests that wait for messages.
        delivered: how far it has delivered.
        ack_floor: up to where everything is acknowledged.
    """

    stream_name: str
    name: str
    config: dict[str, Any]
    num_pending: int = 0
    num_ack_pending: int = 0
    num_redelivered: int = 0
    num_waiting: int = 0
    paused: bool = False
    delivered: Progress = Progress()
    ack_floor: Progress = Progress()


class _StoredJson(msgspec.Struct, frozen=True):
    subject: str
    seq: int
    time: str
    data: str = ""
    hdrs: str = ""


class _Answer(msgspec.Struct, frozen=True):
    error: ApiError | None = None


class _MessageAnswer(msgspec.Struct, frozen=True):
    message: _StoredJson | None = None
    error: ApiError | None = None


_decode_ack = msgspec.json.Decoder(PubAck).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_message = msgspec.json.Decoder(_MessageAnswer).decode
decode_stream = msgspec.json.Decoder(StreamInfo).decode
decode_consumer = msgspec.json.Decoder(ConsumerInfo).decode


def decode_leader_read(stream: str, data: bytes) -> StoredMessage | None:
    """The message of a STREAM.MSG.GET answer; None if there is none.

    Raises:
        RefusedError: the read was refused, `NotFoundError` if there is no such stream.
    """
    answer = _decode_message(data)
    found = answer.message
    if found is None:
        if answer.error is not None and answer.error.err_code == _NO_MESSAGE:
            return None
        raise refusal(answer.error)
    payload, header = base64.b64decode(found.data), base64.b64decode(found.hdrs)
    return StoredMessage(stream, found.seq, found.subject, time_ns(found.time), payload, header)


def decode_direct_read(stream: str, answer: Message) -> StoredMessage | None:
    """The message of a direct get's answer; None if there is none.

    Raises:
        RefusedError: the read was refused.
    """
    status = answer.status
    if status == _DIRECT_NOT_FOUND:
        return None
    if status:
        raise RefusedError(answer.description or "direct get refused", code=status, err_code=0)
    return decode_direct(stream, answer)


def checked(data: bytes) -> bytes:
    """The answer as it is, if it holds no error.

    Raises:
        RefusedError: or one of its kinds.
    """
    error = _decode_answer(data).error
    if error is not None:
        raise refusal(error)
    return data


def read_ack(data: bytes) -> PubAck:
    """The server's answer to an append as it is, an error as its ``error`` member.

    Raises:
        WireError: this is no answer of a stream; somebody else answered on the subject.
    """
    try:
        return _decode_ack(data)
    except msgspec.MsgspecError as error:
        raise WireError(f"not a publish acknowledgement: {data[:80]!r}") from error


def decode_ack(data: bytes) -> PubAck:
    """The server's answer to an append.

    Raises:
        RefusedError: or one of its kinds: it was not stored.
        WireError: this is no answer of a stream; somebody else answered on the subject.
    """
    ack = read_ack(data)
    if ack.error is not None or not ack.stream:
        raise refusal(ack.error)
    return ack


def refusal(error: ApiError | None) -> ServerError:
    """The exception of a JetStream error, by its code: a `RefusedError`, or `StreamUnavailableError` during an election."""
    known = error or ApiError(description="the answer has neither result nor error")
    if known.err_code in TEMPORARILY_UNAVAILABLE:
        return StreamUnavailableError(f"the request ({known.description})")
    kind = RefusedError
    if known.err_code in _WRONG_LAST_SEQUENCE:
        kind = WrongLastSequenceError
    elif known.err_code in _FULL:
        kind = StreamFullError
    elif known.err_code in _NOT_FOUND:
        kind = NotFoundError
    return kind(known.description, code=known.code, err_code=known.err_code)


def time_ns(text: str) -> int:
    """Nanoseconds since the epoch of the server's RFC 3339 time, which has up to nine decimals."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)


# In the order in which the server writes them, behind whatever headers the message was stored with.
_DIRECT_PLACE = re.compile(
    rb"(?s:.*)\r\nNats-Subject: (.*)\r\nNats-Sequence: (\d+)\r\nNats-Time-Stamp: (.*)\r\n"
)


def decode_direct(stream: str, answer: Message) -> StoredMessage:
    """One message of a direct get, whose place and time come in headers."""
    header = answer.header
    place = _DIRECT_PLACE.match(header)
    if place is None:
        raise WireError(f"a direct get's answer does not say what it is: {header[:200]!r}")
    subject, seq, stamp = place.groups()
    return StoredMessage(stream, int(seq), subject.decode(), time_ns(stamp.decode()), answer.data, header)
