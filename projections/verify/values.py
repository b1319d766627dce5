"""Values in a form that can be compared, kept and shown: whatever the size of what they stand for.

JSON is compared by meaning (order of keys, blanks and the spelling of numbers do not count), of a key that is repeated
in an object the first counts, as for DuckDB. What is long is kept as its beginning, its length and its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from typing import Any

_KEPT = 200  # Characters that are kept as they are.
_EXACT_MAX = 2**53  # Beyond, readers of JSON may see a double.

Row = tuple[Any, ...]


def loads(text: str | bytes) -> Any:
    """Read JSON.

    Raises:
        ValueError, RecursionError: it is none.
    """
    return json.loads(text, object_pairs_hook=_first_counts)


def shown_json(value: Any) -> str:
    """A JSON value, canonical."""
    return shown_text(
        json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    )


def shown_found(text: str | None) -> str | None:
    """A JSON column's text, in the form of `shown_json`."""
    if text is None:
        return None
    try:
        return shown_json(loads(text))
    except (ValueError, RecursionError):
        return f"no JSON: {shown_text(text)}"


def shown_text(text: str) -> str:
    """A text, as itself or as what identifies it."""
    if len(text) <= _KEPT:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[:60]}… ({len(text)} characters, sha256 {digest})"


def shown_bytes(data: bytes) -> str:
    """Bytes, as base64 or as what identifies them."""
    return shown_text(base64.b64encode(data).decode())


def text_of(value: Any) -> str | None:
    """What a text column shows of a JSON value: a string as it is, null as nothing, the rest as JSON."""
    if value is None or isinstance(value, str):
        return None if value is None else shown_text(value)
    return shown_json(value)


def found_text(text: str | None, expected: str | None) -> str | None:
    """A text column's value, in the form of `text_of`: as JSON if that is what makes it the expected one."""
    if text is None or expected is None or (plain := shown_text(text)) == expected:
        return None if text is None else shown_text(text)
    return expected if shown_found(text) == expected else plain


def number_of(value: Any) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def whole(value: Any, most: int) -> int | None:
    """A whole number from 0 to a limit; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most else None


def _first_counts(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs)) if len({name for name, _ in pairs}) != len(pairs) else dict(pairs)


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _canonical(child) for name, child in value.items()}
    if isinstance(value, list):
        return [_canonical(child) for child in value]
    if isinstance(value, float) or (isinstance(value, int) and not -_EXACT_MAX < value < _EXACT_MAX):
        return _double(value)
    return value


def _double(value: float) -> float | int | str:
    try:
        number = float(value)
    except OverflowError:
        return "a number beyond a double"
    return int(number) if number.is_integer() and abs(number) < _EXACT_MAX else repr(number)
