"""Agents in a process of their own: ``isolation="process"``.

Code that blocks, never lets go of the interpreter, or swallows its cancellation can be ended only by ending its
process. So each attempt of such an agent runs in a child process, and its end escalates: the asyncio task is
cancelled and `is_cancelled()` becomes true at once, SIGTERM comes after a third of the runner's grace, SIGKILL after
two thirds. The child has been reaped when the attempt ends, and it never outlives the runner.

To the runner nothing is different: the wrapper here is an agent function that returns, raises and emits what the
child does. The child imports the function by its name, hence only functions at the top of a module can be isolated.
An attempt costs the start of an interpreter; an agent that merely waits has no use for that.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from inspect import isfunction
from typing import Any

import msgspec

from cas_events.errors import AgentProcessDiedError, AgentProcessError, CasEventsError, NonRetryableError
from cas_events.runner.context import DONE, Awaitable, Emitter, Origin, TaskContext
from cas_events.runner.functions import awaitable
from cas_events.runner.isolation_answering import Answers
from cas_events.runner.isolation_link import (
    Ask,
    Failure,
    Forget,
    FromChild,
    Log,
    Output,
    Progress,
    Result,
    Start,
    Step,
    frame,
    is_child,
    type_name,
)
from cas_events.runner.isolation_process import ChildProcess
from cas_events.runner.registry import AgentFunction, AgentOptions
from cas_events.wire.jsonvalue import decode_json, encode_json

YIELD_EVERY_S = 0.002  # a child that floods holds up the runner's other tasks no longer than this


def runnable(function: AgentFunction, options: AgentOptions, *, grace_s: float) -> AgentFunction:
    """What a runner awaits for an agent with these options: the function itself, or its isolated twin.

    Raises:
        ValueError: it is to be isolated and cannot be.
    """
    if options.get("isolation") != "process" or is_child():
        return awaitable(
            function
        )  # A child that loads the script which started the runner registers in vain.
    return isolated(function, grace_s=grace_s, non_retryable=options.get("non_retryable", ()))


def require_no_child() -> None:
    """Refuse to serve in the process of an isolated agent, which loads the script that started the runner.

    Raises:
        NonRetryableError: this is such a process.
    """
    if is_child():
        raise NonRetryableError(
            "the process of an isolated agent does not serve: start the runner under `if __name__ == '__main__':`"
        )


def isolated(
    function: Callable[..., Any], *, grace_s: float, non_retryable: Sequence[type[BaseException]] = ()
) -> AgentFunction:
    """An agent function that runs ``function`` in a child process.

    Args:
        function: a function at the top of a module that a child process can import.
        grace_s: the runner's: by then a child that is asked to end has ended.
        non_retryable: error types, of which what the child raised is told by their names.

    Raises:
        ValueError: a child process could not import the function.
    """
    module, qualname, main = _home_of(function)
    types: tuple[type, ...] = (NonRetryableError, *non_retryable)
    final = frozenset(map(type_name, types))

    async def run(context: TaskContext, input_: Any) -> Any:
        def make_start() -> bytes:
            return frame(
                Start(
                    module=module,
                    qualname=qualname,
                    main=main,
                    task_id=context.task_id,
                    agent_id=context.agent_id,
                    attempt=context.attempt,
                    metadata=encode_json(dict(context.metadata), path="metadata"),
                    input=encode_json(input_, path="input"),
                    log_level=context.log_level,
                )
            )

        end, code = await _Attempt(context, make_start, grace_s).run()
        if isinstance(end, Result):
            return msgspec.Raw(end.output)
        if isinstance(end, Failure):
            raise _raised(end, final)
        raise AgentProcessDiedError(f"the agent's process ended before its code did: {_ending(code)}")

    return run


class _Attempt:
    """One child's life as the event loop sees it."""

    def __init__(self, context: TaskContext, make_start: Callable[[], bytes], grace_s: float) -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._messages: deque[FromChild] = deque()
        self._news = asyncio.Event()
        self._end: Result | Failure | None = None
        self._code: int | None = None
        self._is_over = False
        self._child = ChildProcess(
            make_start,
            grace_s=grace_s,
            on_messages=lambda messages: self._call(self._take, messages),
            on_exit=lambda code: self._call(self._take_exit, code),
        )
        self._answers = Answers(context, self._child.send)

    async def run(self) -> tuple[Result | Failure | None, int | None]:
        """Relay what the child says until it has been reaped; its last word and its return code.

        Raises:
            asyncio.CancelledError: somebody wanted the attempt to end; the child has been reaped by then, too.
        """
        self._child.begin()
        cancelled: asyncio.CancelledError | None = None
        while not self._is_over or self._messages:
            try:
                await self._relay()
            except asyncio.CancelledError as error:
                cancelled = cancelled or error
                self._child.stop()
        await self._answers.close()
        if cancelled is not None:
            raise cancelled
        return self._end, self._code

    def _call(self, action: Callable[..., None], *args: Any) -> None:
        self._loop.call_soon_threadsafe(action, *args)

    def _take(self, messages: list[FromChild]) -> None:
        self._messages.extend(messages)
        self._news.set()

    def _take_exit(self, code: int | None) -> None:
        self._code = code
        self._is_over = True
        self._news.set()

    async def _relay(self) -> None:
        """Pass on what is there, at the pace of the runner's telemetry, then ask for more."""
        yielded_s = time.monotonic()
        while self._messages:
            await self._pass_on(self._messages.popleft())
            if time.monotonic() - yielded_s > YIELD_EVERY_S:
                await asyncio.sleep(0)
                yielded_s = time.monotonic()
        self._child.resume()
        if not self._is_over:
            await self._news.wait()
            self._news.clear()

    def _pass_on(self, message: FromChild) -> Awaitable:
        if isinstance(message, Result | Failure):
            self._end = message
            return DONE
        if isinstance(message, Ask | Forget):
            if isinstance(message, Ask):
                self._answers.begin(message)
            else:
                self._answers.forget(message)
            return DONE
        try:
            return _emit(
                self._context.emitter, message
            )  # What the child's context has done is not done twice.
        except CasEventsError as problem:
            # Inline it would have been raised by `output`; the child has gone on.
            self._context.log.warning("output dropped", reason=str(problem))
            return DONE


def _emit(emitter: Emitter, message: Progress | Output | Log | Step) -> Awaitable:
    match message:
        case Progress():
            return emitter.progress(message.fraction, message.message, node=message.node, agent=message.agent)
        case Output():
            return emitter.output(msgspec.Raw(message.value), kind=message.kind)
        case Log():
            origin = Origin(message.node, message.agent)
            emitter.log(message.level, message.message, decode_json(message.metadata), origin=origin)
        case Step():
            emitter.step(message.type, decode_json(message.members))
    return DONE


# --- where a function is found ---------------------------------------------------------------------------------------


def _home_of(function: Callable[..., Any]) -> tuple[str, str, dict[str, Any]]:
    """Module and qualified name to import, and how to load that module if it is the main one."""
    name = getattr(function, "__qualname__", type(function).__name__)
    if not isfunction(function) or "<" in name:
        raise ValueError(
            f"isolation='process' needs a function that another process can import, and {name!r} is none: "
            f"write a function at the top of a module, and call graphs, lambdas and methods in there"
        )
    module = function.__module__
    if module != "__main__":
        if not any(_knows(finder, module) for finder in sys.meta_path):
            raise ValueError(
                f"isolation='process': another process would find no module {module!r} to import"
            )
        return module, name, {}
    main = sys.modules["__main__"]
    spec, path = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if isinstance(spec, ModuleSpec) and not spec.name.endswith("__main__"):
        return module, name, {"sys_argv": sys.argv, "init_main_from_name": spec.name}
    if spec is None and path is not None:
        return module, name, {"sys_argv": sys.argv, "init_main_from_path": str(path)}
    raise ValueError(
        f"isolation='process': {name!r} was defined where another process cannot import it; move it to a module"
    )


def _knows(finder: Any, module: str) -> bool:
    """Whether a finder of a fresh process would find the top package of a module."""
    find = getattr(finder, "find_spec", None)
    return find is not None and find(module.partition(".")[0], None) is not None


# --- how it ended ----------------------------------------------------------------------------------------------------


class _ChildTraceback(Exception):  # noqa: N818 - shown as the cause, where the story begins
    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def _raised(failure: Failure, final: frozenset[str]) -> AgentProcessError:
    """The error that the child's code raised, as far as it can be told here: by names."""
    is_final = failure.is_final or not final.isdisjoint(failure.lineage)
    bases = (AgentProcessError, NonRetryableError) if is_final else (AgentProcessError,)
    error: AgentProcessError = type(failure.type, bases, {})(failure.message)
    error.retry_after_s = failure.retry_after_s
    error.cas_node = failure.node
    error.__cause__ = _ChildTraceback(failure.traceback)
    return error


def _ending(code: int | None) -> str:
    """A return code in words."""
    if code is None:
        return "it could not be started or talked to; the runner's own log says why"
    if code >= 0:
        return f"exit code {code}"
    known = {int(number): number.name for number in signal.Signals}
    return f"signal {known.get(-code, -code)}"
