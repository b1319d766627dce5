"""The runner: a process that serves agents.

    runner = Runner()

    @runner.agent("analyst", timeout_s=60)
    async def analyst(ctx, input): ...

    await runner.run()

`run` wires the parts together, serves until it is told to stop (SIGTERM, SIGINT or `stop`), and hands over what it
could not finish within the grace (PROTOCOL section 8).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from cas_events.domain.bounds import require_number
from cas_events.domain.limits import TelemetryLimits
from cas_events.domain.redaction import DEFAULT, Redaction
from cas_events.errors import CasEventsError, ServerError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.blobs import BlobStore
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.publisher import PipelinedPublisher
from cas_events.jetstream.reads import DecidingReads
from cas_events.jetstream.topology import ensure_streams
from cas_events.observe.tracing import enable_tracing
from cas_events.runner.breakers import Breakers
from cas_events.runner.cancels import Cancels
from cas_events.runner.containment import task_factory
from cas_events.runner.crons import Crons
from cas_events.runner.dispatch import Dispatcher
from cas_events.runner.holds import Desk, Offer
from cas_events.runner.isolation import require_no_child
from cas_events.runner.keeper import BEAT_S, Keeper
from cas_events.runner.ledger import Ledger
from cas_events.runner.log_bridge import bridged
from cas_events.runner.lookahead import Lookahead
from cas_events.runner.observation import Observation
from cas_events.runner.registration import Registrations
from cas_events.runner.serving import Serving
from cas_events.runner.shutdown import AgentThreads, Signals, end_process
from cas_events.runner.sources import open_roster
from cas_events.runner.workplace import Workplace
from cas_events.session import Session
from cas_events.settings import MetricsAddress, Settings
from cas_events.uuid7 import uuid7
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

DEFAULT_LEASE_S = 10.0
DEFAULT_GRACE_S = 5.0
DEFAULT_PLACES = 100
DEFAULT_STALL_S = 300.0
# Threads that compute give the interpreter up this often. With the default of 5 ms each step of another task's way
# through the loop waits so long (measured beside a flooding thread: 16 ms for a task of 2 ms, 3.4 ms with this).
THREAD_SWITCH_S = 0.0003
HANDLERS_DROP_S = 0.2  # what is cancelled and polite is gone at once


class Runner(Registrations):
    """Serves agents: turns commands into events by running their code.

    Args:
        url: the NATS server; without one the settings say. Connects when run, not when made.
        settings: deployment, home and the like; from the environment without them.
        lease_s: redelivery time of a consumer that this runner creates first, in seconds.
        grace_s: how long agent code may take to end when asked to, and a shutdown to finish tasks.
        places: how many tasks this process takes at once.
        stall_s: a process whose event loop does not run for so long is ended.
        limits: what each task may emit, and how large its input and outputs may be.
        redaction: what is taken out of log lines, progress messages and errors before they are stored.

    Raises:
        InvalidLimitError: a number is out of range; the error names it.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        settings: Settings | None = None,
        lease_s: float = DEFAULT_LEASE_S,
        grace_s: float = DEFAULT_GRACE_S,
        places: int = DEFAULT_PLACES,
        stall_s: float = DEFAULT_STALL_S,
        limits: TelemetryLimits | None = None,
        redaction: Redaction = DEFAULT,
    ) -> None:
        require_number("lease_s", lease_s)
        require_number("grace_s", grace_s, may_be_least=True)
        require_number("places", places, least=1, may_be_least=True, is_whole=True)
        require_number("stall_s", stall_s)
        super().__init__(grace_s=grace_s)
        self._url = url
        self._settings = settings
        self._lease_s = lease_s
        self._places = places
        self._stall_s = stall_s
        self._limits = limits or TelemetryLimits()
        self._redaction = redaction
        self._stop: asyncio.Event | None = None
        self._handlers: set[asyncio.Task[None]] = set()
        self._threads: AgentThreads | None = None
        self.ready = asyncio.Event()
        self.metrics_url: str | None = None

    # --- serving ---------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Shut down: as SIGTERM does. On the event loop only."""
        if self._stop is not None:
            self._stop.set()

    @property
    def left_behind(self) -> list[str]:
        """Agent code that still runs; after `run`, code that ignored its end. See `shutdown`."""
        tasks = [handler.get_name() for handler in self._handlers if not handler.done()]
        busy = self._threads.busy if self._threads is not None else 0
        return tasks + [f"{busy} threads"] * bool(busy)

    async def run(self, *, handle_signals: bool = True, metrics: MetricsAddress | None = None) -> None:
        """Serve until told to stop.

        Args:
            handle_signals: shut down on SIGTERM and SIGINT (main thread only); agent code that ignores its end is
                then left behind by ending the process.
            metrics: where to serve `/metrics`, `/healthz` and `/readyz`; where the settings say without it.

        Raises:
            ServerUnreachableError: no server answers.
            CasEventsError: nothing is registered, or the deployment's streams have other settings.
            MetricsAddressError: metrics cannot be served there.
        """
        require_no_child()
        if not self._agents:
            raise CasEventsError("this runner serves no agent; register one with @runner.agent(name)")
        settings = self._settings or Settings.from_env(nats_url=self._url)
        url = self._url or settings.url()
        if settings.tracing:
            enable_tracing()
        self._stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        sys.setswitchinterval(min(sys.getswitchinterval(), THREAD_SWITCH_S))
        self._threads = AgentThreads()
        loop.set_task_factory(task_factory)
        loop.set_default_executor(self._threads)
        talkative = min(spec.log_level_number for spec in self._agents.values())
        with bridged(talkative), Signals(loop, self._stop.set, enabled=handle_signals) as signals:
            runner_id = uuid7()
            async with (
                Observation(metrics or settings.metrics, stall_s=self._stall_s) as observation,
                await Connection.open(url, name=f"cas-runner-{runner_id}") as connection,
            ):
                self.metrics_url = observation.url
                await self._serve(connection, url, settings, runner_id, observation)
        if signals.heard and self.left_behind:
            end_process(self.left_behind)

    async def _serve(
        self,
        connection: Connection,
        url: str,
        settings: Settings,
        runner_id: str,
        observation: Observation,
    ) -> None:
        names = Names(settings.deployment)
        js = JetStream(connection)
        await ensure_streams(js, settings.deployment, replicas=settings.replicas)
        roster = await open_roster(js, names, self._agents, lease_s=self._lease_s)
        desk = Desk(self._places)
        blobs = BlobStore(js, names.blob_bucket)
        reads = DecidingReads(connection, names.commands)
        async with asyncio.TaskGroup() as group:
            keeper = Keeper(
                url=url,
                runner_id=runner_id,
                names=names,
                desk=desk,
                reads=reads,
                roster=roster,
                on_offer=lambda offer: self._accept(place, offer),
                loop=asyncio.get_running_loop(),
                stall_s=self._stall_s,
                meter=observation.meter,
                word_of=self._word,
            )
            place = Workplace(
                names=names,
                runner_id=runner_id,
                connection=connection,
                js=js,
                reads=reads,
                ledger=Ledger(js, names, blobs, observation.meter),
                publisher=PipelinedPublisher(connection),
                blobs=blobs,
                desk=desk,
                keeper=keeper,
                breakers=Breakers(js, names, source=f"cas/runner/{runner_id}", desk=desk),
                agents=self._agents,
                roster=roster,
                lease_s=self._lease_s,
                grace_s=self._grace_s,
                limits=self._limits,
                redaction=self._redaction,
                session=Session(connection, names),
                spawn=lambda work: group.create_task(_guard(work)),
                meter=observation.meter,
            )
            await self._serve_until_stopped(group, place, observation)

    async def _serve_until_stopped(
        self, group: asyncio.TaskGroup, place: Workplace, observation: Observation
    ) -> None:
        assert self._stop is not None
        self._dispatcher, self._cancels, self._crons = Dispatcher(place), Cancels(place), Crons(place)
        heard = await place.connection.subscribe(place.names.cancel("*"), self._cancels.hear)
        await place.connection.flush()
        await self.describe()
        serving = Serving(place)
        await serving.open()
        self._serving = serving
        work = (
            *(_beat(place.keeper), place.breakers.run(), self._crons.mend()),
            *(Lookahead(place).run(), serving.run()),
        )
        background = [group.create_task(one) for one in work]
        try:
            await place.keeper.start()
            observation.watch(place)
            self.ready.set()
            _log.info("runner ready id=%s agents=%s", place.runner_id, ",".join(self._agents))
            await self._stop.wait()
            await self._shut_down(place)
        finally:
            for task in background:
                task.cancel()
            serving.close()
            self._serving = None
            place.breakers.close()
            heard.unsubscribe()
            await self._drop_handlers()
            await place.session.hub.close()
            await place.keeper.close()
            await place.close_memories()
            await place.publisher.close()

    # --- one delivery ----------------------------------------------------------------------------------------------------

    def _accept(self, place: Workplace, offer: Offer) -> None:
        if place.is_stopping or not place.desk.take(offer):
            return
        # Not of the task group, which would wait for code that ignores its end.
        handler = asyncio.get_running_loop().create_task(
            self._handle(place, offer), name=offer.delivery.subject
        )
        self._handlers.add(handler)

    async def _handle(self, place: Workplace, offer: Offer) -> None:
        """Deal with a delivery; a fault of ours costs this delivery a wait, never the runner."""
        try:
            if offer.source.kind == "cancel":
                await self._cancels.handle(offer)
            elif offer.source.kind == "cron":
                await self._crons.handle(offer)
            else:
                await self._dispatcher.handle(offer)
        except Exception:  # Whatever it was, the command is still in the log and will be delivered again.
            _log.exception("delivery failed subject=%s seq=%d", offer.delivery.subject, offer.delivery.seq)
            with suppress(ServerError):
                place.nak(offer.delivery, offer.source.ack_wait_s)
        finally:
            self._handlers.discard(asyncio.current_task())
            place.desk.finish(offer)
            place.keeper.place_freed()

    # --- the end ---------------------------------------------------------------------------------------------------------

    async def _shut_down(self, place: Workplace) -> None:
        """Stop pulling, let tasks finish within the grace, hand over the rest."""
        place.keeper.stop_pulling()
        place.is_stopping = True
        _log.info("runner stops id=%s running=%d", place.runner_id, len(place.running))
        for execution in place.running.values():
            execution.drain()
        await self._wait_for_handlers(self._grace_s)
        executions = list(place.running.values())
        for execution in executions:
            execution.hand_over()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s + 1.0):
                for execution in executions:
                    await execution.ended.wait()
        with suppress(ServerError):
            await place.connection.flush(timeout_s=1.0)

    async def _wait_for_handlers(self, timeout_s: float) -> None:
        if self._handlers:
            await asyncio.wait(set(self._handlers), timeout=timeout_s)

    async def _drop_handlers(self) -> None:
        for handler in list(self._handlers):
            handler.cancel()
        await self._wait_for_handlers(HANDLERS_DROP_S)


async def _beat(keeper: Keeper) -> None:
    """Tell the keeper that the loop runs, and notice if the keeper does not."""
    await asyncio.sleep(BEAT_S)
    while True:
        keeper.tick()
        await asyncio.sleep(BEAT_S)
        keeper.require_alive()


async def _guard(work: Coroutine[Any, Any, None]) -> None:
    """A helper's failure is said, and is not the runner's."""
    try:
        await work
    except Exception:  # What it wanted is in the log or on the server, and will be tried from there.
        _log.exception("background work failed")
