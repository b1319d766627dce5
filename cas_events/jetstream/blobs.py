"""Claim checks: bytes in the deployment's object store under the name of their own SHA-256 (PROTOCOL section 3).

The layout is that of NATS' object stores (ADR-20 of nats-architecture-and-design), so `nats object get` reads them:
chunks on one subject of their own, and a message with name, size and digest that makes them an object. Put is
idempotent, and says so only when everything is stored; get returns verified bytes or raises. Nothing is deleted here.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import msgspec

from cas_events.errors import BlobError, PayloadTooLargeError, ServerError, WrongLastSequenceError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.messages import build_header

_CHUNK_BYTES = 128 * 1024
_CHUNKS_IN_FLIGHT = 16  # 2 MiB on their way.
_HASH_INLINE_BYTES = 256 * 1024  # More is hashed in a thread: a millisecond is what the loop can spare.
_BATCH_MESSAGES = 64
# Threads of its own: agent code may hold every thread of the loop's pool for as long as it likes.
_HASHERS = ThreadPoolExecutor(2, thread_name_prefix="cas-sha256")

logger = logging.getLogger(__name__)


class _Options(msgspec.Struct, frozen=True):
    max_chunk_size: int = _CHUNK_BYTES


class _Meta(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    bucket: str
    nuid: str
    size: int = 0
    mtime: str = ""
    chunks: int = 0
    digest: str = ""
    deleted: bool = False
    options: _Options | None = None


_decode_meta = msgspec.json.Decoder(_Meta).decode


class BlobStore:
    """The objects of one bucket."""

    def __init__(self, js: JetStream, bucket: str) -> None:
        self._js = js
        self._stream = f"OBJ_{bucket}"
        self._bucket = bucket
        self._subjects = f"$O.{bucket}"

    async def put(self, data: bytes) -> str:
        """Store bytes, unless they are there already.

        Returns:
            Their SHA-256 in hex: the name to get them by.

        Raises:
            ServerError: not stored, or not known to be; doing it again is harmless.
        """
        digest = await _sha256(data)
        name = digest.hex()
        subject = self._meta_subject(name)
        present = await self._js.last_message(self._stream, subject)
        if present is not None and not _decode_meta(present.data).deleted:
            return name
        nuid = self._js.connection.new_inbox().rpartition(".")[2]
        meta = _Meta(
            name=name,
            bucket=self._bucket,
            nuid=nuid,
            size=len(data),
            mtime=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            chunks=-(-len(data) // _CHUNK_BYTES),
            digest=f"SHA-256={base64.urlsafe_b64encode(digest).decode()}",
            options=_Options(),
        )
        try:
            await self._put_chunks(nuid, data)
            await self._js.append(
                subject,
                msgspec.json.encode(meta),
                header=build_header({"Nats-Rollup": "sub"}),
                expected_last_seq=present.seq if present is not None else 0,
            )
        except WrongLastSequenceError:
            # Somebody else has put the same bytes meanwhile; ours are of no use.
            await self._purge_chunks(nuid)
        except (ServerError, asyncio.CancelledError):
            await asyncio.shield(self._purge_chunks(nuid))
            raise
        return name

    async def get(self, sha256: str, *, max_bytes: int) -> bytes:
        """The bytes of a claim check, verified.

        Raises:
            PayloadTooLargeError: they are more than ``max_bytes``; nothing was fetched.
            BlobError: there are none of this name, or they are not what the name says.
            ServerError: could not be read now.
        """
        found = await self._js.last_message(self._stream, self._meta_subject(sha256))
        meta = _decode_meta(found.data) if found is not None else None
        if meta is None or meta.deleted:
            raise BlobError(sha256, f"not in object store {self._bucket}")
        if meta.size > max_bytes:
            raise PayloadTooLargeError(
                f"claim check {sha256}", payload_bytes=meta.size, limit_bytes=max_bytes
            )
        data = b"".join(await self._get_chunks(meta))
        if (await _sha256(data)).hex() != sha256:
            raise BlobError(sha256, f"the {len(data)} stored bytes have another digest")
        return data

    def _meta_subject(self, name: str) -> str:
        return f"{self._subjects}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"

    async def _put_chunks(self, nuid: str, data: bytes) -> None:
        """Chunks of one subject go out in order over one connection, and are stored in that order."""
        subject, view = f"{self._subjects}.C.{nuid}", memoryview(data)
        chunks = [bytes(view[at : at + _CHUNK_BYTES]) for at in range(0, len(data), _CHUNK_BYTES)]
        for first in range(0, len(chunks), _CHUNKS_IN_FLIGHT):
            group = chunks[first : first + _CHUNKS_IN_FLIGHT]
            await asyncio.gather(*(self._js.append(subject, chunk) for chunk in group))

    async def _get_chunks(self, meta: _Meta) -> list[bytes]:
        subject, chunks, from_seq = f"{self._subjects}.C.{meta.nuid}", list[bytes](), 1
        more = meta.chunks > 0
        while more:
            found, more = await self._js.direct_batch(
                self._stream, subject, from_seq=from_seq, batch=_BATCH_MESSAGES
            )
            chunks += [message.data for message in found]
            more = more and bool(found)
            from_seq = found[-1].seq + 1 if found else from_seq
        while len(chunks) < meta.chunks:
            # A replica may be behind; its leader is not.
            message = await self._js.next_message(self._stream, subject, from_seq=from_seq)
            if message is None:
                raise BlobError(meta.name, f"{meta.chunks - len(chunks)} of {meta.chunks} chunks are missing")
            chunks.append(message.data)
            from_seq = message.seq + 1
        return chunks

    async def _purge_chunks(self, nuid: str) -> None:
        """Best effort: chunks without an object only take room."""
        try:
            await self._js.call(f"STREAM.PURGE.{self._stream}", {"filter": f"{self._subjects}.C.{nuid}"})
        except ServerError as error:
            logger.warning("chunks of an unfinished claim check stay in %s: %s", self._stream, error)


async def _sha256(data: bytes) -> bytes:
    if len(data) <= _HASH_INLINE_BYTES:
        return hashlib.sha256(data).digest()
    return (await asyncio.get_running_loop().run_in_executor(_HASHERS, hashlib.sha256, data)).digest()
