"""Live events of one client: a few subscriptions, dispatched to whoever follows a task.

Only stored events appear on `cas.live.…` (PROTOCOL section 1). There is one set of subscriptions per agent that is
followed, never one per task: lifecycle events for whoever waits for a result, everything else while somebody
streams. Live delivery can lose messages (a reconnect, a slow consumer), so every follower is also asked to look at
the log itself: at a reconnect, and every few seconds while it waits.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Coroutine
from typing import Any, Protocol

from cas_events.errors import CasEventsError, NotConnectedError
from cas_events.jetstream.connection import Connection, Message, Subscription
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

SWEEP_S = 5.0


class Follower(Protocol):
    """Who follows a task."""

    agent_id: str
    task_id: str
    wants_all: bool

    def receive(self, message: Message) -> None:
        """Take a live message of the task."""

    async def look(self) -> None:
        """Look at the log for what live delivery may have lost."""

    def end(self) -> None:
        """The client is closed: nothing comes any more."""


class LiveHub:
    """The live subscriptions of one client."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        # Weakly: a follower that its user drops is gone, and takes its subscriptions along.
        self._followers: dict[str, tuple[weakref.ref[Follower], ...]] = {}
        self._lifecycle: dict[str, tuple[Subscription, ...]] = {}
        self._telemetry: dict[str, tuple[Subscription, ...]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._is_closed = False
        self._remove_hook = connection.on_reconnect(self._look_everywhere)

    def add(self, follower: Follower) -> None:
        """Start delivering a task's live messages; what is published after this call is not missed.

        Raises:
            NotConnectedError: the client is closed.
        """
        if self._is_closed:
            raise NotConnectedError("the client is closed")
        self._followers[follower.task_id] = (
            *self._followers.get(follower.task_id, ()),
            weakref.ref(follower),
        )
        agent_id = follower.agent_id
        if agent_id not in self._lifecycle:
            self._lifecycle[agent_id] = self._subscribe(self._names.lifecycle(agent_id, "*"))
        if follower.wants_all and agent_id not in self._telemetry:
            subjects = [self._names.event(class_, agent_id, "*") for class_ in ("step", "progress", "log")]
            self._telemetry[agent_id] = self._subscribe(*subjects, self._names.out(agent_id, "*"))
        if self._sweeper is None:
            self._sweeper = self.spawn(self._sweep())

    def remove(self, follower: Follower) -> None:
        """Stop delivering; safe to call twice, and from a finalizer."""
        # A follower that is being collected is no longer behind its own reference.
        followers = self._followers.pop(follower.task_id, ())
        others = tuple([other for other in followers if other() is not None and other() is not follower])
        if others:
            self._followers[follower.task_id] = others
        if follower.wants_all and not self._is_followed(follower.agent_id, all_=True):
            for subscription in self._telemetry.pop(follower.agent_id, ()):
                subscription.unsubscribe()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start work that lives at most as long as the client; its failure is logged."""
        task = asyncio.get_running_loop().create_task(_guard(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End everything that was started here; whoever still follows a task is told."""
        self._is_closed = True
        self._remove_hook()
        for follower in self._all():
            follower.end()
        for subscriptions in (*self._lifecycle.values(), *self._telemetry.values()):
            for subscription in subscriptions:
                subscription.unsubscribe()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _subscribe(self, *subjects: str) -> tuple[Subscription, ...]:
        return tuple(
            self._connection.listen(self._names.live(subject), self._dispatch) for subject in subjects
        )

    def _dispatch(self, message: Message) -> None:
        _, agent_id, task_id = message.subject.rsplit(".", 2)
        # The same id may have been used for another agent, and rejected there.
        for reference in self._followers.get(task_id, ()):
            follower = reference()
            if follower is not None and follower.agent_id == agent_id:
                follower.receive(message)

    def _all(self) -> list[Follower]:
        # A copy: a follower may be collected, and so removed, at any moment.
        everybody = [reference() for references in list(self._followers.values()) for reference in references]
        return [follower for follower in everybody if follower is not None]

    def _is_followed(self, agent_id: str, *, all_: bool) -> bool:
        return any(
            follower.agent_id == agent_id and (follower.wants_all or not all_) for follower in self._all()
        )

    def _look_everywhere(self) -> None:
        for follower in self._all():
            self.spawn(follower.look())

    async def _sweep(self) -> None:
        """Every few seconds: have followers look, and drop lifecycle subscriptions that nobody needs."""
        while True:
            known = [weakref.ref(follower) for follower in self._all()]
            await asyncio.sleep(SWEEP_S)
            for reference in known:
                follower = reference()
                if follower is not None and reference in self._followers.get(follower.task_id, ()):
                    await _guard(follower.look())  # The server may be away; the sweep must go on.
                del follower
            for agent_id in [agent for agent in self._lifecycle if not self._is_followed(agent, all_=False)]:
                for subscription in self._lifecycle.pop(agent_id):
                    subscription.unsubscribe()


async def _guard(work: Coroutine[Any, Any, None]) -> None:
    """A failed look is repeated by the next sweep or reconnect; the sweep itself must not end with it."""
    try:
        await work
    except CasEventsError as error:
        _log.debug("a follower could not look: %s", error)
    except Exception:  # A follower's fault must not end silently, nor take the others with it.
        _log.exception("a follower failed")
