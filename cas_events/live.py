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
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Protocol

from cas_events.errors import CasEventsError, NotConnectedError
from cas_events.jetstream.connection import Connection, Message, Subscription
from cas_events.wire.subjects import Names

_log = logging.getLogger(__name__)

SWEEP_S = 5.0
LOOKS_AT_ONCE = 16


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
        self._followers: dict[str, dict[int, weakref.ref[Follower]]] = {}
        self._streaming: dict[int, str] = {}  # who wants everything, and of which agent
        self._streams: Counter[str] = Counter()  # how many want everything of an agent
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
        key, agent_id = id(follower), follower.agent_id
        self._followers.setdefault(follower.task_id, {})[key] = weakref.ref(follower)
        if agent_id not in self._lifecycle:
            self._lifecycle[agent_id] = self._subscribe(self._names.lifecycle(agent_id, "*"))
        if follower.wants_all and key not in self._streaming:
            self._streaming[key] = agent_id
            self._streams[agent_id] += 1
        if follower.wants_all and agent_id not in self._telemetry:
            subjects = [self._names.event(class_, agent_id, "*") for class_ in ("step", "progress", "log")]
            self._telemetry[agent_id] = self._subscribe(*subjects, self._names.out(agent_id, "*"))
        if self._sweeper is None:
            self._sweeper = self.spawn(self._sweep())

    def remove(self, follower: Follower) -> None:
        """Stop delivering; safe to call twice, and from a finalizer."""
        # By its identity: what is being collected is no longer behind its own reference.
        others = self._followers.get(follower.task_id, {})
        others.pop(id(follower), None)
        if not others:
            self._followers.pop(follower.task_id, None)
        agent_id = self._streaming.pop(id(follower), None)
        if agent_id is None:
            return
        self._streams[agent_id] -= 1
        if not self._streams[agent_id]:
            del self._streams[agent_id]
            for subscription in self._telemetry.pop(agent_id, ()):
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
        for reference in tuple(self._followers.get(task_id, {}).values()):
            follower = reference()
            if follower is not None and follower.agent_id == agent_id:
                follower.receive(message)

    def _all(self) -> list[Follower]:
        # A copy: a follower may be collected, and so removed, at any moment.
        everybody = [
            reference()
            for references in list(self._followers.values())
            for reference in list(references.values())
        ]
        return [follower for follower in everybody if follower is not None]

    def _look_everywhere(self) -> None:
        self.spawn(self._look_for([weakref.ref(follower) for follower in self._all()]))

    async def _sweep(self) -> None:
        """Every few seconds: have followers look, and drop lifecycle subscriptions that nobody needs."""
        while True:
            known = [weakref.ref(follower) for follower in self._all()]
            await asyncio.sleep(SWEEP_S)
            await self._look_for(known)
            followed = {follower.agent_id for follower in self._all()}
            for agent_id in self._lifecycle.keys() - followed:
                for subscription in self._lifecycle.pop(agent_id):
                    subscription.unsubscribe()

    async def _look_for(self, known: list[weakref.ref[Follower]]) -> None:
        """Have those of them look that still follow, a few at a time: hundreds must not ask the server at once."""
        rest = iter(known)

        async def look_one_by_one() -> None:
            for reference in rest:
                follower = reference()
                if follower is not None and id(follower) in self._followers.get(follower.task_id, {}):
                    await _guard(follower.look())  # The server may be away; the others must still look.
                del follower

        async with asyncio.TaskGroup() as looking:
            for _ in range(min(LOOKS_AT_ONCE, len(known))):
                looking.create_task(look_one_by_one())


async def _guard(work: Coroutine[Any, Any, None]) -> None:
    """A failed look is repeated by the next sweep or reconnect; the sweep itself must not end with it."""
    try:
        await work
    except CasEventsError as error:
        _log.debug("a follower could not look: %s", error)
    except Exception:  # A follower's fault must not end silently, nor take the others with it.
        _log.exception("a follower failed")
