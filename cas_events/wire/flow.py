"""Lanes and who waits before them, as messages in the stream of checkpoints (PROTOCOL section 1).

Below ``<deployment>.ckpt.~flow``, each subject holding one message at most; ``~flow`` can be no thread's token, since
no token has a tilde:

- ``lane.<agent>.key.<key>`` and ``lane.<agent>.rate``: a lane (`domain.flow.Lane`);
- ``wait.<agent>.key.<key>.<class>.<task>`` and ``wait.<agent>.rate.<class>.<task>``: a task that waits. The order of
  the stream is the order of arrival.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from cas_events.domain.flow import Lane, Priority
from cas_events.errors import WireError
from cas_events.wire.subjects import Names
from cas_events.wire.threads import token_of

ROOT = "~flow"


class Waiter(msgspec.Struct, frozen=True, omit_defaults=True):
    """A task that waits.

    Attributes:
        after: the attempt that has ended before; 0 for a first start.
        command_seq: the command that its wake names.
    """

    after: int = 0
    command_seq: int = 0


@dataclass(frozen=True, slots=True)
class LaneSubjects:
    """The subjects of one lane.

    Attributes:
        lane: of the lane itself.
        waiting: what those of the waiting ones begin with.
    """

    lane: str
    waiting: str

    @classmethod
    def of_key(cls, names: Names, agent: str, key: str) -> LaneSubjects:
        """Those of an agent's key."""
        return cls._of(names, f"{agent}.key.{token_of(key)}")

    @classmethod
    def of_rate(cls, names: Names, agent: str) -> LaneSubjects:
        """Those of an agent's rate."""
        return cls._of(names, f"{agent}.rate")

    @classmethod
    def _of(cls, names: Names, tail: str) -> LaneSubjects:
        root = names.thread(ROOT)
        return cls(f"{root}.lane.{tail}", f"{root}.wait.{tail}")

    @property
    def everybody(self) -> str:
        """Filter for all that wait before this lane."""
        return f"{self.waiting}.>"

    def of_class(self, priority: Priority) -> str:
        """Filter for those of a class."""
        return f"{self.waiting}.{priority}.*"

    def waiter(self, priority: Priority, task: str) -> str:
        """Subject of one waiting task."""
        return f"{self.waiting}.{priority}.{task}"


def all_waiting(names: Names, agent: str) -> str:
    """Filter for all tasks of an agent that wait before a lane."""
    return f"{names.thread(ROOT)}.wait.{agent}.>"


_decode_lane = msgspec.json.Decoder(Lane).decode
_decode_waiter = msgspec.json.Decoder(Waiter).decode
encode = msgspec.json.Encoder().encode


def decode_lane(data: bytes) -> Lane:
    """Read a lane.

    Raises:
        WireError: these bytes are none.
    """
    try:
        return _decode_lane(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"no lane: {error}") from error


def decode_waiter(data: bytes) -> Waiter:
    """Read a waiting task; one that is unreadable counts as waiting for its first start."""
    try:
        return _decode_waiter(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Waiter()
