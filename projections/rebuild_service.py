"""Rebuilds over NATS: the micro service on ``<deployment>.svc.projector``.

A request is ``{}`` (how far is it?) or ``{"rebuild": true, "accept_loss"?: bool}`` (begin, or join the one that
runs); the answer is `Progress` as JSON: ``{"state", "messages", "of", "per_s", "eta_s", "took_s", "error"}``.
"""

from __future__ import annotations

import msgspec

from cas_events.jetstream.connection import Connection, Message
from cas_events.jetstream.services import MicroService
from cas_events.wire.subjects import Names
from projections.keeper import Keeper

_VERSION = "1.0.0"


class Request(msgspec.Struct, frozen=True):
    """What may be asked; unknown members are ignored."""

    rebuild: bool = False
    accept_loss: bool = False


_decode = msgspec.json.Decoder(Request).decode


def rebuild_service(connection: Connection, names: Names, keeper: Keeper) -> MicroService:
    """The service of a keeper; to be started and stopped by the caller."""

    async def answer(message: Message) -> bytes:
        try:
            request = _decode(message.data or b"{}")
        except (msgspec.DecodeError, RecursionError) as error:
            return msgspec.json.encode({"state": "failed", "error": f"the request is none: {error}"})
        if request.rebuild:
            keeper.begin_rebuild(accept_loss=request.accept_loss)
        return msgspec.json.encode(keeper.progress)

    return MicroService(
        connection,
        name="cas-projector",
        version=_VERSION,
        description=f"Makes the tables of {names.deployment} anew",
        subject=names.projector_service,
        handler=answer,
    )
