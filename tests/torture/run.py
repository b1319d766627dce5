"""One run of the torture: a world, a workload, a nemesis; then rest, and every promise checked against the streams."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cas_events.errors import CasEventsError
from tests.harness import history as promises
from tests.harness.faults import at_rest, last_for
from tests.harness.history import STARTED, History
from tests.torture.fleet import World
from tests.torture.nemesis import Nemesis
from tests.torture.workload import Workload

_log = logging.getLogger(__name__)

REST_S = 180.0
SAY_EVERY_S = 10.0
STATUS = {f"cas.task.{name}": name for name in ("completed", "failed", "cancelled", "rejected")}


@dataclass
class Outcome:
    """What a run found.

    Attributes:
        kind: ``one server`` or ``three servers``.
        seed: of faults and workload.
        minutes: how long faults were injected.
        faults: how many of each kind.
        tasks: how many ended how.
        attempts: how many attempts were opened.
        events: how many events of tasks are stored.
        followers: how many followers were compared with the log.
        refused: errors that clients got instead of an acknowledgement.
        longest_pause_s: the longest time without any acknowledgement.
        rest_s: from the end of the faults until every task had ended.
        violations: what was promised and did not hold.
    """

    kind: str
    seed: int
    minutes: float
    faults: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    events: int = 0
    followers: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    longest_pause_s: float = 0.0
    rest_s: float = 0.0
    violations: list[str] = field(default_factory=list)


async def torture(
    folder: Path, *, minutes: float, seed: int, runners: int, clients: int, is_cluster: bool
) -> Outcome:
    """Run it; whatever happens, what was found so far is in the outcome."""
    outcome = Outcome("three servers" if is_cluster else "one server", seed, minutes)
    async with World(folder, runners=runners, clients=clients, is_cluster=is_cluster) as world:
        nemesis, workload = Nemesis(world, seed), Workload(world.clients, seed)
        faults, work = asyncio.create_task(nemesis.run()), asyncio.create_task(workload.run())
        await _until_over(minutes, nemesis, workload, [faults, work])
        nemesis.stop()
        workload.stop()
        await asyncio.wait_for(faults, 60)
        await world.heal()
        healed_s = time.monotonic()
        await asyncio.wait_for(work, 180)
        outcome.faults, outcome.refused = nemesis.injected, workload.refused
        outcome.longest_pause_s = workload.longest_pause_s
        outcome.violations += [f"a client hung: {text}" for text in workload.hangs]
        await _check(world, workload, outcome)
        outcome.rest_s = time.monotonic() - healed_s
    return outcome


async def _until_over(
    minutes: float, nemesis: Nemesis, workload: Workload, tasks: list[asyncio.Task[None]]
) -> None:
    end_s = time.monotonic() + 60 * minutes
    while time.monotonic() < end_s:
        done, _ = await asyncio.wait(
            tasks,
            timeout=min(SAY_EVERY_S, max(0.1, end_s - time.monotonic())),
            return_when=asyncio.FIRST_COMPLETED,
        )
        for task in done:
            task.result()  # It ended too early: by an error.
        started = sum(len(load.acknowledged) for load in workload.loads)
        _log.info("%d faults, %d commands acknowledged", sum(nemesis.injected.values()), started)


async def _check(world: World, workload: Workload, outcome: Outcome) -> None:
    """Wait for rest and compare everything with the promises."""
    try:
        history = await at_rest(world.url, world.deployment, timeout_s=REST_S)
    except AssertionError as error:
        outcome.violations.append(f"1: {error}")
        return
    acknowledged = [pair for load in workload.loads for pair in load.acknowledged]
    outcome.violations += promises.check(history, acknowledged)
    _count(history, outcome)
    followed = [each for load in workload.loads for each in load.followed]
    for each in followed:
        try:
            seen = await each.end(30)
        except (TimeoutError, CasEventsError) as error:
            keys = [(event.attempt, event.index) for event in each.seen[-3:]]
            outcome.violations.append(f"6: follower of {each.task.task_id} hangs after {keys}: {error!r}")
        else:
            complaints = promises.follower_saw_everything(history, each.task.task_id, seen)
            outcome.violations += [f"6: {text}" for text in complaints]
    outcome.followers = len(followed)
    outcome.violations += [f"7: {text}" for text in await _wrong_rows(world, history)]
    outcome.violations += await _stuck(world)


def _count(history: History, outcome: Outcome) -> None:
    for lifecycle in (history.lifecycle_of(task) for task in history.executes):
        outcome.tasks[STATUS.get(lifecycle[-1].event.type, "open")] += 1
        outcome.attempts += sum(r.event.type == STARTED for r in lifecycle)
    outcome.events = len(history.events)


async def _wrong_rows(world: World, history: History) -> list[str]:
    """Rows of the projection that are not what the log says."""
    client = world.clients[0]
    rows = await _rows(world, await client.last_seq())
    found = {row["task_id"]: (row["status"], row["attempt"]) for row in rows}
    complaints = []
    for task in history.executes:
        lifecycle = history.lifecycle_of(task)
        attempt = max((r.event.attempt for r in lifecycle if r.event.type == STARTED), default=0)
        expected = STATUS.get(lifecycle[-1].event.type), attempt
        if (found.get(task, ("", 0))[0], found.get(task, ("", 0))[1] or 0) != expected:
            complaints.append(f"cas_tasks has {found.get(task)} for {task}, the log {expected}")
    return complaints


async def _rows(world: World, seq: int) -> list[dict[str, object]]:
    """Every task's row; the projector may have to catch up, or to start, first."""
    for _ in range(10):
        try:
            return await world.clients[0].sql(
                "SELECT task_id, status, attempt FROM cas_tasks", wait_for=seq, timeout_s=30
            )
        except CasEventsError as error:
            _log.info("the projector does not answer yet: %s", error)
            await last_for(1.0)
    return []


async def _stuck(world: World) -> list[str]:
    """Whether every client still gets its tasks done: no pull loop stuck, no connection silently dead."""
    complaints = []
    for number, client in enumerate(world.clients):
        try:
            echoes = [client.execute_task("echo", wait_for_runner_s=20) for _ in range(20)]
            results = await asyncio.wait_for(asyncio.gather(*echoes), 60)
        except (TimeoutError, CasEventsError) as error:
            complaints.append(f"client {number} is stuck: {error!r}")
        else:
            complaints += [f"client {number}: {r.status}" for r in results if r.status != "completed"]
    return complaints
