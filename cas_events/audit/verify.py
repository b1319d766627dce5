"""The check of a bundle, offline: what was signed is there, unchanged, in its place, and nothing else is among it.

Three things are compared. Heads: signature, own consistency, and the chain of all heads. Sequences: each stream's
messages count up by one from the start line's first to its last. Leaves: at each head the messages up to it must
make the root that it signed; if they do not, the fingerprints that it signed name those that differ. A tree whose
beginning is not in the bundle (an export of a part, or a log that retention has cut) is taken up at the first head
from which on all is there. What no head covers is counted, not judged.

What stands on the heads' subject and is no head (anybody who may publish there can put it there) is no fault if the heads
behind it signed it as it is; nor is it one where none has, unless it bears the name of a key that signs this log.

Memory: a few hundred bytes a head, and 8 bytes a message between two heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from itertools import chain
from pathlib import Path

from cas_events.audit.bundle import read_lines
from cas_events.audit.heads import is_signed
from cas_events.audit.keys import require_extra
from cas_events.audit.report import Report
from cas_events.audit.walk import Sign, Walk
from cas_events.errors import BundleError, WireError
from cas_events.wire.audit import (
    BUNDLE_KIND,
    VERSION,
    BundleEnd,
    BundleHead,
    BundleLine,
    BundleMessage,
    BundleStart,
    Head,
    decode_head,
)
from cas_events.wire.subjects import Names


def verify_bundle(path: Path, *, key: str = "") -> Report:
    """Check a bundle.

    Args:
        path: the file.
        key: the only public key that counts, hex; without it, all that signed a head.

    Raises:
        AuditExtraMissingError: `cryptography` is not installed.
        BundleError: the file is no bundle, or cannot be read at all.
    """
    require_extra()
    return _Verifier(path, key).run()


class _Verifier:
    """One run over one file."""

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key
        self._report = Report(is_pinned=bool(key))
        self._digests: dict[int, str] = {}  # of each head's payload, by its sequence
        self._signs: dict[str, list[Sign]] = {}
        self._false: dict[int, tuple[str, bytes]] = {}  # What is no head: why, and its payload.
        self._names = Names()

    def run(self) -> Report:
        lines = read_lines(self._path)
        start = next(lines, None)
        if not isinstance(start, BundleStart) or start.kind != BUNDLE_KIND or start.version != VERSION:
            raise BundleError(f"{self._path} is no audit bundle of version {VERSION}")
        self._report.deployment, self._names = start.deployment, Names(start.deployment)
        ranges = {name: (first, last) for name, first, last in start.streams}
        if ranges.keys() != {self._names.commands, self._names.events}:
            raise BundleError(
                f"{self._path} does not hold the commands and the events of {start.deployment!r}"
            )
        rest = self._heads(self._unbroken(lines), ranges[self._names.events][0])
        self._messages(start, ranges, rest)
        self._judge_false_heads()
        return self._report

    def _unbroken(self, lines: Iterator[BundleLine]) -> Iterator[BundleLine]:
        """The lines up to where the file breaks off, which is a fault like others."""
        try:
            yield from lines
        except BundleError as error:
            self._wrong(str(error))

    def _wrong(self, detail: str) -> None:
        self._report.add("", 0, 0, "bundle", detail)

    # --- heads

    def _heads(self, lines: Iterator[BundleLine], first_event: int) -> Iterator[BundleLine]:
        """Take in the heads; what comes behind them."""
        report, keys = self._report, set()
        rest = lines
        for line in lines:
            if not isinstance(line, BundleHead):
                rest = chain([line], lines)
                break
            head = self._judged(line, first_event)
            if head is not None:
                report.heads += 1
                keys.add(head.public_key)
                for part in head.streams:
                    self._signs.setdefault(part.stream, []).append(Sign.of(line.seq, part))
        report.public_keys = sorted(keys)
        if not report.heads:
            self._wrong(
                "no head of this key is in it" if self._key else "no head is in it: nothing is signed"
            )
        return rest

    def _judged(self, line: BundleHead, first_event: int) -> Head | None:
        """The head if it counts."""
        before = max(self._digests.items(), default=None)
        self._digests[line.seq] = sha256(line.payload).hexdigest()
        try:
            head = decode_head(line.payload, f"{self._names.events} {line.seq}")
            if self._key and head.public_key != self._key:
                self._report.ignored_heads += 1
                return None
            problem = _FORGED if not is_signed(head) else _break_in_chain(head, before, first_event)
        except WireError as error:
            head, problem = None, str(error)
        if head is None or problem == _FORGED:
            self._false[line.seq] = problem, line.payload
            return None
        if problem:
            self._report.add(self._names.events, line.seq, line.seq, "head", problem)
        return head

    def _judge_false_heads(self) -> None:
        """Whether what is no head was put there by somebody, or is what became of a head."""
        report, events = self._report, self._names.events
        first, last = report.proved[events] or (1, 0)
        keys = [key.encode() for key in ([self._key] if self._key else report.public_keys)]
        for seq, (problem, payload) in self._false.items():
            is_named = any(f.stream == events and f.first <= seq <= f.last for f in report.faults)
            was_so = first <= seq <= last and not is_named
            if was_so or not any(key in payload for key in keys):
                report.ignored_heads += 1
            else:
                report.add(events, seq, seq, "head", problem)

    # --- messages

    def _messages(
        self, start: BundleStart, ranges: dict[str, tuple[int, int]], lines: Iterator[BundleLine]
    ) -> None:
        walks = {
            name: Walk(self._report, name, range_, self._signs.get(name, []), self._fingerprints)
            for name, range_ in ranges.items()
        }
        for name in self._signs.keys() - walks.keys():
            self._wrong(f"{name} is signed, but not in it")
        end = None
        for line in lines:
            if end is not None:
                self._wrong("something stands behind its end line")
                break
            if isinstance(line, BundleEnd):
                end = line
            elif isinstance(line, BundleMessage) and line.stream in walks:
                self._report.messages += 1
                self._look_at_head(line)
                walks[line.stream].take(line)
            else:
                self._wrong("a line is out of its place")
        for walk in walks.values():
            walk.end(is_part=start.is_part)
        if end is None:
            self._wrong("it breaks off: its end line is missing")
        elif end.messages != self._report.messages:
            self._wrong(f"it has {self._report.messages} messages, its end line says {end.messages}")

    def _look_at_head(self, line: BundleMessage) -> None:
        """A head among the messages is one of those that were checked."""
        if line.subject == self._names.audit_head and line.stream == self._names.events:
            known = self._digests.get(line.seq)
            if known != sha256(line.payload).hexdigest():
                detail = (
                    "it differs from the head of this sequence" if known else "it is kept back from the heads"
                )
                self._report.add(line.stream, line.seq, line.seq, "head", detail)

    def _fingerprints(self, head_seq: int, stream: str) -> bytes:
        """What a head signed of each message: read again, since it is needed only when something is wrong."""
        for line in read_lines(self._path):
            if isinstance(line, BundleHead) and line.seq == head_seq:
                head = decode_head(line.payload, "")
                return next(part.raw_fingerprints() for part in head.streams if part.stream == stream)
        return b""


_FORGED = "its signature is wrong"


def _break_in_chain(head: Head, before: tuple[int, str] | None, first_event: int) -> str:
    """What is wrong with a head's place, given sequence and digest of what is before; empty if nothing."""
    named = (head.previous.seq, head.previous.sha256) if head.previous else None
    if named == before or (before is None and named is not None and named[0] < first_event):
        return ""  # The oldest heads may be gone with the oldest events.
    if named is None:
        return "it says that no head is before it"
    if before is None or named[0] > before[0]:
        return f"the head before it, {named[0]}, is not there"
    return f"the head before it, {named[0]}, is another now, or {before[0]} was put in between"
