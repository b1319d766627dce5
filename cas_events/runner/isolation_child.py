"""The child process of an isolated agent: one attempt, told and reported over one socket.

The agent's function runs in an event loop of its own with a context as any agent's, whose events go to the parent.
The process ends with the function: what the agent left running ends with it, and handlers of ``atexit`` do not run.

It cannot outlive its parent. A thread watches the socket, which closes when the parent is gone; for code that never
lets go of the interpreter, Linux kills the process with its parent. Elsewhere such code ends when it next lets go.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import logging
import multiprocessing.spawn
import os
import signal
import socket
import sys
import threading
import traceback
from typing import Any, NoReturn

import msgspec

from cas_events.domain.limits import (
    CLAIM_BYTES_MAX,
    ERROR_MESSAGE_BYTES,
    TRACEBACK_BYTES,
    cut_utf8,
)
from cas_events.errors import NonRetryableError, NotJsonError, PayloadTooLargeError
from cas_events.process_log import route_structlog
from cas_events.runner.context import TaskContext, task_scope
from cas_events.runner.functions import awaitable
from cas_events.runner.isolation_asking import AskedChildren, AskedState, Questions
from cas_events.runner.isolation_emitter import CUT_SLACK_BYTES, ORPHANED, ChildEmitter, Outbox
from cas_events.runner.isolation_link import (
    READ_BYTES,
    Answer,
    Failure,
    FrameReader,
    Result,
    Start,
    Stop,
    enter_child,
    type_name,
)
from cas_events.runner.log_bridge import give_all_to
from cas_events.runner.registry import AgentFunction
from cas_events.runner.shutdown import AgentThreads
from cas_events.runner.terms import retry_after_s
from cas_events.wire.claims import require_small_enough
from cas_events.wire.jsonvalue import decode_json, encode_json

_log = logging.getLogger(__name__)


_PR_SET_PDEATHSIG = 1


def main(link_fd: int, parent_pid: int) -> NoReturn:
    """Run the attempt that the parent describes, report its end, and end the process."""
    os.set_inheritable(link_fd, False)
    _die_with(parent_pid)
    link = socket.socket(fileno=link_fd)
    outbox, stop = Outbox(link), StopSwitch()
    questions = Questions(outbox)
    try:
        start = _listen(link, stop, questions)
        enter_child()
        function = _find(start)
        asyncio.run(_attempt(function, start, outbox, stop, questions))
    except BaseException as error:  # Importing runs the user's own code, which may raise anything.
        _leave(outbox, _failure(error))


async def _attempt(
    function: AgentFunction, start: Start, outbox: Outbox, stop: StopSwitch, questions: Questions
) -> NoReturn:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(AgentThreads())
    context = TaskContext(
        task_id=start.task_id,
        agent_id=start.agent_id,
        attempt=start.attempt,
        metadata=decode_json(start.metadata),
        make_emitter=lambda: ChildEmitter(outbox),
        is_cancelled=stop.is_asked.is_set,
        log_level=start.log_level,
    )
    give_all_to(context)
    route_structlog()
    context.make_children = lambda _: AskedChildren(questions)
    context.state = AskedState(questions)
    stop.bind(loop)
    try:
        stop.raise_if_asked()
        with task_scope(context):
            output = await awaitable(function)(context, decode_json(start.input))
    except BaseException as error:  # Even an agent's SystemExit is only its own failure.
        _leave(outbox, _failure(error))
    _leave(outbox, _result(output))


def _leave(outbox: Outbox, end: Result | Failure) -> NoReturn:
    """Say the last word and end the process over whatever still runs in it."""
    outbox.put(end)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(0)


def _result(output: Any) -> Result | Failure:
    """The last word of a function that has returned; an output that cannot be stored is its failure."""
    try:
        encoded = encode_json(output, path="output")
        require_small_enough([encoded], "the output", CLAIM_BYTES_MAX)
    except (NotJsonError, PayloadTooLargeError) as problem:
        return _failure(problem, is_final=True)
    return Result(encoded)


def _failure(error: BaseException, *, is_final: bool = False) -> Failure:
    try:
        words = str(error)
    except Exception as problem:  # The agent's own code; what it raised instead is part of the story.
        words = f"({type(error).__name__} cannot say what it is: {type(problem).__name__})"
    lines = "".join(traceback.format_exception(error)).encode("utf-8", "replace")
    node = getattr(error, "cas_node", None)
    return Failure(
        type=type(error).__name__,
        message=cut_utf8(words, ERROR_MESSAGE_BYTES + CUT_SLACK_BYTES)[0],
        traceback=lines[-TRACEBACK_BYTES - CUT_SLACK_BYTES :].decode("utf-8", "ignore"),
        lineage=[type_name(type_) for type_ in type(error).__mro__],
        is_final=is_final,
        retry_after_s=retry_after_s(error),
        node=node if isinstance(node, str) else None,
    )


def _find(start: Start) -> AgentFunction:
    """Import the agent's function.

    Raises:
        NonRetryableError: its module does not have it.
    """
    if start.main:
        multiprocessing.spawn.prepare(start.main)
    module = importlib.import_module(start.module)
    found: Any = module
    try:
        for name in start.qualname.split("."):
            found = getattr(found, name)
    except AttributeError as problem:
        raise NonRetryableError(
            f"{start.module} has no {start.qualname!r} when a child process imports it; "
            f"an agent with isolation='process' has to stay where its name says"
        ) from problem
    function: AgentFunction = found
    return function


# --- the parent's side of the link -----------------------------------------------------------------------------------


class StopSwitch:
    """The parent's word that the agent is to end.

    Attributes:
        is_asked: whether it came.
    """

    def __init__(self) -> None:
        self.is_asked = threading.Event()
        self._lock = threading.Lock()
        self._bound: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on, being asked cancels the current asyncio task."""
        task = asyncio.current_task()
        assert task is not None
        with self._lock:
            self._bound = loop, task

    def raise_if_asked(self) -> None:
        """Be cancelled before any of the agent's code runs.

        Raises:
            asyncio.CancelledError: the word came.
        """
        if self.is_asked.is_set():
            raise asyncio.CancelledError

    def ask(self) -> None:
        """The word came."""
        with self._lock:
            self.is_asked.set()
            if self._bound is not None:
                loop, task = self._bound
                loop.call_soon_threadsafe(task.cancel)


def _listen(link: socket.socket, stop: StopSwitch, questions: Questions) -> Start:
    """Wait for the orders; a thread goes on to listen."""
    reader = FrameReader()
    bodies: list[bytes] = []
    while not bodies:
        bodies = reader.feed(_receive(link))
    if len(bodies) > 1:
        stop.ask()
    threading.Thread(
        target=_listen_on, args=(link, reader, stop, questions), name="cas-parent", daemon=True
    ).start()
    return msgspec.msgpack.decode(bodies[0], type=Start)


def _listen_on(link: socket.socket, reader: FrameReader, stop: StopSwitch, questions: Questions) -> None:
    decoder: msgspec.msgpack.Decoder[Stop | Answer] = msgspec.msgpack.Decoder(Stop | Answer)
    while True:
        for body in reader.feed(_receive(link)):
            message = decoder.decode(body)
            if isinstance(message, Answer):
                questions.take(message)
            else:
                stop.ask()


def _receive(link: socket.socket) -> bytes:
    """What the parent sends; without a parent there is nothing left to do."""
    try:
        data = link.recv(READ_BYTES)
    except OSError:
        data = b""
    if not data:
        os._exit(ORPHANED)
    return data


def _die_with(parent_pid: int) -> None:
    """Have the system kill this process when its parent ends."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        except (OSError, AttributeError) as problem:
            _log.debug("no parent-death signal here: %s", problem)
    if os.getppid() != parent_pid:
        os._exit(ORPHANED)
