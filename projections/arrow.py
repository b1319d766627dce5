"""Messages as Arrow, the form in which DuckDB takes them without looking at each one in Python.

Buffers are built directly: one join for the bytes, running sums for the offsets. A `Feed` is registered with DuckDB
once and asked anew by each statement, so that prepared statements stay valid.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import nanoarrow as na

from cas_events.jetstream.messages import StoredMessage

_SCHEMA = na.struct(
    {"seq": na.int64(), "time_ns": na.int64(), "subject": na.string(), "raw": na.string()}, nullable=False
)


class Feed:
    """What DuckDB sees as a table: the messages that were put in last."""

    def __init__(self) -> None:
        self._array = _to_arrow((), b"", b"", (), ())

    def put(self, messages: Sequence[StoredMessage], payloads: Sequence[bytes], joined: bytes) -> None:
        """Replace the content.

        Args:
            messages: the messages, with plain ASCII subjects.
            payloads: their payloads as UTF-8.
            joined: the payloads one after the other.
        """
        subjects = [message.subject for message in messages]
        self._array = _to_arrow(messages, "".join(subjects).encode(), joined, subjects, payloads)

    def clear(self) -> None:
        """Let go of the content."""
        self._array = _to_arrow((), b"", b"", (), ())

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return na.Array(self._array).__arrow_c_stream__(requested_schema)


def _to_arrow(
    messages: Sequence[StoredMessage],
    subjects_joined: bytes,
    payloads_joined: bytes,
    subjects: Sequence[str],
    payloads: Sequence[bytes],
) -> Any:
    count = len(messages)
    columns = [
        na.c_array_from_buffers(na.int64(), count, [None, array("q", [m.seq for m in messages])]),
        na.c_array_from_buffers(na.int64(), count, [None, array("q", [m.time_ns for m in messages])]),
        _strings(subjects, subjects_joined),
        _strings(payloads, payloads_joined),
    ]
    return na.c_array_from_buffers(_SCHEMA, count, [None], children=columns)


def _strings(values: Sequence[str] | Sequence[bytes], joined: bytes) -> Any:
    offsets = array("i", accumulate(map(len, values), initial=0))
    return na.c_array_from_buffers(
        na.string(), len(values), [None, offsets, joined], validation_level="minimal"
    )
