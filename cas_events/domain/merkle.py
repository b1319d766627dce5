"""The Merkle tree of RFC 6962 (section 2.1) over SHA-256: roots, frontiers and proofs, as values.

Invariants: a leaf's hash and a node's hash begin with different bytes (0 and 1), so that neither can pass for the
other; the root of no leaves is the hash of nothing; a tree that grows never changes what its earlier roots said. A
`Frontier` is all that growing needs: the roots of the perfect subtrees, one a set bit of the size. What a leaf is
made of is `wire.audit`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()


def hash_leaf(data: bytes) -> bytes:
    """The hash of one leaf's bytes."""
    return sha256(b"\x00" + data).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """A growing tree, without its leaves.

    Args:
        size: how many leaves it has.
        peaks: roots of its perfect subtrees, the largest first: one a set bit of ``size``.

    Raises:
        ValueError: ``peaks`` are not as many as ``size`` says, or one is no hash.
    """

    __slots__ = ("_peaks", "size")

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        self._peaks = list(peaks)
        self.size = size
        if size < 0 or len(self._peaks) != size.bit_count():
            raise ValueError(f"{len(self._peaks)} subtrees do not make a tree of {size} leaves")
        if any(len(peak) != HASH_BYTES for peak in self._peaks):
            raise ValueError("a subtree's root is not 32 bytes")

    @property
    def peaks(self) -> tuple[bytes, ...]:
        """Roots of the perfect subtrees, the largest first."""
        return tuple(self._peaks)

    def append(self, leaf_hash: bytes) -> None:
        """Grow by one leaf."""
        peaks, full = self._peaks, self.size
        while full & 1:
            leaf_hash = hash_node(peaks.pop(), leaf_hash)
            full >>= 1
        peaks.append(leaf_hash)
        self.size += 1

    def root(self) -> bytes:
        """The root over all leaves so far."""
        if not self._peaks:
            return EMPTY_ROOT
        root = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            root = hash_node(peak, root)
        return root

    def copy(self) -> Frontier:
        """One that grows apart from this."""
        return Frontier(self.size, self._peaks)


def tree_root(leaf_hashes: Sequence[bytes]) -> bytes:
    """The root over leaves that are all at hand."""
    frontier = Frontier()
    for leaf_hash in leaf_hashes:
        frontier.append(leaf_hash)
    return frontier.root()


def inclusion_path(before: Frontier, leaf_hashes: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of a leaf, from its neighbour upwards (RFC 6962, section 2.1.1), without the leaves before a frontier.

    Args:
        before: the tree of the first leaves; an empty one if all are at hand.
        leaf_hashes: of all leaves behind those.
        index: of the leaf in the whole tree.

    Raises:
        ValueError: the leaf is not among ``leaf_hashes``.
    """
    if not before.size <= index < before.size + len(leaf_hashes):
        raise ValueError(f"leaf {index} is not among {len(leaf_hashes)} behind {before.size}")
    known = dict(zip(_starts(before.size), before.peaks, strict=True))

    def root(start: int, end: int) -> bytes:
        if end <= before.size:
            return known[start]  # Not part of a larger perfect subtree: that would hold its sibling too.
        if end - start == 1:
            return leaf_hashes[start - before.size]
        middle = start + _split(end - start)
        return hash_node(root(start, middle), root(middle, end))

    path, start, end = [], 0, before.size + len(leaf_hashes)
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(root(middle, end))
            end = middle
        else:
            path.append(root(start, middle))
            start = middle
    return path[::-1]


def root_by_path(leaf_hash: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that an audit path leads to; None if the path does not fit the place (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return None
    at, last, root = index, size - 1, leaf_hash
    for sibling in path:
        if last == 0:
            return None
        if at & 1 or at == last:
            root = hash_node(sibling, root)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            root = hash_node(root, sibling)
        at, last = at >> 1, last >> 1
    return root if last == 0 else None


def _split(size: int) -> int:
    """The largest power of two below ``size``."""
    return 1 << ((size - 1).bit_length() - 1)


def _starts(size: int) -> list[int]:
    """Where the perfect subtrees of a tree begin."""
    starts, at = [], 0
    for bit in reversed(range(size.bit_length())):
        if size >> bit & 1:
            starts.append(at)
            at += 1 << bit
    return starts
