"""The bytes of tamper evidence: leaves, heads and lines of a bundle (docs/audit.md, which is the specification).

A leaf is one stored message of a stream, whole. A head says, for each stream, the Merkle root over the leaves from
its first sequence to its last, and carries the frontier (from which anybody goes on) and the fingerprints of the
leaves since the head before (by which an altered message is named). What is signed is a short text, not the JSON
around it. Pure: neither keys nor clocks nor I/O.
"""

from __future__ import annotations

import base64
import binascii
from hashlib import sha256
from struct import Struct

import msgspec

from cas_events.domain.events import AUDIT_HEAD
from cas_events.domain.merkle import Frontier
from cas_events.errors import WireError

VERSION = 1
FINGERPRINT_BYTES = 8
BUNDLE_KIND = "cas-audit-bundle"
PROOF_KIND = "cas-audit-proof"

_NUMBERS = Struct(">QQ")
_LENGTH = Struct(">I")
_MISSING = "cas-audit-missing/1"
_LEAF = "cas-audit-leaf/1"
_SEQ_END = 1 << 64


def hash_message(stream: str, seq: int, subject: str, time_ns: int, header: bytes, data: bytes) -> bytes:
    """The leaf hash of a stored message; 32 bytes.

    Raises:
        WireError: a number does not fit 64 bits.
    """
    if not (0 <= seq < _SEQ_END and 0 <= time_ns < _SEQ_END):
        raise WireError(f"{stream} {seq}: sequence or time is out of range")
    where, name = f"{_LEAF}\n{stream}\n".encode(), subject.encode("utf-8", "surrogateescape")
    parts = (b"\x00", where, _NUMBERS.pack(seq, time_ns), _LENGTH.pack(len(name)), name,
             _LENGTH.pack(len(header)), header, _LENGTH.pack(len(data)), data)  # fmt: skip
    return sha256(b"".join(parts)).digest()


def hash_missing(stream: str, seq: int) -> bytes:
    """The leaf hash of a sequence that had no message when it was to be signed."""
    return sha256(b"\x00" + f"{_MISSING}\n{stream}\n{seq}\n".encode()).digest()


class StreamHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a head says about one stream.

    Attributes:
        stream: its name.
        first: sequence of the tree's first leaf.
        last: sequence of its last leaf; ``first`` - 1 if there is none.
        root: Merkle root over first to last, hex.
        frontier: roots of the perfect subtrees, the largest first, hex.
        since: first sequence of which ``fingerprints`` speaks; it ends at ``last``.
        fingerprints: the first 8 bytes of each leaf hash, one after another, base64.
    """

    stream: str
    first: int
    last: int
    root: str
    frontier: list[str]
    since: int
    fingerprints: str

    def tree(self) -> Frontier:
        """The frontier, checked against the root.

        Raises:
            WireError: they do not belong together.
        """
        try:
            tree = Frontier(self.last - self.first + 1, [bytes.fromhex(peak) for peak in self.frontier])
        except ValueError as error:
            raise WireError(f"frontier of {self.stream} {self.last}: {error}") from error
        if tree.root().hex() != self.root:
            raise WireError(f"frontier of {self.stream} {self.last} does not make its root")
        return tree

    def raw_fingerprints(self) -> bytes:
        """The fingerprints as bytes.

        Raises:
            WireError: they are no base64, or not as many as they should be.
        """
        try:
            raw = base64.b64decode(self.fingerprints, validate=True)
        except (binascii.Error, ValueError) as error:
            raise WireError(f"fingerprints of {self.stream} {self.last}: {error}") from error
        if len(raw) != (self.last - self.since + 1) * FINGERPRINT_BYTES:
            raise WireError(f"fingerprints of {self.stream} {self.last} are not one a message")
        return raw


class Previous(msgspec.Struct, frozen=True):
    """The head before, whoever signed it: its sequence in the events, and the SHA-256 of its payload, hex."""

    seq: int
    sha256: str


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of a `cas.audit.head`.

    Attributes:
        version: of this shape.
        streams: commands and events.
        previous: the newest head when this was made; None for the first.
        hash: SHA-256 of the signed text, hex.
        signature: Ed25519 over the signed text, hex.
        public_key: of the signer, hex.
    """

    version: int = VERSION
    streams: list[StreamHead]
    previous: Previous | None
    public_key: str
    hash: str = ""
    signature: str = ""

    def signed_text(self) -> bytes:
        """The bytes that the signature is over.

        Raises:
            WireError: a stream's fingerprints are malformed.
        """
        before = f"{self.previous.seq} {self.previous.sha256}" if self.previous else "0 -"
        lines = [f"cas-audit-head/{self.version}", f"key {self.public_key}", f"previous {before}"]
        for part in self.streams:
            prints = sha256(part.raw_fingerprints()).hexdigest()
            lines.append(f"stream {part.stream} {part.first} {part.last} {part.root} {part.since} {prints}")
        return "".join(f"{line}\n" for line in lines).encode()


class _HeadEvent(msgspec.Struct, frozen=True):
    type: str
    data: Head


_decode_event = msgspec.json.Decoder(_HeadEvent).decode


def stream_head(stream: str, first: int, tree: Frontier, since: int, fingerprints: bytes) -> StreamHead:
    """What a head says about a stream whose tree has these leaves."""
    return StreamHead(
        stream=stream,
        first=first,
        last=first + tree.size - 1,
        root=tree.root().hex(),
        frontier=[peak.hex() for peak in tree.peaks],
        since=since,
        fingerprints=base64.b64encode(fingerprints).decode(),
    )


def decode_head(payload: bytes, where: str) -> Head:
    """The head in an event's payload, its form checked but not its signature.

    Raises:
        WireError: it is none.
    """
    try:
        event = _decode_event(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"{where}: no head: {error}") from error
    if event.type != AUDIT_HEAD or event.data.version != VERSION:
        raise WireError(f"{where}: no head of version {VERSION}")
    for part in event.data.streams:
        _require_form(part, where)
    return event.data


def _require_form(part: StreamHead, where: str) -> None:
    if not 1 <= part.first <= part.last + 1 or not part.first <= part.since <= part.last + 1:
        raise WireError(f"{where}: its sequences of {part.stream} contradict each other")
    if len(part.stream.split()) != 1:
        raise WireError(f"{where}: {part.stream!r} is no stream")


class BundleStart(msgspec.Struct, frozen=True, kw_only=True, tag="start"):
    """First line of a bundle.

    Attributes:
        kind: ``cas-audit-bundle``.
        version: of the lines' shape.
        deployment: whose log it is.
        time: when it was made, RFC 3339.
        streams: of each stream that it holds, in order: name, first and last sequence.
        public_keys: of those who signed its heads, hex.
        is_part: whether it was asked to leave out events; then heads may sign more than it holds.
    """

    kind: str = BUNDLE_KIND
    version: int = VERSION
    deployment: str
    time: str
    streams: list[tuple[str, int, int]]
    public_keys: list[str]
    is_part: bool = False


class BundleHead(msgspec.Struct, frozen=True, tag="head"):
    """A head: its sequence in the events, and the payload as stored, base64."""

    seq: int
    payload: bytes


class BundleMessage(msgspec.Struct, frozen=True, tag="message"):
    """A stored message; header and payload base64, the header with its ``NATS/1.0`` line, or empty."""

    stream: str
    seq: int
    time_ns: int
    subject: str
    header: bytes
    payload: bytes


class BundleEnd(msgspec.Struct, frozen=True, tag="end"):
    """Last line: how many messages there are."""

    messages: int


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """That one message is among what a head signed: one JSON object, a file of its own.

    Attributes:
        kind: ``cas-audit-proof``.
        version: of this shape.
        deployment: whose log it is.
        message: the message.
        head: the head.
        path: of the message's leaf in its stream's tree, from its neighbour upwards, hex.
    """

    kind: str = PROOF_KIND
    version: int = VERSION
    deployment: str
    message: BundleMessage
    head: BundleHead
    path: list[str]


BundleLine = BundleStart | BundleHead | BundleMessage | BundleEnd
encode_line = msgspec.json.Encoder().encode
_decode_line = msgspec.json.Decoder(BundleLine).decode


def decode_proof(data: bytes) -> Proof:
    """A proof.

    Raises:
        WireError: it is none.
    """
    try:
        proof = msgspec.json.decode(data, type=Proof)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise WireError(f"no proof: {error}") from error
    if proof.kind != PROOF_KIND or proof.version != VERSION:
        raise WireError(f"no proof of version {VERSION}")
    return proof


def decode_line(line: bytes, number: int) -> BundleLine:
    """One line of a bundle.

    Raises:
        WireError: it is none.
    """
    try:
        decoded: BundleLine = _decode_line(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise WireError(f"line {number} of the bundle: {error}") from error
    return decoded
