"""What a runner and the child process of an isolated agent say to each other: frames on a pair of sockets.

A frame is four bytes of length and a MessagePack message. Values of users (input, output, metadata, fields of a log
line) travel as the JSON that goes over the wire anyway, so that whatever has no JSON form is found where it was made.
Both ends are of the same version of this package: the format is nobody else's and may change with it.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from cas_events.domain.limits import CLAIM_BYTES_MAX
from cas_events.errors import WireError

FRAME_BYTES_MAX = (
    CLAIM_BYTES_MAX + 1024 * 1024
)  # the largest output that can be stored, and what stands around it
READ_BYTES = 256 * 1024

_LENGTH = struct.Struct("!I")


class Start(msgspec.Struct, frozen=True, kw_only=True, tag_field="what", tag="start"):
    """To the child, first: what to run, and for which task.

    Attributes:
        module: where the agent's function is found, by import.
        qualname: its name in there.
        main: how to load the parent's main module, if it is that: what `multiprocessing.spawn.prepare` takes.
        task_id: the task.
        agent_id: the agent.
        attempt: the epoch.
        metadata: the caller's own, as JSON.
        input: as JSON.
        log_level: what is logged below it is dropped, as the standard library counts levels.
    """

    module: str
    qualname: str
    main: dict[str, Any]
    task_id: str
    agent_id: str
    attempt: int
    metadata: bytes
    input: bytes
    log_level: int


class Stop(msgspec.Struct, frozen=True, tag_field="what", tag="stop"):
    """To the child: end the agent's code."""


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag_field="what", tag="progress"):
    """From the child: as `Emitter.progress`."""

    fraction: float
    message: str
    node: str | None
    agent: str | None


class Output(msgspec.Struct, frozen=True, kw_only=True, tag_field="what", tag="output"):
    """From the child: as `Emitter.output`; the value as JSON."""

    kind: str
    value: bytes


class Log(msgspec.Struct, frozen=True, kw_only=True, tag_field="what", tag="log"):
    """From the child: as `Emitter.log`; the metadata as a JSON object."""

    level: str
    message: str
    metadata: bytes
    node: str | None = None
    agent: str | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="what", tag="step"):
    """From the child: as `Emitter.step`; the members as a JSON object."""

    type: str
    members: bytes


class Result(msgspec.Struct, frozen=True, tag_field="what", tag="result"):
    """From the child, last: the agent's function returned; its output as JSON."""

    output: bytes


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag_field="what", tag="failure"):
    """From the child, last: the agent's function raised.

    Attributes:
        type: name of the error's type.
        message: its words.
        traceback: as printed.
        lineage: its types from the innermost, as ``module.qualname``: what the parent tells retryable errors by.
        is_final: whether trying again is of no use, whatever the type.
        retry_after_s: the delay that the error asks for.
        node: the graph's node that it came from.
    """

    type: str
    message: str
    traceback: str
    lineage: list[str]
    is_final: bool
    retry_after_s: float | None
    node: str | None


class Ask(msgspec.Struct, frozen=True, tag_field="what", tag="ask"):
    """From the child: something that only the runner can do.

    Attributes:
        number: of the question.
        question: which one; see `isolation_answering`.
        arguments: as a JSON object.
    """

    number: int
    question: str
    arguments: bytes


class Forget(msgspec.Struct, frozen=True, tag_field="what", tag="forget"):
    """From the child: nobody waits for an answer any more."""

    number: int


class Answer(msgspec.Struct, frozen=True, tag_field="what", tag="answer"):
    """To the child: the answer to a question.

    Attributes:
        number: of the question.
        body: the value, or an error's type, words and attributes, pickled.
        is_error: which of the two.
    """

    number: int
    body: bytes
    is_error: bool = False


FromParent = Start | Stop | Answer
FromChild = Progress | Output | Log | Step | Ask | Forget | Result | Failure


def frame(message: FromParent | FromChild) -> bytes:
    """One message as it is sent."""
    body = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Puts frames together again from however they arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take what was received; the bodies of the frames that are complete now.

        Raises:
            WireError: a frame is over `FRAME_BYTES_MAX`.
        """
        self._buffer += data
        bodies, at = [], 0
        while len(self._buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            if length > FRAME_BYTES_MAX:
                raise WireError(f"a frame of {length} bytes is over the limit of {FRAME_BYTES_MAX} bytes")
            begin = at + _LENGTH.size
            if len(self._buffer) < begin + length:
                break
            bodies.append(bytes(self._buffer[begin : begin + length]))
            at = begin + length
        del self._buffer[:at]
        return bodies


def type_name(type_: type) -> str:
    """A type as both processes call it: the main module of the one is loaded under another name by the other."""
    module = "__main__" if type_.__module__ == "__mp_main__" else type_.__module__
    return f"{module}.{type_.__qualname__}"


class _Side:
    is_child = False


def enter_child() -> None:
    """This process is an isolated agent's, from now on."""
    _Side.is_child = True


def is_child() -> bool:
    """Whether this process runs an isolated agent, and is no runner."""
    return _Side.is_child
