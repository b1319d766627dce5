"""What comes out of a stream, as a value.

One struct for every way of reading: leader reads, batched direct gets, pull readers and work consumers.
"""

from __future__ import annotations

import msgspec


class StoredMessage(msgspec.Struct, frozen=True, gc=False):
    """One stored message of a stream.

    Attributes:
        stream: name of the stream, such as ``CAS_EVENTS``.
        seq: sequence of the message in that stream, from 1.
        subject: the stored subject.
        time_ns: the server's time of storing, in nanoseconds since the epoch.
        data: the payload.
        header: the raw header block as received, empty if none.
    """

    stream: str
    seq: int
    subject: str
    time_ns: int
    data: bytes
    header: bytes = b""
