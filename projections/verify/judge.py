"""What a stored message is, in plain Python: an event, a command, or neither (PROTOCOL section 3).

Written down a second time, on purpose: the projector says the same in `sql/events.sql` and `sql/commands.sql`. Shared
is only which bytes are JSON at all (`admission`).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from cas_events.domain.events import STATUS_OF_TYPE
from cas_events.jetstream.messages import StoredMessage
from projections import admission
from projections.verify.values import loads, whole

ATTEMPT_MAX = 2**22 - 1
INDEX_MAX = 2**40 - 1
VERSION_MAX = 2**31 - 1
TOKEN_LENGTH_MAX = 64

_TASK_CLASSES = ("task", "step", "progress", "log")
_CLASSES = (*_TASK_CLASSES, "agent", "state", "audit")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COMMAND_TOKENS = {"execute": 5, "cancel": 4, "resume": 6}


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """An event as the tables know it; ``task_id`` and the key are None where it has none."""

    seq: int
    id: str
    type: str
    class_: str
    agent_id: str | None
    task_id: str | None
    attempt: int | None
    index: int | None
    time_us: int
    stored_us: int
    data: dict[str, Any]
    dataversion: int
    correlation_id: str | None
    parent_id: str | None
    state_key: str

    @property
    def key(self) -> tuple[str, str, int, int] | None:
        """(agent, task, attempt, index), if it has all four."""
        if self.agent_id is None or self.task_id is None or self.attempt is None or self.index is None:
            return None
        return self.agent_id, self.task_id, self.attempt, self.index

    @property
    def status(self) -> str | None:
        """The task's status after it; None for anything but a lifecycle event."""
        return STATUS_OF_TYPE.get(self.type) if self.class_ == "task" and self.key else None

    @property
    def known_data(self) -> dict[str, Any]:
        """The data, if its version is one that this program reads."""
        return self.data if self.dataversion == 1 else {}


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A command; ``body`` is None if it is no JSON object."""

    seq: int
    kind: str
    agent_id: str | None
    task_id: str
    stored_us: int
    body: dict[str, Any] | None


def command_of(message: StoredMessage) -> Command | None:
    """What the subject says; None if it is none of a command."""
    if not admission.has_plain_subject(message):
        return None
    tokens = message.subject.split(".")
    if len(tokens) < 4 or tokens[1] != "cmd" or _COMMAND_TOKENS.get(tokens[2]) != len(tokens):
        return None
    if not all(map(_is_token, tokens[3:])):
        return None
    cancels = tokens[2] == "cancel"
    return Command(
        seq=message.seq,
        kind=tokens[2],
        agent_id=None if cancels else tokens[3],
        task_id=tokens[3] if cancels else tokens[4],
        stored_us=message.time_ns // 1000,
        body=None if admission.problem_of(message.data) else loads(message.data),
    )


def fact_of(message: StoredMessage) -> Fact | None:
    """An envelope that agrees with its subject; None for anything else."""
    if not admission.has_plain_subject(message) or admission.problem_of(message.data):
        return None
    body = loads(message.data)
    tokens = message.subject.split(".")
    if not (_has_frame(body) and _agrees(body, tokens)):
        return None
    time_us = _time_us(body["time"])
    if time_us is None:
        return None
    of_task = tokens[2] in _TASK_CLASSES
    return Fact(
        seq=message.seq,
        id=body["id"],
        type=body["type"],
        class_=tokens[2],
        agent_id=None if tokens[2] == "audit" else tokens[3],
        task_id=tokens[4] if of_task and "subject" in body else None,
        attempt=body.get("attempt"),
        index=body.get("index"),
        time_us=time_us,
        stored_us=message.time_ns // 1000,
        data=body["data"],
        dataversion=body.get("dataversion", 1),
        correlation_id=body.get("correlationid"),
        parent_id=body.get("parentid"),
        state_key=tokens[4] if tokens[2] == "state" and len(tokens) > 4 else "",
    )


def _has_frame(body: dict[str, Any]) -> bool:
    """Whether all members have the types that readers rely on."""
    return (
        body.get("specversion") == "1.0"
        and all(isinstance(body.get(name), str) for name in ("id", "source", "type", "time"))
        and isinstance(body.get("data"), dict)
        and all(isinstance(body.get(name, ""), str) for name in ("subject", "agentid"))
        and all(
            body.get(name) is None or isinstance(body[name], str) for name in ("correlationid", "parentid")
        )
        and whole(body.get("attempt", 0), ATTEMPT_MAX) is not None
        and whole(body.get("index", 0), INDEX_MAX) is not None
        and (whole(body.get("dataversion", 1), VERSION_MAX) or 0) >= 1
    )


def _agrees(body: dict[str, Any], tokens: list[str]) -> bool:
    """Whether it stands on a subject that says the same."""
    if len(tokens) < 4 or tokens[1] != "evt":
        return False
    class_, agent = tokens[2], tokens[3]
    if class_ in _TASK_CLASSES:
        fits = len(tokens) == 5 and _is_token(tokens[4]) and body.get("subject", tokens[4]) == tokens[4]
    elif class_ == "state":
        fits = len(tokens) == 4 or (len(tokens) == 5 and _is_token(tokens[4]))
    else:
        fits = class_ in ("agent", "audit") and len(tokens) == 4
    if class_ == "audit":
        fits = fits and agent == "head"
    else:
        fits = fits and _is_token(agent) and body.get("agentid", agent) == agent
    type_: str = body["type"]
    second = type_.split(".")[1] if type_.startswith("cas.") else ""
    return fits and (second not in _CLASSES or type_.startswith(f"cas.{class_}"))


def _is_token(token: str) -> bool:
    return 1 <= len(token) <= TOKEN_LENGTH_MAX


def _time_us(text: str) -> int | None:
    if not _TIME.fullmatch(text):
        return None
    try:
        return (datetime.fromisoformat(text.upper()) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        return None
