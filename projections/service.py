"""SQL over NATS: the micro service on ``<deployment>.svc.sql``.

A request is ``{"sql": "...", "params"?: [...] or {...}, "wait_for"?: <CAS_EVENTS sequence>, "limit"?: n,
"as_of"?: <CAS_EVENTS sequence, or a time>}``, the answer
``{"columns": [...], "types": [...], "rows": [[...]], "as_of": <CAS_EVENTS sequence>}`` or
``{"error": {"reason": "...", "message": "..."}}``. Values are as `results` says. An answer that does not fit into one
message ends with ``"more": "<token>"``; the request ``{"more": "<token>"}`` brings the next part, of the same shape,
once and within `PARTS_KEPT_S`. With ``"format": "arrow"`` the payloads of all parts, one behind the other, are one Arrow IPC
stream; the headers `Cas-Format: arrow`, `Cas-As-Of` and, if there is another part, `Cas-More` stand beside. An error is JSON
and has none of them. Which SQL may run, and how long, is `queries`' business.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from cas_events.errors import CasEventsError, QueryError
from cas_events.jetstream.connection import Connection, Message
from cas_events.jetstream.messages import build_header
from cas_events.jetstream.services import MicroService, Reply
from cas_events.wire.subjects import Names
from projections.desk import Desk
from projections.projector import Projector
from projections.queries import Answer, Queries

PARTS_KEPT_S = 60.0
PARTS_KEPT_BYTES = 256 * 1024 * 1024
_FRAME_BYTES = 4096  # For what stands around the rows, besides columns and types.
_VERSION = "1.0.0"


class Request(msgspec.Struct, frozen=True):
    """What may be asked; unknown members are ignored."""

    sql: str = ""
    params: list[Any] | dict[str, Any] = []
    wait_for: int = 0
    limit: int | None = None
    as_of: int | str | None = None
    more: str = ""
    format: Literal["json", "arrow"] = "json"


_decode = msgspec.json.Decoder(Request).decode


class SqlService:
    """Answers queries of one deployment.

    Args:
        connection: where it answers.
        names: the deployment's subjects.
        projector: whose tables are waited for.
        queries: runs the SQL.
    """

    def __init__(
        self, connection: Connection, names: Names, projector: Projector | Desk, queries: Queries | Desk
    ) -> None:
        self._part_bytes = connection.max_payload_bytes - _FRAME_BYTES
        self._projector = projector
        self._queries = queries
        self._parts = _KeptParts()
        self._service = MicroService(
            connection,
            name="cas-sql",
            version=_VERSION,
            description=f"Read-only SQL on the tables of {names.deployment}",
            subject=names.sql_service,
            handler=self.answer,
        )

    async def start(self) -> None:
        """Begin to answer."""
        await self._service.start()

    async def stop(self) -> None:
        """Answer no more."""
        await self._service.stop()

    async def answer(self, message: Message) -> bytes | Reply:
        """Answer one request, with an error if need be."""
        try:
            request = _read(message.data)
            if request.more:
                return self._parts.take(request.more)
            return await self._first_part(request)
        except CasEventsError as error:
            reason = getattr(error, "reason", "failed")
            return msgspec.json.encode({"error": {"reason": reason, "message": str(error)}})

    async def _first_part(self, request: Request) -> bytes | Reply:
        if request.wait_for:
            await self._projector.wait_for(request.wait_for, self._queries.limits.time_s)
        is_arrow = request.format == "arrow"
        answer = await self._queries.run(
            request.sql, request.params, limit=request.limit, as_of=request.as_of, arrow=is_arrow
        )
        parts = (_arrow_parts if is_arrow else _parts)(answer, self._part_bytes)
        return self._parts.keep(_Kept(list(parts), answer.as_of, is_arrow))


class _Kept(NamedTuple):
    """What is left of an answer."""

    parts: list[bytes]
    as_of: int
    is_arrow: bool

    @property
    def size(self) -> int:
        return sum(map(len, self.parts))


class _KeptParts:
    """The rest of answers that were too long, for a while and within bounds: the oldest go first."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, _Kept]] = {}
        self._bytes = 0

    def keep(self, answer: _Kept) -> bytes | Reply:
        """The first part, closed; the rest is kept under the token that it names."""
        first, *parts = answer.parts
        rest, token = answer._replace(parts=parts), ""
        if parts:
            token = uuid.uuid4().hex
            self._kept[token] = (time.monotonic() + PARTS_KEPT_S, rest)
            self._bytes += rest.size
            self._forget()
        return _arrow_reply(first, answer.as_of, token) if answer.is_arrow else _json_reply(first, token)

    def take(self, token: str) -> bytes | Reply:
        """The next part.

        Raises:
            QueryError: it is not there, or no more.
        """
        self._forget()
        kept = self._kept.pop(token, None)
        if kept is None:
            raise QueryError("this part of the answer is not kept any more; ask again", reason="expired")
        self._bytes -= kept[1].size
        return self.keep(kept[1])

    def _forget(self) -> None:
        now = time.monotonic()
        while self._kept:
            token, (until, rest) = next(iter(self._kept.items()))
            if until > now and (self._bytes <= PARTS_KEPT_BYTES or len(self._kept) == 1):
                return
            del self._kept[token]
            self._bytes -= rest.size


def _json_reply(part: bytes, token: str) -> bytes:
    return b'%b,"more":"%b"}' % (part, token.encode()) if token else part + b"}"


def _arrow_reply(part: bytes, as_of: int, token: str) -> Reply:
    headers = {"Cas-Format": "arrow", "Cas-As-Of": str(as_of)}
    return Reply(part, build_header(headers | ({"Cas-More": token} if token else {})))


def _arrow_parts(answer: Answer, part_bytes: int) -> Iterator[bytes]:
    """The stream, cut anywhere: it is read as a whole."""
    for start in range(0, len(answer.arrow), part_bytes):
        yield answer.arrow[start : start + part_bytes]


def _read(data: bytes) -> Request:
    try:
        request = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise QueryError(f"the request is none: {error}", reason="bad_request") from error
    if not request.sql and not request.more:
        raise QueryError('the request has no "sql"', reason="bad_request")
    if request.limit is not None and request.limit < 0:
        raise QueryError(f"limit {request.limit} is negative", reason="bad_request")
    return request


def _parts(answer: Answer, part_bytes: int) -> Iterator[bytes]:
    """The answer cut so that each part fits into a message; without the closing brace."""
    frame = {"columns": answer.columns, "types": answer.types, "as_of": answer.as_of}
    head = msgspec.json.encode(frame)[:-1] + b',"rows":['
    rows: list[bytes] = []
    size = len(head)
    for row in answer.rows:
        if len(head) + len(row) > part_bytes:
            raise QueryError(
                f"a row of {len(row)} bytes does not fit into a message; ask for fewer columns",
                reason="row_too_large",
            )
        if size + len(row) + 1 > part_bytes:
            yield head + b",".join(rows) + b"]"
            rows, size = [], len(head)
        rows.append(row)
        size += len(row) + 1
    yield head + b",".join(rows) + b"]"
