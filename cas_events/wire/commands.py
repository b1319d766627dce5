"""Commands as bytes: plain JSON objects, so that any NATS client can write them (PROTOCOL section 2).

Reading an execute is strict, because what it asks for will run; reading a cancel is lenient, because a cancel is a
cancel whatever its body.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from cas_events.domain.commands import TIMEOUT_MAX_S, Cancel, Execute
from cas_events.errors import InvalidCommandError, WireError
from cas_events.wire.claims import encode_members, is_claim, looks_like_claim
from cas_events.wire.envelope import format_time
from cas_events.wire.jsonvalue import decode_json, may_be_deep

BAD_BODY = "bad_body"
BAD_CLAIM_CHECK = "bad_claim_check"
EXPIRED = "expired"

_execute_decoder = msgspec.json.Decoder(Execute)

SUBMIT_HEADER = "Cas-Submit"  # our client's nonce: tells its own stored command from somebody else's


def decode_execute(data: bytes) -> Execute:
    """Read an execute command.

    Raises:
        InvalidCommandError: no JSON object, a wrong type, too deep, or a malformed claim check; ``reason`` is the
            `rejected` event's reason and ``field`` names the place.
    """
    if not may_be_deep(data):
        try:
            execute = _execute_decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            execute = None  # Read it again below, slowly, to say what is wrong.
        if execute is not None and not (
            looks_like_claim(execute.input) or looks_like_claim(execute.metadata)
        ):
            parse_time(execute.not_before)
            return execute
    try:
        body = decode_json(data)
    except WireError as error:
        raise InvalidCommandError(str(error), reason=BAD_BODY) from error
    return execute_from(body)


def execute_from(body: Any) -> Execute:
    """Validate a decoded execute command.

    Raises:
        InvalidCommandError: see `decode_execute`.
    """
    if not isinstance(body, dict):
        raise InvalidCommandError(f"a command is a JSON object, not {_kind(body)}", reason=BAD_BODY)
    for name in ("input", "metadata"):
        if looks_like_claim(body.get(name)) and not is_claim(body[name]):
            raise InvalidCommandError(
                f"{name} is a malformed claim check", field=name, reason=BAD_CLAIM_CHECK
            )
    try:
        execute = msgspec.convert(body, Execute)
    except msgspec.ValidationError as error:
        raise InvalidCommandError(str(error), field=_field(str(error)), reason=BAD_BODY) from error
    parse_time(execute.not_before)
    return execute


def encode_execute(members: dict[str, Any], *, claim_bytes: int) -> tuple[bytes, list[bytes]]:
    """Encode an execute command's members, large ones as claim checks.

    Args:
        members: the fields of `Execute` that are set.
        claim_bytes: size from which a member becomes a claim check.

    Returns:
        The command's bytes, and the objects to put before it is sent.

    Raises:
        NotJsonError: a value has no JSON form.
        InvalidCommandError: the command would be rejected.
    """
    data, blobs = encode_members(members, limit_bytes=claim_bytes)
    input_ = members.get("input")
    # An object alone has nothing that could be refused, unless it passes itself off as a claim check.
    if len(members) > 1 or not isinstance(input_, dict) or looks_like_claim(input_):
        decode_execute(data)
    return data, blobs


def decode_cancel(data: bytes) -> Cancel:
    """Read a cancel command; what is unreadable counts as absent."""
    try:
        body = decode_json(data)
    except WireError:
        return Cancel()
    if not isinstance(body, dict):
        return Cancel()
    reason, requested_by = body.get("reason"), body.get("requested_by")
    return Cancel(
        reason=reason if isinstance(reason, str) else "",
        requested_by=requested_by if isinstance(requested_by, str) else "",
    )


def parse_time(text: str | None) -> float | None:
    """Seconds since the epoch of an RFC 3339 time; None for None.

    Raises:
        InvalidCommandError: it is no RFC 3339 time with an offset.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        problem = "" if moment.tzinfo else "no offset from UTC"
        seconds = moment.astimezone(UTC).timestamp()
    except (ValueError, OverflowError) as error:
        problem, seconds = str(error), 0.0
    if problem:
        raise InvalidCommandError(
            f"not_before {text!r} is not an RFC 3339 time such as 2026-11-22T09:00:00Z: {problem}",
            field="not_before",
            reason=BAD_BODY,
        )
    return seconds


def not_before_text(value: Any, *, now_ns: int) -> str:
    """What a caller says of a task's start, as the command has it.

    Args:
        value: an aware datetime, seconds from now, or an RFC 3339 time.
        now_ns: the time, in nanoseconds since the epoch.

    Raises:
        InvalidCommandError: it is none of these, or a delay that is negative, no finite number or over ten years.
    """
    if isinstance(value, datetime):
        value = value.isoformat()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 <= value <= TIMEOUT_MAX_S:
            raise _bad_not_before(value, f"a delay is from 0 to {TIMEOUT_MAX_S:.0f} seconds")
        return format_time(now_ns + int(value * 1e9))
    if not isinstance(value, str):
        raise _bad_not_before(value, "give an aware datetime, seconds from now, or an RFC 3339 time")
    parse_time(value)
    return value


def _bad_not_before(value: Any, problem: str) -> InvalidCommandError:
    return InvalidCommandError(
        f"not_before {value!r} is not valid: {problem}", field="not_before", reason=BAD_BODY
    )


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _field(message: str) -> str:
    """The path that msgspec puts at the end of its message: ``… - at `$.timeout_s```."""
    _, found, path = message.rpartition("at `$.")
    return path.rstrip("`") if found else ""
