"""The subjects of one LangGraph thread in the stream of checkpoints (PROTOCOL section 1), and the tokens in them.

Below ``<deployment>.ckpt.<thread>``, each subject holding one message at most:

- ``f``: the fence, who may write (PROTOCOL section 9);
- ``c.<ns>.<checkpoint>``: a checkpoint's record, the point of its commit;
- ``w.<ns>.<checkpoint>.<task>.<slot>``: what a task wrote on top of a checkpoint;
- ``q``: the line of tasks that share the thread, whose turn it is;
- ``p.<hash>``: a piece, bytes under the name of their own hash.

Any text is a token: one that PROTOCOL allows is itself, another is ``=`` and its base64url, a long one is ``==`` and
its hash. Pure.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import lru_cache

from cas_events.domain.tokens import is_token
from cas_events.wire.subjects import Names

_ENCODED_LENGTH_MAX = 128


@lru_cache(512)
def token_of(text: str) -> str:
    """The token of any text; different texts have different tokens."""
    if is_token(text):
        return text
    raw = text.encode("utf-8", "surrogatepass")
    encoded = "=" + _base64(raw)
    if len(encoded) <= _ENCODED_LENGTH_MAX:
        return encoded
    return "==" + _base64(hashlib.sha256(raw).digest())


def text_of(token: str) -> str | None:
    """The text of a token; None if only its hash is in it.

    Raises:
        ValueError: this is no token of ours.
    """
    if token.startswith("=="):
        return None
    if token.startswith("="):
        encoded = token[1:]
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        return raw.decode("utf-8", "surrogatepass")
    return token


@dataclass(frozen=True, slots=True)
class ThreadSubjects:
    """The subjects of one thread.

    Attributes:
        prefix: what they all begin with, such as ``cas.ckpt.4711``.
    """

    prefix: str

    @classmethod
    def of(cls, names: Names, thread_id: str) -> ThreadSubjects:
        """The subjects of a thread by its id."""
        return cls(names.thread(token_of(thread_id)))

    @property
    def token(self) -> str:
        """The thread's own token."""
        return self.prefix.rpartition(".")[2]

    @property
    def everything(self) -> str:
        """Filter for every message of the thread."""
        return f"{self.prefix}.>"

    @property
    def contents(self) -> str:
        """Filter for every message but the fence and the line."""
        return f"{self.prefix}.*.>"

    @property
    def fence(self) -> str:
        """Subject of the fence."""
        return f"{self.prefix}.f"

    @property
    def line(self) -> str:
        """Subject of the line of tasks that share the thread (`domain.turns`)."""
        return f"{self.prefix}.q"

    @property
    def all_records(self) -> str:
        """Filter for the records of every namespace."""
        return f"{self.prefix}.c.>"

    @property
    def all_writes(self) -> str:
        """Filter for the writes of every namespace."""
        return f"{self.prefix}.w.>"

    @property
    def all_pieces(self) -> str:
        """Filter for the pieces."""
        return f"{self.prefix}.p.*"

    def records(self, ns: str) -> str:
        """Filter for the records of a namespace."""
        return f"{self.prefix}.c.{token_of(ns)}.*"

    def record(self, ns: str, checkpoint_id: str) -> str:
        """Subject of a checkpoint's record."""
        return f"{self.prefix}.c.{token_of(ns)}.{token_of(checkpoint_id)}"

    def writes(self, ns: str, checkpoint_id: str) -> str:
        """Filter for all that was written on top of a checkpoint."""
        return f"{self.prefix}.w.{token_of(ns)}.{token_of(checkpoint_id)}.>"

    def write(self, ns: str, checkpoint_id: str, task_id: str, slot: str) -> str:
        """Subject of one set of writes of a task."""
        return (
            f"{self.prefix}.w.{token_of(ns)}.{token_of(checkpoint_id)}.{token_of(task_id)}.{token_of(slot)}"
        )

    def piece(self, digest: bytes) -> str:
        """Subject of a piece."""
        return f"{self.prefix}.p.{_base64(digest)}"

    def writes_of(self, record_subject: str) -> str:
        """Filter for the writes on top of the checkpoint of a record, by the subject of that."""
        return f"{self.prefix}.w.{record_subject.removeprefix(self.prefix + '.c.')}.>"

    def moved(self, subject: str, target: ThreadSubjects) -> str:
        """The same subject in another thread."""
        return target.prefix + subject.removeprefix(self.prefix)


def thread_of(subject: str) -> ThreadSubjects:
    """The thread that a subject belongs to."""
    return ThreadSubjects(".".join(subject.split(".", 3)[:3]))


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
