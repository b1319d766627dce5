"""JSON, strictly: what may go over the wire as a value, and the path of what may not.

Encoding is msgspec's and therefore fast; only when it refuses, or could have hidden something, is the value walked
to find the culprit. Decoding refuses what JSON does not know (NaN, infinity) and nesting beyond `JSON_DEPTH_MAX`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from cas_events.domain.limits import JSON_DEPTH_MAX
from cas_events.errors import NotJsonError, WireError


def _model_dump(value: Any) -> Any:
    """The JSON form of objects that know their own, such as pydantic models and LangChain messages."""
    dump = getattr(value, "model_dump", None)
    if not callable(dump):
        raise TypeError(f"a {type(value).__name__} has no JSON form")
    return dump(mode="json")


_encoder = msgspec.json.Encoder(enc_hook=_model_dump)
_decoder = msgspec.json.Decoder()


def encode_json(value: Any, *, path: str) -> bytes:
    """Encode a value.

    Args:
        value: what to encode; pydantic models, dataclasses, dates and the like have their usual JSON forms.
        path: what the value is, the start of the path in an error: ``output`` for example.

    Raises:
        NotJsonError: it has no JSON form; the error names the path.
    """
    try:
        encoded = _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        _find_culprit(value, path, depth=1)
        raise NotJsonError(path, str(error)) from error
    # NaN and infinity are encoded as null without a word, so a null is worth a look.
    if b"null" in encoded or may_be_deep(encoded):
        _find_culprit(value, path, depth=1)
    return encoded


def encode_if_clean(value: Any) -> bytes | None:
    """Encode a value if that leaves nothing to look into: the fast way for most; None for "use `encode_json`"."""
    try:
        encoded = _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    return None if b"null" in encoded or may_be_deep(encoded) else encoded


def decode_json(data: bytes) -> Any:
    """Decode one JSON document.

    Raises:
        WireError: it is no JSON, or nested deeper than `JSON_DEPTH_MAX`.
    """
    try:
        value = _decoder.decode(data)
    except RecursionError:
        raise WireError(f"JSON nested deeper than {JSON_DEPTH_MAX} levels") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"not JSON: {error}") from error
    if may_be_deep(data) and depth_of(value) > JSON_DEPTH_MAX:
        raise WireError(f"JSON nested deeper than {JSON_DEPTH_MAX} levels")
    return value


def depth_of(value: Any) -> int:
    """How many objects and arrays stand inside each other at the deepest place; 0 for a scalar."""
    deepest = 0
    stack = [(value, 0)]
    while stack:
        current, depth = stack.pop()
        if isinstance(current, dict):
            children: Any = current.values()
        elif isinstance(current, list):
            children = current
        else:
            continue
        deepest = max(deepest, depth + 1)
        stack.extend((child, depth + 1) for child in children)
    return deepest


def may_be_deep(data: bytes) -> bool:
    """Whether a document has enough brackets to be nested too deep: a cheap upper bound."""
    return len(data) > JSON_DEPTH_MAX and data.count(b"[") + data.count(b"{") > JSON_DEPTH_MAX


def _find_culprit(value: Any, path: str, *, depth: int) -> None:
    """Raise `NotJsonError` for the first place in ``value`` that has no JSON form; return if there is none."""
    if isinstance(value, float) and not math.isfinite(value):
        raise NotJsonError(path, f"{value} is not a number that JSON knows")
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, Mapping):
        _check_depth(path, depth)
        for key, child in value.items():
            if isinstance(key, str):
                _check_text(key, f"{path} (a key)")
            elif not isinstance(key, int) or isinstance(key, bool):
                raise NotJsonError(path, f"key {key!r} is a {type(key).__name__}, not a string")
            _find_culprit(child, f"{path}.{key}", depth=depth + 1)
    elif isinstance(value, (list, tuple)):
        _check_depth(path, depth)
        for position, child in enumerate(value):
            _find_culprit(child, f"{path}[{position}]", depth=depth + 1)
    else:
        _check_leaf(value, path)


def _check_leaf(value: Any, path: str) -> None:
    try:
        _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise NotJsonError(path, str(error)) from error


def _check_text(value: str, path: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise NotJsonError(path, f"text that is not Unicode ({error.reason})") from error


def _check_depth(path: str, depth: int) -> None:
    if depth > JSON_DEPTH_MAX:
        raise NotJsonError(path, f"nested deeper than {JSON_DEPTH_MAX} levels")


def encode_lossy(value: Any) -> bytes:
    """Encode a value that must never fail: what has no JSON form becomes its repr."""
    try:
        return _lossy_encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return _encoder.encode(repr(value).encode("utf-8", "replace").decode())


def _repr_hook(value: Any) -> str:
    return repr(value)


_lossy_encoder = msgspec.json.Encoder(enc_hook=_repr_hook)
