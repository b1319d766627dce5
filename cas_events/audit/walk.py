"""One stream's messages, in order, past the heads over them: where what is there differs from what was signed.

Heads whose trees begin at the same sequence are one lane (usually there is one). A lane's tree grows by each message;
at each head its root must be the signed one. If it is not, the signed fingerprints name what differs, and the lane
goes on from the head's own frontier, so that one fault does not hide the next or colour what is good behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from cas_events.audit.report import Report
from cas_events.domain.merkle import Frontier
from cas_events.errors import WireError
from cas_events.wire.audit import FINGERPRINT_BYTES, BundleMessage, StreamHead, hash_message, hash_missing

Fingerprints = Callable[[int, str], bytes]
_GAP_MAX = (
    1_000_000  # A wider gap is named and not filled: whoever wrote the file may have made the number up.
)


@dataclass(frozen=True, slots=True)
class Sign:
    """What a head says about one stream, without the fingerprints, which stay in the file."""

    head_seq: int
    first: int
    last: int
    root: str
    since: int
    peaks: tuple[bytes, ...]

    @classmethod
    def of(cls, head_seq: int, part: StreamHead) -> Sign:
        """Of a head whose form was checked."""
        return cls(head_seq, part.first, part.last, part.root, part.since, part.tree().peaks)

    def tree(self) -> Frontier:
        """The tree that it signed."""
        return Frontier(self.last - self.first + 1, self.peaks)


class _Lane:
    """The heads over one tree."""

    def __init__(self, signs: Iterable[Sign], first: int) -> None:
        self.signs = sorted(signs, key=lambda sign: (sign.last, sign.head_seq))
        self.first = self.signs[0].first
        self.at = 0
        self.tree: Frontier | None = Frontier() if self.first >= first else None
        self.proved_from = max(self.first, first)
        self.proved_to = self.proved_from - 1
        self.prints = bytearray()  # of the leaves behind `proved_to`
        while self.tree is None and self.at < len(self.signs) and self.signs[self.at].last < first - 1:
            self.at += 1

    def grow(self, seq: int, leaf: bytes) -> None:
        if seq >= self.first and self.tree is not None and self.at < len(self.signs):
            self.tree.append(leaf)
            self.prints += leaf[:FINGERPRINT_BYTES]

    def due(self, seq: int) -> Sign | None:
        """The next head if it ends here."""
        sign = self.signs[self.at] if self.at < len(self.signs) else None
        return sign if sign is not None and sign.last <= seq else None

    def pass_by(self, sign: Sign) -> None:
        """Go on behind a head, from what it signed."""
        if self.tree is None:
            self.proved_from = sign.last + 1
        self.tree = sign.tree()
        self.proved_to = sign.last
        self.prints.clear()
        self.at += 1


class Walk:
    """The check of one stream.

    Args:
        report: where faults go.
        stream: its name.
        range_: its first and last sequence in the bundle, as the bundle says.
        signs: of every head that counts.
        fingerprints: reads those of a head, by its sequence and a stream.
    """

    def __init__(
        self,
        report: Report,
        stream: str,
        range_: tuple[int, int],
        signs: Iterable[Sign],
        fingerprints: Fingerprints,
    ) -> None:
        self._report = report
        self._stream = stream
        self._first, self._last = range_
        self._next = self._first
        self._fingerprints = fingerprints
        self._absent: set[int] = set()  # Sequences without a message that no head has judged yet.
        self._named: set[int] = set()
        self._lost: set[int] = set()  # Those that were named as missing.
        by_first: dict[int, list[Sign]] = {}
        for sign in signs:
            by_first.setdefault(sign.first, []).append(sign)
        self._lanes = [_Lane(lane, self._first) for lane in by_first.values()]
        self._settle(self._first - 1)

    def take(self, message: BundleMessage) -> None:
        """The next message, or what stands in its place."""
        seq = message.seq
        if seq < self._next:
            moved = seq in self._absent or seq in self._lost
            self._named.add(seq)
            self._add(seq, seq, "reordered" if moved else "inserted", f"it stands behind {self._next - 1}")
        elif seq > self._last:
            self._add(seq, seq, "inserted", f"the bundle says that it ends at {self._last}")
        else:
            self._skip_to(seq)
            self._step(seq, self._leaf(message))

    def end(self, *, is_part: bool) -> None:
        """There are no more: what is missing, and how much is proved."""
        self._skip_to(self._last + 1)
        self._name(sorted(self._absent - self._named), "missing", "no head says that there was none")
        signed = max((sign.last for lane in self._lanes for sign in lane.signs), default=0)
        if signed > self._last and not is_part:
            self._add(self._last + 1, signed, "missing", f"signed up to {signed}, and cut off")
        ranges = [(lane.proved_from, lane.proved_to) for lane in self._lanes]
        best = max(ranges, key=lambda found: found[1] - found[0], default=(self._first, self._first - 1))
        count = best[1] - best[0] + 1
        self._report.proved[self._stream] = best if count > 0 else None
        self._report.unproved[self._stream] = self._last - self._first + 1 - max(0, count)

    def _leaf(self, message: BundleMessage) -> bytes:
        try:
            return hash_message(
                self._stream,
                message.seq,
                message.subject,
                message.time_ns,
                message.header,
                message.payload,
            )
        except WireError as error:
            self._named.add(message.seq)
            self._add(message.seq, message.seq, "altered", str(error))
            return hash_missing(self._stream, message.seq)

    def _skip_to(self, seq: int) -> None:
        """Nothing stands from the next sequence to this one: since it was signed, or before."""
        if seq - self._next > _GAP_MAX:
            self._add(self._next, seq - 1, "missing", "a gap too wide to be looked into")
            self._next, self._lanes = seq, []
        while self._next < seq:
            self._absent.add(self._next)
            self._step(self._next, hash_missing(self._stream, self._next))

    def _step(self, seq: int, leaf: bytes) -> None:
        self._next = seq + 1
        for lane in self._lanes:
            lane.grow(seq, leaf)
        self._settle(seq)

    def _settle(self, seq: int) -> None:
        """Compare with the heads that end here."""
        for lane in self._lanes:
            while (sign := lane.due(seq)) is not None:
                if lane.tree is not None and lane.tree.root().hex() != sign.root:
                    self._differs(lane, sign)
                elif lane.tree is not None and self._absent:
                    self._absent -= set(range(lane.proved_to + 1, sign.last + 1))
                lane.pass_by(sign)

    def _differs(self, lane: _Lane, sign: Sign) -> None:
        """Name what is not as a head signed it."""
        signed = self._fingerprints(sign.head_seq, self._stream)
        found = [
            seq
            for seq in range(max(lane.proved_to + 1, sign.since), sign.last + 1)
            if _at(signed, seq - sign.since) != _at(lane.prints, seq - lane.proved_to - 1)
        ]
        by = f"as the head at {sign.head_seq} signed it"
        if not found:
            self._add(lane.proved_to + 1, sign.last, "altered", f"not {by}; which of them cannot be told")
        new = [seq for seq in found if seq not in self._named]
        self._name([seq for seq in new if seq in self._absent], "missing", f"not there, {by}")
        self._name([seq for seq in new if seq not in self._absent], "altered", f"not {by}")
        self._absent -= set(range(lane.proved_to + 1, sign.last + 1))

    def _name(self, seqs: list[int], kind: str, detail: str) -> None:
        """Name sequences, neighbours together."""
        self._named.update(seqs)
        if kind == "missing":
            self._lost.update(seqs)
        starts = [seq for before, seq in pairwise([-1, *seqs]) if seq != before + 1 or before == -1]
        ends = [seq for seq, after in pairwise([*seqs, -1]) if after != seq + 1]
        for first, last in zip(starts, ends, strict=True):
            self._add(first, last, kind, detail)

    def _add(self, first: int, last: int, kind: str, detail: str) -> None:
        self._report.add(self._stream, first, last, kind, detail)


def _at(prints: bytes | bytearray, index: int) -> bytes:
    return bytes(prints[index * FINGERPRINT_BYTES : (index + 1) * FINGERPRINT_BYTES])
