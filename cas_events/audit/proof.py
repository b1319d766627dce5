"""The proof that one message is in the signed log, without the rest of it: message, head, and the path between them.

Made from the log: the frontier of the head before and the messages since are enough. Checked from the file alone.
"""

from __future__ import annotations

from cas_events.audit.bundle import bundle_line, read
from cas_events.audit.heads import is_signed
from cas_events.audit.keys import require_extra
from cas_events.domain.merkle import Frontier, inclusion_path, root_by_path
from cas_events.errors import AuditError, TamperedError, WireError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.audit import (
    BundleHead,
    BundleMessage,
    Head,
    Proof,
    StreamHead,
    decode_head,
    hash_message,
    hash_missing,
)
from cas_events.wire.subjects import Names


async def prove(connection: Connection, names: Names, stream: str, seq: int) -> Proof:
    """The proof of a stored message, under the first head over it.

    Raises:
        AuditError: there is no such message, or no head is over it yet.
        TamperedError: the log is not as that head signed it.
    """
    require_extra()
    found, part, before = await _covering(connection, names, stream, seq)
    leaves: list[bytes] = []
    message: StoredMessage | None = None
    async for stored in read(connection, stream, part.since, part.last):
        while part.since + len(leaves) < stored.seq:
            leaves.append(hash_missing(stream, part.since + len(leaves)))
        message = stored if stored.seq == seq else message
        leaves.append(_leaf(bundle_line(stored)))
    tree = before.copy()
    for leaf in leaves:
        tree.append(leaf)
    if message is None or tree.root().hex() != part.root:
        raise TamperedError(1, f"{stream} {part.since} to {part.last}: see `cas audit verify`")
    path = inclusion_path(before, leaves, seq - part.first)
    return Proof(
        deployment=names.deployment,
        message=bundle_line(message),
        head=BundleHead(found.seq, found.data),
        path=[step.hex() for step in path],
    )


def check_proof(proof: Proof, *, key: str = "") -> Head:
    """The head that a proof stands on.

    Args:
        proof: as it was read.
        key: the only public key that counts, hex; any without it.

    Raises:
        TamperedError: it does not hold.
    """
    require_extra()
    message = proof.message
    where = f"{message.stream} {message.seq}"
    try:
        head = decode_head(proof.head.payload, f"the head at {proof.head.seq}")
        part = next((part for part in head.streams if part.stream == message.stream), None)
        path = [bytes.fromhex(step) for step in proof.path]
        if not is_signed(head) or (key and head.public_key != key):
            raise TamperedError(1, f"{where}: its head is not signed by the key")
        if part is None or not part.first <= message.seq <= part.last:
            raise TamperedError(1, f"{where}: its head does not speak of it")
        root = root_by_path(_leaf(message), message.seq - part.first, part.last - part.first + 1, path)
    except (WireError, ValueError) as error:
        raise TamperedError(1, f"{where}: {error}") from error
    if root is None or root.hex() != part.root:
        raise TamperedError(1, f"{where} altered: it does not lead to the root that was signed")
    return head


async def _covering(
    connection: Connection, names: Names, stream: str, seq: int
) -> tuple[StoredMessage, StreamHead, Frontier]:
    """The first head over a message, what it says of the stream, and the tree of what was signed before."""
    state = (await JetStream(connection).stream_info(names.events)).state
    trees: dict[str, Frontier] = {}  # by key
    async for message in read(connection, names.events, 1, state.last_seq, names.audit_head):
        try:
            head = decode_head(message.data, f"{message.stream} {message.seq}")
            part = next((part for part in head.streams if part.stream == stream), None)
            if part is None or not is_signed(head):
                continue
        except WireError:
            continue  # `verify` says what is wrong with it.
        before = Frontier() if part.since == part.first else trees.get(head.public_key)
        if part.since <= seq <= part.last and before and before.size == part.since - part.first:
            return message, part, before
        trees[head.public_key] = part.tree()
    raise AuditError(f"no head is over {stream} {seq} yet, or there is no such message")


def _leaf(message: BundleMessage) -> bytes:
    return hash_message(
        message.stream, message.seq, message.subject, message.time_ns, message.header, message.payload
    )
