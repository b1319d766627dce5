"""The projector's part in tamper evidence: it signs the log beside its tables (`cas_events.audit`).

Whether it does is decided before anything else starts, so that a wrong key ends the process with one line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cas_events.audit.keys import SigningKey
from cas_events.audit.writer import DEFAULT_EVENTS, HeadWriter, Pace
from cas_events.errors import AuditExtraMissingError
from cas_events.jetstream.connection import Connection
from cas_events.uuid7 import uuid7
from cas_events.wire.subjects import Names

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Signing:
    """With which key, and how often."""

    key: SigningKey
    pace: Pace


def plan(home: Path, every: int | None, within_s: float) -> Signing | None:
    """Whether to sign, and how; None: not at all.

    Args:
        home: where the key is, or is made.
        every: after how many messages; 0: never; None: the default, if the extra is installed.
        within_s: or after how many seconds.

    Raises:
        AuditExtraMissingError: it was asked for, and cannot be done.
        AuditKeyError: the key is unusable.
    """
    if every == 0:
        return None
    try:
        key = SigningKey.load_or_create(home)
    except AuditExtraMissingError as error:
        if every is not None:
            raise
        log.info("the log is not signed: %s", error)
        return None
    return Signing(key, Pace(events=every or DEFAULT_EVENTS, interval_s=within_s))


@asynccontextmanager
async def signing(connection: Connection, names: Names, how: Signing | None) -> AsyncIterator[None]:
    """Sign while the block runs."""
    if how is None:
        yield
        return
    writer = HeadWriter(connection, names, how.key, source=f"cas/projector/{uuid7()}", pace=how.pace)
    # It ends by cancellation alone: it logs its errors and tries again.
    task = asyncio.create_task(writer.run(), name="audit heads")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
