"""Bundles: a log in one file, for auditors without a server. Gzipped JSON lines, written and read as a stream.

In this order: a start line, every head up to and behind the range, every message of each stream, an end line. The
heads come first so that one pass over the messages is enough to check them. Memory does not grow with the log.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cas_events.errors import AuditError, BundleError, WireError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.reader import StreamReader
from cas_events.wire.audit import (
    BundleEnd,
    BundleHead,
    BundleLine,
    BundleMessage,
    BundleStart,
    decode_head,
    decode_line,
    encode_line,
)
from cas_events.wire.subjects import Names

_GZIP_LEVEL = 3
_LINE_BYTES_MAX = 128 * 1024 * 1024  # No message of a server is as long; what is longer is no bundle.


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What a bundle holds: messages, heads, and the first and last sequence of each stream."""

    messages: int
    heads: int
    streams: dict[str, tuple[int, int]]
    public_keys: list[str]


async def export(
    connection: Connection,
    names: Names,
    path: Path,
    *,
    time: str,
    from_seq: int = 1,
    to_seq: int | None = None,
    tell: Callable[[int], None] = lambda _: None,
) -> Exported:
    """Write a bundle; the file appears whole, or not at all.

    Args:
        connection: to the server.
        names: of the deployment.
        path: the file; it must not be there.
        time: when, for the first line.
        from_seq: first event; the commands are exported whole.
        to_seq: last event; the newest without it.
        tell: called now and then with the number of messages so far.

    Raises:
        BundleError: the file is there already, or cannot be written.
        AuditError: the log has lost messages on the way.
    """
    beside = _beside(path)
    try:
        with gzip.open(beside, "wb", compresslevel=_GZIP_LEVEL) as file:
            done = await _write(file, connection, names, time, (from_seq, to_seq), tell)
        beside.replace(path)
    except OSError as error:
        raise BundleError(f"cannot write {path}: {error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return done


def _beside(path: Path) -> Path:
    """Where a file grows that is to be at ``path``."""
    if path.exists():
        raise BundleError(f"{path} is there already; name another file")
    return path.with_name(f".{path.name}.part")


async def _write(
    file: gzip.GzipFile,
    connection: Connection,
    names: Names,
    time: str,
    events: tuple[int, int | None],
    tell: Callable[[int], None],
) -> Exported:
    js = JetStream(connection)
    ranges = {}
    for stream, (first, last) in ((names.commands, (1, None)), (names.events, events)):
        state = (await js.stream_info(stream)).state
        ranges[stream] = (max(1, first, state.first_seq), min(last or state.last_seq, state.last_seq))
    end_seq = (await js.stream_info(names.events)).state.last_seq
    keys = set()
    async for message in read(connection, names.events, 1, end_seq, names.audit_head):
        try:
            keys.add(decode_head(message.data, "").public_key)
        except WireError:
            continue  # The check will say so; here it is only copied.
    start = BundleStart(
        deployment=names.deployment,
        time=time,
        streams=[(stream, *range_) for stream, range_ in ranges.items()],
        public_keys=sorted(keys),
        is_part=events != (1, None),
    )
    file.write(encode_line(start) + b"\n")
    heads = 0
    async for message in read(connection, names.events, 1, end_seq, names.audit_head):
        file.write(encode_line(BundleHead(message.seq, message.data)) + b"\n")
        heads += 1
    count = 0
    for stream, (first, last) in ranges.items():
        async for message in read(connection, stream, first, last):
            file.write(encode_line(bundle_line(message)) + b"\n")
            count += 1
            tell(count)
    file.write(encode_line(BundleEnd(count)) + b"\n")
    return Exported(messages=count, heads=heads, streams=ranges, public_keys=sorted(keys))


async def read(
    connection: Connection, stream: str, first: int, last: int, subject: str = ""
) -> AsyncIterator[StoredMessage]:
    """The stored messages from one sequence to another, as they are.

    Raises:
        AuditError: retention took some meanwhile.
    """
    if first > last:
        return
    js = JetStream(connection)
    filters = (subject,) if subject else ()
    async with StreamReader(
        connection, stream, filters=filters, from_seq=first, max_outstanding_messages=4_000
    ) as reader:
        async for batch in reader.batches():
            for message in batch.messages:
                if message.seq > last:
                    return
                yield message
            if reader.gap is not None and reader.gap[0] > first:
                raise AuditError(
                    f"retention took {stream} {reader.gap[0]} to {reader.gap[1]} while it was read"
                )
            if reader.next_seq > last:
                return
            if not batch.pending:
                # Not to be taken for the end if only the reader's replica is behind.
                left = await js.next_message(stream, subject or ">", from_seq=reader.next_seq)
                if left is None or left.seq > last:
                    return


def bundle_line(message: StoredMessage) -> BundleMessage:
    """A stored message as bundles and proofs carry it."""
    return BundleMessage(
        message.stream, message.seq, message.time_ns, message.subject, message.header, message.data
    )


def read_lines(path: Path) -> Iterator[BundleLine]:
    """The lines of a bundle, one after another.

    Raises:
        BundleError: it cannot be read, is no bundle, or breaks off inside a line.
    """
    try:
        with gzip.open(path, "rb") as file:
            number = 0
            while line := file.readline(_LINE_BYTES_MAX):
                number += 1
                yield decode_line(line, number)
    except (OSError, EOFError, zlib.error, WireError) as error:
        raise BundleError(f"{path}: {error}") from error
