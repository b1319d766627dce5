"""The Merkle tree against RFC 6962: its recursive definition written down naively, and known roots.

Method: Hypothesis draws the leaves; the known roots are those of the reference implementation's own test
(certificate-transparency, `merkle_tree_test`). Proves the tree's part of issue 5, tamper evidence.
"""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_events.domain.merkle import Frontier, hash_leaf, hash_node, inclusion_path, root_by_path, tree_root

LEAVES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
leaves = st.lists(st.binary(max_size=4), min_size=1, max_size=70)


def naive(data: list[bytes]) -> bytes:
    if not data:
        return sha256(b"").digest()
    if len(data) == 1:
        return sha256(b"\x00" + data[0]).digest()
    split = 1
    while split * 2 < len(data):
        split *= 2
    return sha256(b"\x01" + naive(data[:split]) + naive(data[split:])).digest()


def test_roots_of_the_reference_implementation() -> None:
    assert tree_root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    frontier = Frontier()
    for leaf, root in zip(LEAVES, ROOTS, strict=True):
        frontier.append(hash_leaf(leaf))
        assert frontier.root().hex() == root


@given(leaves, st.data())
def test_equals_the_recursive_definition_and_goes_on_from_any_frontier(data: list[bytes], draw) -> None:
    hashes = [hash_leaf(leaf) for leaf in data]
    cut = draw.draw(st.integers(0, len(data)))
    first = Frontier()
    for leaf in hashes[:cut]:
        first.append(leaf)
    assert first.root() == naive(data[:cut])
    second = Frontier(first.size, first.peaks)
    for leaf in hashes[cut:]:
        second.append(leaf)
    assert second.root() == naive(data)


@given(leaves, st.data())
def test_a_path_leads_to_the_root_from_its_own_place_alone(data: list[bytes], draw) -> None:
    hashes = [hash_leaf(b"%d" % n + leaf) for n, leaf in enumerate(data)]
    index = draw.draw(st.integers(0, len(data) - 1))
    before = Frontier()
    for leaf in hashes[: draw.draw(st.integers(0, index))]:  # What is before need not be at hand.
        before.append(leaf)
    path, root = inclusion_path(before, hashes[before.size :], index), tree_root(hashes)
    assert root_by_path(hashes[index], index, len(data), path) == root
    assert root_by_path(hash_node(hashes[index], root), index, len(data), path) != root
    assert root_by_path(hashes[index], index, len(data), [*path, root]) != root
    for other in set(range(len(data))) - {index}:
        assert root_by_path(hashes[index], other, len(data), path) != root


@pytest.mark.parametrize("peaks", [[], [b"x" * 32] * 2, [b"x"]])
def test_a_frontier_that_cannot_be_is_refused(peaks: list[bytes]) -> None:
    with pytest.raises(ValueError, match="subtree"):
        Frontier(1, peaks)
