"""How the sample agents turn a task's JSON into typed values and back.

Values in a workflow's state are JSON values, so that any checkpointer can store them and any client can read
them; inside an agent they are msgspec structs, so that a wrong one is refused at the door, with the path.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from cas_events.errors import InvalidCommandError

T = TypeVar("T")


def read_input(kind: type[T], value: Any) -> T:
    """A JSON value as one of the agents' types.

    Raises:
        InvalidCommandError: a field is missing or has a wrong type; the message names it.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidCommandError(f"input does not fit: {error}", field="input") from error


def to_json_value(value: msgspec.Struct) -> dict[str, Any]:
    """Plain dicts, lists, strings and numbers: what comes out of JSON, so that storing it changes nothing."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return plain
