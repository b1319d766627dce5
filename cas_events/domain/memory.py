"""Which items a search finds, and which namespaces a listing has: the rules of LangGraph's stores. Pure.

The operators compare as the stores of langgraph-checkpoint do: equality by value, nested mappings member by member,
order by number. Where those differ among themselves (a missing member, text under an operator of order), this is like
the ones with a database: what cannot be compared does not match, and text is compared with text.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

Namespace = tuple[str, ...]
Condition = tuple[Literal["prefix", "suffix"], Sequence[str]]
"""Labels that a namespace begins or ends with; ``*`` stands for any label."""

ANY_LABEL = "*"

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def matches(value: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> bool:
    """Whether an item's value has what a filter wants of each of the members that it names.

    Raises:
        ValueError: the filter has an operator that nobody knows.
    """
    return all(_is_as_wanted(value.get(name), each) for name, each in (wanted or {}).items())


def _is_as_wanted(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if any(str(name).startswith("$") for name in wanted):
            return all(_holds(value, name, operand) for name, operand in wanted.items())
        return isinstance(value, Mapping) and all(
            _is_as_wanted(value.get(name), each) for name, each in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(wanted)
            and all(map(_is_as_wanted, value, wanted))
        )
    return bool(value == wanted)


def _holds(value: Any, name: str, operand: Any) -> bool:
    if name == "$eq":
        return bool(value == operand)
    if name == "$ne":
        return bool(value != operand)
    if name not in _ORDERS:
        raise ValueError(
            f"unknown operator {name!r} in a filter: there are $eq, $ne, $gt, $gte, $lt and $lte"
        )
    order = _ORDERS[name]
    try:
        return order(float(value), float(operand))
    except (TypeError, ValueError, OverflowError):
        pass
    try:
        return type(value) is type(operand) and order(value, operand)
    except TypeError:
        return False


def listed(
    namespaces: Iterable[Namespace],
    conditions: Sequence[Condition] | None,
    *,
    max_depth: int | None,
    limit: int,
    offset: int,
) -> list[Namespace]:
    """The namespaces that meet every condition, cut to a depth, each once, in order."""
    found = {
        namespace
        for namespace in namespaces
        if all(meets(namespace, kind, path) for kind, path in conditions or ())
    }
    if max_depth is not None:
        found = {namespace[:max_depth] for namespace in found}
    return sorted(found)[offset : offset + limit]


def meets(namespace: Namespace, kind: str, path: Sequence[str]) -> bool:
    """Whether a namespace begins or ends with a path.

    Raises:
        ValueError: ``kind`` is neither ``prefix`` nor ``suffix``.
    """
    if kind not in {"prefix", "suffix"}:
        raise ValueError(f"unknown match type {kind!r}: there are 'prefix' and 'suffix'")
    if len(namespace) < len(path):
        return False
    labels = namespace[: len(path)] if kind == "prefix" else namespace[len(namespace) - len(path) :]
    return all(wanted in {ANY_LABEL, label} for label, wanted in zip(labels, path, strict=True))
