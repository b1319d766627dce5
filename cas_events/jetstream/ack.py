"""Acks of a delivery: the payloads that go to its reply subject, and what that subject says.

The ack subject carries the delivery's place: ``$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.
<time ns>.<pending>``, and in its second version ``$JS.ACK.<domain>.<account>.<stream>. ...`` with a random token at the
end (https://github.com/nats-io/nats-architecture-and-design, ADR-15). Pure.
"""

from __future__ import annotations

import msgspec

from cas_events.jetstream.messages import Message, StoredMessage

ACK = b"+ACK"
WPI = b"+WPI"
"""Work in progress: the delivery's lease starts anew."""
TERM = b"+TERM"
"""Never again; its message stays in the stream."""

_V1_TOKENS = 9


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A message of a work consumer, to be acknowledged by a publish to ``reply``.

    Attributes:
        stream: where it is stored.
        consumer: that delivered it.
        subject: the stored subject.
        seq: its sequence in the stream.
        delivered: how many times it has been delivered now, from 1.
        time_ns: the server's time of storing, in nanoseconds since the epoch.
        pending: messages behind it that the consumer has never delivered.
        data: the payload.
        header: the raw header block, empty if none.
        reply: the ack subject.
    """

    stream: str
    consumer: str
    subject: str
    seq: int
    delivered: int
    time_ns: int
    pending: int
    data: bytes
    header: bytes
    reply: str

    def stored(self) -> StoredMessage:
        """The message without its delivery."""
        return StoredMessage(self.stream, self.seq, self.subject, self.time_ns, self.data, self.header)


def nak(delay_s: float = 0.0) -> bytes:
    """Payload that gives a delivery back, to come again after a delay; it keeps its place meanwhile."""
    return b'-NAK {"delay": %d}' % max(0, int(delay_s * 1e9)) if delay_s > 0 else b"-NAK"


def term(reason: str) -> bytes:
    """Payload that ends a message for its consumer, with a reason for the server's advisory."""
    return b"+TERM " + reason.encode()


def delivery(message: Message) -> Delivery:
    """Read what a pull consumer delivered.

    Raises:
        ValueError: the reply is no ack subject.
    """
    tokens = message.reply.split(".")
    first = 2 if len(tokens) == _V1_TOKENS else 4
    stream, consumer, delivered, seq, _, time, pending = tokens[first : first + 7]
    return Delivery(
        stream,
        consumer,
        message.subject,
        int(seq),
        int(delivered),
        int(time),
        int(pending),
        message.data,
        message.header,
        message.reply,
    )
