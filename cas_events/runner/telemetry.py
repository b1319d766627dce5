"""The telemetry of one attempt: progress, logs, steps and outputs, pipelined beside the lifecycle.

PROTOCOL section 4: telemetry carries (attempt, index), is sent without the lock and within a rate and byte budget;
drops are counted and said in a log event; before any lifecycle append after `started` all of it is acknowledged or
definitely refused (``barrier``). Progress is coalesced: the newest wins, the last always arrives.

May be called from any thread. What a thread floods is refused before it is queued for the event loop, since nothing
holds a thread back: logs and outputs by their budgets, progress by having one newest value for each origin.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from cas_events.domain import events
from cas_events.domain.limits import TelemetryLimits
from cas_events.domain.redaction import Redaction
from cas_events.errors import AttemptOverError, CasEventsError, ServerError
from cas_events.jetstream.blobs import BlobStore
from cas_events.jetstream.publisher import PipelinedPublisher, PublishOutcome
from cas_events.runner.budgets import Budgets
from cas_events.runner.context import DONE, NOWHERE, Awaitable, Breath, Origin
from cas_events.runner.lines import log_data, progress_data
from cas_events.wire.claims import encode_members, require_small_enough
from cas_events.wire.envelope import EventEncoder
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

OUTPUT_BARRIER_S = 5.0  # how long a lifecycle append waits for CAS_OUTPUT (PROTOCOL section 4)
# An agent that only ticks lets the event loop run this often. Another task's way through the loop takes some ten
# rounds: with 5 ms a round its latency was 14 times the quiet one, with 0.2 ms 1.5 times.
YIELD_EVERY_S = 0.0002
FULL_WAIT_S = 0.01  # until progress looks again whether the publisher has room
UPLOADING_BYTES = 8 * 1024 * 1024  # of large outputs on their way; awaiting an output waits for less

_Progress = tuple[float, str]


class Telemetry:
    """Emits one attempt's events other than its lifecycle.

    Args:
        encoder: of the attempt.
        names: of the deployment.
        agent_id: the task's agent.
        publisher: the process's pipelined publisher.
        blobs: where large values go.
        indexes: the attempt's index counter, shared with its lifecycle events.
        loop: the event loop; everything but encoding happens there.
        spawn: starts a supervised coroutine.
        is_blocked: whether the storage is so full that telemetry is dropped.
        limits: rates and sizes.
        redaction: what is taken out of words before they are stored.
    """

    def __init__(
        self,
        *,
        encoder: EventEncoder,
        names: Names,
        agent_id: str,
        publisher: PipelinedPublisher,
        blobs: BlobStore,
        indexes: itertools.count[int],
        loop: asyncio.AbstractEventLoop,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        is_blocked: Callable[[], bool],
        limits: TelemetryLimits,
        redaction: Redaction,
    ) -> None:
        self._encoder = encoder
        self._publisher = publisher
        self._blobs = blobs
        self._indexes = indexes
        self._spawn = spawn
        self._is_blocked = is_blocked
        self._loop = loop
        task_id = encoder.task_id
        self._subjects = {
            class_: names.event(class_, agent_id, task_id) for class_ in ("step", "progress", "log")
        }
        self._subjects["output"] = names.out(agent_id, task_id)
        now_s = time.monotonic()
        self._limits = limits
        self._redaction = redaction
        self._budgets = Budgets(limits)
        self._waiting_progress: dict[Origin, _Progress] = {}
        self._progress_timer: asyncio.TimerHandle | None = None
        self._in_flight = {"events": 0, "output": 0}
        self._settled = asyncio.Event()
        self._settled.set()
        self._uploads: set[asyncio.Task[None]] = set()
        self._is_woken = False
        self.emitted_s = now_s
        self._is_closed = False
        self._yielded_s = now_s

    # --- what agent code calls, through its context ------------------------------------------------------------------

    def progress(self, fraction: float, message: str, *, node: str | None, agent: str | None) -> Awaitable:
        """Emit progress, at most `progress_per_s` a second; the newest of each node wins."""
        self._waiting_progress[Origin(node, agent)] = fraction, message
        if _is_running(self._loop):
            self._offer_progress()
        elif not self._is_woken:  # Read after the value was put there: whoever wakes sees it.
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._offer_progress)
        return self._breath()

    def output(self, value: Any, *, kind: str) -> Awaitable:
        """Emit a partial output; not awaited, it is dropped and counted when too much is on its way already.

        Raises:
            NotJsonError: it has no JSON form.
            PayloadTooLargeError: it is over the limit of claim checks.
        """
        data, blobs = encode_members({"kind": kind, "value": value})
        require_small_enough(blobs, "the output", self._limits.claim_bytes_max)
        if self._budgets.admits_output(len(data), sum(map(len, blobs))):
            self._on_loop(self._emit_output, data, blobs)
        return self._breath()

    def log(self, level: str, message: str, metadata: Mapping[str, Any], *, origin: Origin = NOWHERE) -> None:
        """Emit a log line; fields without a JSON form are stored as their repr."""
        if not self._budgets.admits_log():
            return
        data = log_data(level, message, metadata, origin, self._redaction)
        if self._budgets.admits(len(data)):
            self._on_loop(self._emit_log, data)

    # --- what the runner calls -----------------------------------------------------------------------------------------

    def step(self, type_: str, members: Mapping[str, Any]) -> None:
        """Emit a `cas.step` event."""
        data, _ = encode_members(members)
        if self._budgets.admits(len(data)):
            self._on_loop(self._emit, "step", type_, data)

    async def record(self, type_: str, members: Mapping[str, Any]) -> None:
        """Emit a `cas.step` event that others rely on: no budget holds it back, and it is stored when this returns.

        Raises:
            AttemptOverError: the attempt admits nothing more.
            ServerError: the server did not take it.
        """
        data, _ = encode_members(members)
        await self._publisher.room()
        if self._is_closed:
            raise AttemptOverError(self._encoder.task_id)
        stored: asyncio.Future[PublishOutcome] = self._loop.create_future()
        self._send("step", type_, data, stored)
        outcome = await stored
        if outcome.seq is None:
            raise ServerError(f"a step of task {self._encoder.task_id} was not stored: {outcome.reason}")

    async def barrier(self) -> None:
        """Admit nothing more, and wait until everything emitted is stored or definitely refused.

        What code that was left behind still says would stand behind the event that ends its attempt.
        """
        if self._uploads:
            await asyncio.wait(set(self._uploads), timeout=OUTPUT_BARRIER_S)
        self._flush_progress()
        self._say_dropped()
        self._is_closed = True
        deadline_s = time.monotonic() + OUTPUT_BARRIER_S
        while self._in_flight["events"] or self._in_flight["output"]:
            rest_s = deadline_s - time.monotonic()
            if not self._in_flight["events"] and rest_s <= 0:
                return
            self._settled.clear()
            try:
                await asyncio.wait_for(self._settled.wait(), timeout=max(rest_s, 0.5))
            except TimeoutError:
                continue

    def close(self) -> None:
        """Drop whatever still comes: the attempt is over, or no longer ours."""
        self._is_closed = True
        self._waiting_progress.clear()
        if self._progress_timer is not None:
            self._progress_timer.cancel()

    # --- inside, on any thread -----------------------------------------------------------------------------------------

    def _on_loop(self, call: Callable[..., None], *args: Any) -> None:
        if _is_running(self._loop):
            call(*args)
        else:
            self._loop.call_soon_threadsafe(call, *args)

    def _breath(self) -> Awaitable:
        if not _is_running(self._loop):
            return DONE
        now_s = time.monotonic()
        if now_s - self._yielded_s < YIELD_EVERY_S and self._has_room:
            return DONE
        self._yielded_s = now_s
        return Breath(self._until_room)

    @property
    def _has_room(self) -> bool:
        return self._publisher.has_room and self._budgets.uploading_bytes <= UPLOADING_BYTES

    async def _until_room(self) -> None:
        while self._budgets.uploading_bytes > UPLOADING_BYTES and self._uploads:
            await asyncio.wait(self._uploads, return_when=asyncio.FIRST_COMPLETED)
        await self._publisher.room()

    # --- inside, on the event loop -------------------------------------------------------------------------------------

    def _offer_progress(self) -> None:
        self._is_woken = False
        if self._progress_timer is None and not self._is_closed:
            self._send_progress()

    def _send_progress(self) -> None:
        """Send what waits, as far as the budget goes; come back for the rest."""
        self._progress_timer = None
        while self._waiting_progress:
            wait_s = self._budgets.progress_wait_s() if self._publisher.has_room else FULL_WAIT_S
            if wait_s:
                self._progress_timer = self._loop.call_later(wait_s, self._send_progress)
                return
            origin = next(iter(self._waiting_progress))
            data = progress_data(*self._waiting_progress.pop(origin), origin, self._redaction)
            if self._budgets.admits(len(data)):
                self._emit("progress", events.PROGRESS, data)

    def _flush_progress(self) -> None:
        """Send what waits whatever the budget says: the last always arrives."""
        if self._progress_timer is not None:
            self._progress_timer.cancel()
            self._progress_timer = None
        while self._waiting_progress:
            origin, progress = self._waiting_progress.popitem()
            self._emit("progress", events.PROGRESS, progress_data(*progress, origin, self._redaction))

    def _emit_log(self, data: bytes) -> None:
        if self._budgets.has_dropped_and_may_say_so:
            self._say_dropped()
        self._emit("log", events.LOG, data)

    def _emit_output(self, data: bytes, blobs: list[bytes]) -> None:
        if self._is_closed:
            self._budgets.uploaded(sum(map(len, blobs)))
            return
        if not blobs and self._publisher.has_room:
            self._emit("output", events.OUTPUT, data)
            return
        upload = self._spawn(self._upload(data, blobs))
        self._uploads.add(upload)
        upload.add_done_callback(self._uploads.discard)

    async def _upload(self, data: bytes, blobs: list[bytes]) -> None:
        try:
            for blob in blobs:
                await self._blobs.put(blob)
        except CasEventsError as error:
            self._budgets.drop()
            _log.warning("output not stored task=%s: %s", self._encoder.task_id, error)
            return
        finally:
            self._budgets.uploaded(sum(map(len, blobs)))
        await self._publisher.room()
        self._emit("output", events.OUTPUT, data)

    def _emit(self, class_: str, type_: str, data: bytes) -> None:
        if self._is_closed:
            return
        if self._is_blocked():
            self._budgets.drop()
            return
        self._send(class_, type_, data)

    def _send(
        self, class_: str, type_: str, data: bytes, stored: asyncio.Future[PublishOutcome] | None = None
    ) -> None:
        kind = "output" if class_ == "output" else "events"
        payload = self._encoder.encode(type_, next(self._indexes), time.time_ns(), data)
        self._in_flight[kind] += 1
        self.emitted_s = time.monotonic()
        try:
            self._publisher.send(
                self._subjects[class_], payload, lambda outcome: self._on_done(kind, outcome, stored)
            )
        except CasEventsError as error:  # Nothing went out, and nobody will be told of an outcome.
            self._on_done(kind, PublishOutcome(reason=str(error)), stored)

    def _on_done(
        self, kind: str, outcome: PublishOutcome, stored: asyncio.Future[PublishOutcome] | None
    ) -> None:
        self._in_flight[kind] -= 1
        if stored is not None and not stored.done():
            stored.set_result(outcome)
        if outcome.seq is None:
            self._budgets.drop()
            _log.warning(
                "telemetry refused task=%s err_code=%s: %s",
                self._encoder.task_id,
                outcome.err_code,
                outcome.reason,
            )
        self._settled.set()

    def _say_dropped(self) -> None:
        dropped = self._budgets.take_dropped()
        if not dropped:
            return
        data = (
            b'{"level":"warning","message":"telemetry dropped: over the rate or refused by the server",'
            b'"metadata":{"dropped":%d}}' % dropped
        )
        self._emit("log", events.LOG, data)


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this code runs on the loop, and not in another thread."""
    return asyncio._get_running_loop() is loop  # noqa: SLF001 - the public one raises instead of saying no
