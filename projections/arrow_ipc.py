"""Results as Arrow IPC streams (https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format), with nanoarrow alone."""

from __future__ import annotations

import io
from typing import Any

import nanoarrow as na
from nanoarrow import ipc
from nanoarrow._utils import NanoarrowException
from nanoarrow.c_array_stream import CArrayStream

__all__ = ["NanoarrowException", "Table", "encode_stream"]


def encode_stream(source: Any) -> tuple[bytes, int]:
    """One IPC stream of an object with `__arrow_c_stream__`, and its number of rows."""
    target = io.BytesIO()
    stream = na.c_array_stream(source)
    schema, chunks = stream.get_schema(), list(stream)
    with ipc.StreamWriter.from_writable(target) as writer:
        writer.write_stream(CArrayStream.from_c_arrays(chunks, schema, validate=False))
    return target.getvalue(), sum(len(chunk) for chunk in chunks)


class Table:
    """An IPC stream as something that DuckDB reads; once."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        stream = na.c_array_stream(ipc.InputStream.from_readable(io.BytesIO(self._data)))
        return stream.__arrow_c_stream__(requested_schema)
