"""What a check of the log found."""

from __future__ import annotations

import msgspec

FAULTS_MAX = 1_000  # Kept; more are only counted.


class Fault(msgspec.Struct, frozen=True):
    """One thing that is not as it was signed.

    Attributes:
        stream: where; empty if the bundle as a whole is meant.
        first: first sequence.
        last: last sequence; the same unless it cannot be told which.
        kind: ``altered``, ``missing``, ``inserted``, ``reordered``, ``head`` or ``bundle``.
        detail: in words.
    """

    stream: str
    first: int
    last: int
    kind: str
    detail: str

    def __str__(self) -> str:
        where = f"{self.stream} {self.first}" if self.stream else "the bundle"
        until = f" to {self.last}" if self.last != self.first else ""
        return f"{where}{until} {self.kind}: {self.detail}"


class Report(msgspec.Struct, kw_only=True):
    """The outcome.

    Attributes:
        deployment: whose log.
        messages: how many were read.
        heads: how many heads count.
        public_keys: who signed them.
        is_pinned: whether the caller said which key counts.
        ignored_heads: heads of other keys than the pinned one, and what stands in their place and is none.
        proved: of each stream, the first and last sequence that heads prove; None if none.
        unproved: of each stream, how many messages no head covers: behind the last, or before the first usable one.
        faults: at most 1,000.
        fault_count: all.
    """

    deployment: str = ""
    messages: int = 0
    heads: int = 0
    public_keys: list[str] = msgspec.field(default_factory=list)
    is_pinned: bool = False
    ignored_heads: int = 0
    proved: dict[str, tuple[int, int] | None] = msgspec.field(default_factory=dict)
    unproved: dict[str, int] = msgspec.field(default_factory=dict)
    faults: list[Fault] = msgspec.field(default_factory=list)
    fault_count: int = 0

    @property
    def is_good(self) -> bool:
        """Nothing is wrong; it may still be that nothing is proved."""
        return not self.fault_count

    def add(self, stream: str, first: int, last: int, kind: str, detail: str) -> None:
        """Note a fault."""
        self.fault_count += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(Fault(stream, first, last, kind, detail))
