"""What fault tests share: how long a fault lasts, a fleet to inject it into, and what is checked afterwards.

The length of a fault is a plain wait and no waiting for a state; everything else waits on states (`wait`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cas_events import Client, Task
from cas_events.domain.events import Event
from cas_events.errors import CasEventsError
from cas_events.jetstream.connection import Connection
from cas_events.wire.subjects import Names
from tests.harness import history as promises
from tests.harness.history import History, read_history
from tests.harness.patience import promised
from tests.harness.processes import Process, lines
from tests.harness.wait import until, until_async

REST_S = 60.0
AGENTS = "echo,ticker,failing,workflow,sleeper"


async def last_for(fault_s: float) -> None:
    """Let a fault have its length."""
    await asyncio.sleep(fault_s)


class FaultRunner(Process):
    """`tests.harness.fault_agents` in a process of its own."""

    def __init__(
        self, url: str, deployment: str, *, agents: str = AGENTS, lease_s: float = 2.0, grace_s: float = 1.0
    ) -> None:
        super().__init__(
            ["-m", "tests.harness.fault_agents"],
            CAS_NATS_URL=url,
            CAS_DEPLOYMENT=deployment,
            LEASE_S=str(lease_s),
            GRACE_S=str(grace_s),
            AGENTS=agents,
        )


class Fleet:
    """Runners of one deployment, ended with the block.

    Args:
        url: of the server itself.
        deployment: theirs.
        urls: where each of them connects.
        options: of every `FaultRunner`.
    """

    def __init__(self, url: str, deployment: str, urls: Sequence[str], **options: Any) -> None:
        self.url = url
        self.deployment = deployment
        self._urls = urls
        self._options = options
        self.runners: list[FaultRunner] = []

    def __enter__(self) -> Self:
        self.runners = [self._start(url) for url in self._urls]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for runner in self.runners:
            runner.end()

    def _start(self, url: str) -> FaultRunner:
        return FaultRunner(url, self.deployment, **self._options)

    def place_of(self, pid: int) -> int:
        """The number of the runner with this process id."""
        return next(n for n, runner in enumerate(self.runners) if runner.pid == pid)

    def replace(self, place: int) -> None:
        """End a runner, if it still lives, and start another in its place."""
        self.runners[place].end()
        self.runners[place] = self._start(self._urls[place])

    async def until_up(self) -> None:
        """Wait until every runner answers for its agents."""
        await until_async(self._is_up, timeout_s=40, what="the fleet is up")

    async def _is_up(self) -> bool:
        async with await Connection.open(self.url, name="fleet?") as connection:
            answers: set[bytes] = set()
            inbox = connection.new_inbox()
            connection.listen(inbox, lambda message: answers.add(message.data))
            connection.publish(Names(self.deployment).agent_service("talker"), reply=inbox)
            await asyncio.sleep(0.1)
            return len(answers - {b""}) >= len(self.runners)


@dataclass(frozen=True)
class Mark:
    """One line that `talker` wrote: what happened, in which attempt, in which process, when (seconds since the epoch)."""

    what: str
    attempt: int
    pid: int
    at_s: float


def marks(path: Path, what: str) -> list[Mark]:
    """What `talker` wrote of a kind."""
    found = [line.split() for line in lines(path) if line.startswith(what)]
    return [Mark(kind, int(attempt), int(pid), float(at_s)) for kind, attempt, pid, at_s in found]


async def until_marked(path: Path, what: str, times: int, *, timeout_s: float = 20.0) -> Mark:
    """Wait for the n-th line of a kind."""
    await until(lambda: len(marks(path, what)) >= times, timeout_s=timeout_s, what=f"{times} x {what}")
    return marks(path, what)[times - 1]


async def at_rest(url: str, deployment: str, *, timeout_s: float = REST_S) -> History:
    """Wait until every executed task has ended; what the streams hold then.

    They are read once more then: the commands were read before the events, while things went on.
    """
    found = History()

    async def is_over() -> bool:
        nonlocal found
        await asyncio.sleep(0.1)
        try:
            async with await Connection.open(url, name="checker") as connection:
                found = await read_history(connection, deployment)
                if not promises.unfinished(found):
                    found = await read_history(connection, deployment)
        except CasEventsError:
            return False
        return not promises.unfinished(found)

    try:
        await until_async(is_over, timeout_s=timeout_s, what="every task ends")
    except AssertionError:
        left = promises.unfinished(found)
        shown = {task: [r.name for r in found.lifecycle_of(task)[-3:]] for task in left[:5]}
        raise AssertionError(
            f"{len(left)} tasks have not ended within {promised(timeout_s):g} s: {shown}"
        ) from None
    return found


class Followed:
    """A task with everything that a follower of it sees."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.seen: list[Event] = []
        self._following = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for event in self.task.events():
            self.seen.append(event)

    async def end(self, timeout_s: float = REST_S) -> list[Event]:
        """Wait for the follower's end; what it saw."""
        await asyncio.wait_for(self._following, promised(timeout_s))
        return self.seen


class Load:
    """Tasks started by a client, with what the server acknowledged."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.acknowledged: list[tuple[str, int]] = []
        self.followed: list[Followed] = []
        self.tasks: list[Task] = []

    async def start(
        self,
        agent: str,
        input_: dict[str, object] | None = None,
        *,
        follow: bool = False,
        max_attempts: int = 20,
    ) -> Task:
        """Start one task, whether its runner is there at this moment or not."""
        task = await self.client.submit_task(
            agent, input_, wait_for_runner_s=REST_S, max_attempts=max_attempts
        )
        self.acknowledged.append((f"{self.deployment}.cmd.execute.{agent}.{task.task_id}", task.seq))
        self.tasks.append(task)
        if follow:
            self.followed.append(Followed(task))
        return task

    @property
    def deployment(self) -> str:
        return self.client._session.names.deployment

    async def complaints(
        self, url: str, *, allow: Iterable[str] = (), timeout_s: float = REST_S
    ) -> list[str]:
        """Wait for rest and for the followers, and check every promise."""
        history = await at_rest(url, self.deployment, timeout_s=timeout_s)
        found = promises.check(history, self.acknowledged)
        for followed in self.followed:
            seen = await followed.end()
            found += promises.follower_saw_everything(history, followed.task.task_id, seen)
        return [text for text in found if not any(part in text for part in allow)]
