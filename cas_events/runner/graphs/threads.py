"""A graph's thread: which one a task runs on, what is stored on it, and what the run begins with.

The input is never applied twice (knowledge: re-sending it after a crash appends it a second time): when the thread's
newest checkpoint is of this task, the run goes on from there, without input or with the answers that the log holds.
A run that died before its first checkpoint starts again with the original input. Whose a checkpoint is, is said by
its metadata, which LangGraph copies from the run's configuration.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from langgraph.types import Command, Interrupt, StateSnapshot

from cas_events.domain.interrupts import Question
from cas_events.errors import CheckpointFencedError, PayloadTooLargeError, WireError
from cas_events.jetstream.checkpoints.saver import JetStreamSaver
from cas_events.jetstream.checkpoints.upkeep import delete_runs
from cas_events.jetstream.memory.store import JetStreamStore
from cas_events.jetstream.patience import patiently
from cas_events.runner.attempts import Attempt
from cas_events.runner.context import TaskContext
from cas_events.runner.failures import error_members
from cas_events.runner.graphs.breakpoints import has_breakpoints, is_before_breakpoint, question_at
from cas_events.runner.graphs.opening import AnyPregel
from cas_events.runner.questions import TaskInterruptedError
from cas_events.runner.registry import KeepCheckpoints
from cas_events.runner.turns import Line, thread_named
from cas_events.wire.checkpoints import Fence
from cas_events.wire.claims import is_claim
from cas_events.wire.jsonvalue import decode_json

if TYPE_CHECKING:
    from cas_events.runner.workplace import Workplace

_log = logging.getLogger(__name__)

TASK_RUN = "task_run"
# Private in LangGraph (`CONFIG_KEY_STRICT_RESUME`), whose version is pinned; a test looks for it. Without it an answer
# that is given once more goes to the next interrupt.
STRICT_RESUME = "__pregel_strict_resume"


async def open_saver(attempt: Attempt, thread_id: str, *, is_likely_new: bool = False) -> JetStreamSaver:
    """The checkpointer of an attempt: whatever it stores in the thread is fenced by the attempt's `started`.

    A first attempt is the first to use the thread that is named after its task. With ``is_likely_new`` such a thread's
    fence is taken by what is stored first, which raises `ThreadNotNewError` if that is not so.

    Raises:
        CheckpointFencedError: a newer attempt of the task has begun.
        ThreadBusyError: another task, which has not ended, has the thread.
    """
    place, facts = attempt.place, attempt.facts
    if place.saver is None:
        place.saver = JetStreamSaver.on(place.js, place.names)
    saver: JetStreamSaver = place.saver

    displaced: list[Fence] = []

    async def has_ended(holder: Fence) -> bool:
        displaced.append(holder)
        last = await place.ledger.last(holder.agent, holder.task)
        return last is None or last.is_terminal

    fence = Fence(agent=facts.agent_id, task=facts.task_id, started_seq=attempt.fence_seq)
    is_likely_new = is_likely_new and attempt.number == 1 and thread_id == facts.task_id
    held = await saver.acquire(thread_id, fence, displace=has_ended, is_likely_new=is_likely_new)
    if displaced:
        # Of one task the later attempt wins by itself. But an attempt that is over could displace a task that came
        # after its own, and ended: its task's lock has the last word.
        last = await place.ledger.last(facts.agent_id, facts.task_id)
        if last is None or last.seq != attempt.fence_seq:
            raise CheckpointFencedError(thread_id, "a later attempt")
    return held


def open_store(place: Workplace) -> JetStreamStore:
    """The long-term memory of graphs that bring none of their own: one for all tasks of a runner."""
    if place.store is None:
        place.store = JetStreamStore.on(place.js, place.names)
    store: JetStreamStore = place.store
    return store


class Thread:
    """One task's use of a thread.

    Args:
        context: of the attempt; ``thread_id`` in the task's metadata names a thread that several tasks share.

    Attributes:
        thread_id: its name.
        config: of the run.
    """

    def __init__(self, context: TaskContext) -> None:
        self.thread_id = thread_named(context.metadata) or context.task_id
        self.config: dict[str, Any] = {
            "configurable": {"thread_id": self.thread_id, STRICT_RESUME: True},
            "metadata": {TASK_RUN: context.task_id, "run_id": context.task_id},
        }
        self._task_id = context.task_id
        self._redaction = context.redaction
        self._given: dict[str, Any] = {}
        self._lost: dict[str, str] = {}

    async def beginning(self, attempt: Attempt, graph: AnyPregel, saver: JetStreamSaver, input_: Any) -> Any:
        """What to run the graph with: the input, the answers, or nothing, which goes on.

        Raises:
            TaskInterruptedError: it stands before a breakpoint that nobody has answered.
        """
        if attempt.number == 1:  # Nothing on the thread can be this task's.
            await self._undo(attempt, saver)
            return input_
        newest = await saver.aget_tuple({"configurable": {"thread_id": self.thread_id, "checkpoint_ns": ""}})
        if newest is None or newest.metadata.get(TASK_RUN) != self._task_id:
            await self._undo(attempt, saver)
            return input_
        state = await self._state(graph)
        is_stopped = is_before_breakpoint(graph, state)
        answers = (await attempt.dialogue()).answers if state.interrupts or is_stopped else {}
        for interrupt in state.interrupts:
            if interrupt.id in answers:
                await self._give(attempt.place, interrupt.id, answers[interrupt.id])
        stop = question_at(state) if is_stopped else None
        if stop is not None and stop.id not in answers:
            raise TaskInterruptedError([stop])
        return Command(resume=self._given) if self._given else None

    async def _undo(self, attempt: Attempt, saver: JetStreamSaver) -> None:
        """Delete what the tasks that this one took the thread from have stored there (``rollback``)."""
        if attempt.facts.execute.metadata.get("multitask_strategy") != "rollback":
            return
        tasks = await Line(attempt.place, self.thread_id).undone_by(attempt.facts.key)
        if tasks:
            await delete_runs(saver.stream, await saver.taking(self.thread_id), saver.serde, set(tasks))

    def retire(
        self, saver: JetStreamSaver, keep: KeepCheckpoints
    ) -> Callable[[], Coroutine[Any, Any, None]] | None:
        """What to do with the thread's checkpoints once the task's `completed` is stored; None for nothing."""
        if keep == "all":
            return None
        # The state of a shared thread is what the next task goes on from.
        strategy = "delete" if keep == "none" and self.thread_id == self._task_id else "keep_latest"

        async def prune() -> None:
            try:
                await saver.aprune([self.thread_id], strategy=strategy)
            except CheckpointFencedError:
                _log.debug("thread %s is the next task's already, which will prune it", self.thread_id)

        return prune

    async def _give(self, place: Workplace, id_: str, value: Any) -> None:
        """Take an answer from the log; a large one is fetched."""
        if not is_claim(value):
            self._given[id_] = value
            return
        try:
            limit_bytes = place.limits.claim_bytes_max
            blob = await patiently(lambda: place.blobs.get(value["sha256"], max_bytes=limit_bytes))
            self._given[id_] = decode_json(blob)
        except (WireError, PayloadTooLargeError) as problem:
            self._lost[id_] = str(problem)

    async def _state(self, graph: AnyPregel) -> StateSnapshot:
        config: Any = self.config
        return await graph.aget_state(config)

    async def pending(self, graph: AnyPregel) -> tuple[Interrupt, ...]:
        """The interrupts that wait for an answer, by the thread's newest checkpoint."""
        return (await self._state(graph)).interrupts

    async def require_end(self, graph: AnyPregel) -> None:
        """Check that a graph that ended its run has not just stopped at a breakpoint.

        Raises:
            TaskInterruptedError: it has.
        """
        stop = question_at(await self._state(graph)) if has_breakpoints(graph) else None
        if stop is not None:
            raise TaskInterruptedError([stop])

    def interruption(self, pending: tuple[Interrupt, ...], problem: Exception | None) -> TaskInterruptedError:
        """What the task waits on; whatever was answered and is waited on still was refused.

        Args:
            pending: the interrupts that wait.
            problem: the graph's own complaint about an answer.
        """
        refused = [i.id for i in pending if i.id in self._given or i.id in self._lost]
        members: dict[str, Any] | None = None
        if problem is not None:
            members = error_members(problem, self._redaction, with_traceback=False)
        elif refused:
            message = next(iter(self._lost.values()), "the answer was given, and the graph asks again")
            members = {"type": "InvalidAnswerError", "message": message}
        questions = [Question(id=i.id, value=i.value, schema=i.response_schema) for i in pending]
        return TaskInterruptedError(questions, refused=refused, problem=members)
