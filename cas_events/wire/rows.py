"""The answer to a query, as values that have a JSON form.

Numbers, booleans, text and null are themselves; a JSON column is the value that it holds; times are RFC 3339 in UTC,
dates and times of day ISO 8601; bytes are base64; what JSON cannot say exactly is text: whole numbers beyond 64
bits, decimals of more than 15 digits, intervals, UUIDs. NaN and infinity are null. Pure.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any

import msgspec

_FLOAT_DIGITS = 15  # Decimal digits that every double keeps.
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_encode = msgspec.json.Encoder(order=None).encode
_skim = msgspec.json.Decoder(type=msgspec.Raw).decode


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Rows and what they are.

    Attributes:
        columns: names, in the order of the values in each row; they may repeat.
        types: SQL types, such as ``BIGINT`` or ``JSON``.
        rows: one tuple a row, of values as described above.
        as_of: up to which sequence of the event stream the tables were when asked.
    """

    columns: list[str]
    types: list[str]
    rows: list[tuple[Any, ...]] = field(repr=False)
    as_of: int = 0

    def dicts(self) -> list[dict[str, Any]]:
        """The rows as dicts; of columns with one name, the last counts."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def encode_rows(types: Sequence[str], rows: Sequence[Sequence[object]]) -> list[bytes]:
    """Each row as a JSON array."""
    json_columns = [position for position, type_ in enumerate(types) if type_ == "JSON"]
    return [_encode_row(row, json_columns) for row in rows]


def decode_rows(data: bytes) -> list[tuple[Any, ...]]:
    """Read an array of rows."""
    return [tuple(row) for row in decode_any(data)]


def decode_any(data: bytes) -> Any:
    """Read JSON, also with numbers beyond what a double holds; the log may have such."""
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return json.loads(data)


def _encode_row(row: Sequence[object], json_columns: Sequence[int]) -> bytes:
    values = [_plain(value) for value in row]
    for position in json_columns:
        if isinstance(row[position], str):
            values[position] = _document(str(row[position]))
    return _encode(values)


def _document(text: str) -> object:
    """A JSON column's value, embedded as it is; as text if it is something that JSON does not know."""
    try:
        _skim(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    return msgspec.Raw(text.encode())


def _plain(value: object) -> object:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float, Decimal)):
        return _number(value)
    if isinstance(value, dict):
        return {_key(key): _plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(child) for child in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    return _moment(value) if isinstance(value, (date, time_of_day)) else str(value)


def _moment(value: date | time_of_day) -> str:
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).isoformat().replace("+00:00", "Z")
    return value.isoformat()


def _number(value: float | Decimal) -> object:
    if isinstance(value, int):
        return value if _INT_MIN <= value <= _INT_MAX else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return msgspec.Raw(f"{value:f}".encode()) if _is_exact(value) else f"{value:f}"


def _key(key: object) -> str:
    plain = _plain(key)
    return plain if isinstance(plain, str) else _encode(plain).decode()


def _is_exact(value: Decimal) -> bool:
    return value.is_finite() and len(value.as_tuple().digits) <= _FLOAT_DIGITS
