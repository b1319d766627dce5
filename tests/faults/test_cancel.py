"""Cancels under faults (issue 3, item 7; promises 1, 2 and 5): exactly one terminal event, always.

Method: real runner processes; a cancel meets no runner, a paused or cut-off owner, everything at once, or the moment
of completion. The log says afterwards what became of each task.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cas_events import Client
from tests.faults.settled import kinds, settled
from tests.faults.troublemakers import Troublemaker, troubling
from tests.harness.patience import count, promised
from tests.harness.pids import stopped_within
from tests.harness.processes import lines, settings
from tests.harness.proxy import Proxy
from tests.harness.wait import until

LEASE_S, GRACE_S = 1.0, 1.0
OPTIONS = {"lease_s": LEASE_S, "grace_s": GRACE_S}
# The owner has its grace and a lease; a redelivery of the cancel may come half a second late.
ORPHAN_S = GRACE_S + LEASE_S + 2.0


@pytest.fixture
async def cas(nats_server, deployment: str) -> AsyncIterator[Client]:
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        yield client


async def test_a_cancel_while_no_runner_is_up_is_kept(
    cas: Client, nats_server, deployment: str, tmp_path: Path
) -> None:
    """One task never began, one lost its runner, and one is cancelled before it is even asked for."""
    names, js = cas._session.names, cas._session.js
    file = tmp_path / "marks"
    async with troubling(nats_server.url, deployment, "sleeper", **OPTIONS) as first:
        orphan = await cas.submit_task("sleeper", {"file": str(file)})
        await until(lambda: lines(file), what="running")
        first.kill()
    await js.append(names.execute("sleeper", "waiting"), b'{"input":{"file":"%b"}}' % bytes(file))
    for task_id in (orphan.task_id, "waiting"):
        assert await cas.cancel_task(task_id, reason="nobody home") == "requested"
        assert await cas.cancel_task(task_id) == "already_requested"
    await js.append(names.cancel("to-come"), b'{"reason":"beforehand"}')
    await js.append(names.execute("sleeper", "to-come"), b'{"input":{"file":"%b"}}' % bytes(file))
    await js.append(names.cancel("not-yet"), b'{"reason":"beforehand"}')
    await js.append(names.execute("sleeper", "not-yet"), b'{"not_before":"2300-01-01T00:00:00Z"}')

    async with troubling(nats_server.url, deployment, "sleeper", **OPTIONS):
        history = await settled(nats_server.url, deployment, timeout_s=15)

    assert kinds(history[orphan.task_id]) == ["started", "cancelled"]
    assert kinds(history["waiting"])[-1] == kinds(history["to-come"])[-1] == "cancelled"
    assert kinds(history["not-yet"])[-1] == "cancelled"  # now, not when it is due
    ends = [events[-1].data for events in history.values()]
    assert sorted(end["reason"] for end in ends) == ["beforehand"] * 2 + ["nobody home"] * 2
    assert [history[task][-1].data["started"] for task in (orphan.task_id, "waiting", "to-come")] == [
        True,
        False,
        False,
    ]
    assert len(lines(file)) == 1  # No code ran after the cancels.


@pytest.mark.parametrize("fault", ["stopped", "black hole", "refused"])
async def test_a_cancel_is_final_while_the_owner_is_away(
    cas: Client, nats_server, deployment: str, tmp_path: Path, fault: str
) -> None:
    """The other runner ends the task; the owner finds out when it is back, and stops its code."""
    file = tmp_path / "marks"
    with Proxy(int(nats_server.url.rpartition(":")[2])) as proxy:
        async with troubling(proxy.url, deployment, "sleeper", **OPTIONS) as owner:
            task = await cas.submit_task("sleeper", {"file": str(file)})
            await until(lambda: lines(file), what="running")
            # What only the second one serves says that it is up.
            async with troubling(nats_server.url, deployment, "echo,sleeper", **OPTIONS):
                interrupt(owner, proxy, fault)
                cancelling = task.cancel("now", wait=True)
                assert await asyncio.wait_for(cancelling, promised(ORPHAN_S)) == "requested"
                owner.send(signal.SIGCONT)
                proxy.heal()
                await until(lambda: len(lines(file)) == 2, timeout_s=20, what="the owner stops its code")
                history = await settled(nats_server.url, deployment, [task])
                assert owner.is_alive

    assert kinds(history[task.task_id]) == ["started", "cancelled"]
    assert lines(file)[1].startswith("cancelled 1")


def interrupt(owner: Troublemaker, proxy: Proxy, fault: str) -> None:
    """Cut the owner of a task off."""
    match fault:
        case "stopped":
            owner.send(signal.SIGSTOP)
            assert stopped_within(owner.pid, 5.0)
        case "black hole":
            proxy.black_hole()
        case "refused":
            proxy.refuse()


async def test_many_running_tasks_are_cancelled_at_once(
    cas: Client, nats_server, deployment: str, tmp_path: Path, record_property
) -> None:
    tasks_at_once, file = count(100, 1_000), tmp_path / "marks"
    record_property("cases", f"{tasks_at_once} cancels at once")
    async with troubling(nats_server.url, deployment, "sleeper", **OPTIONS, places=tasks_at_once):
        body = {"file": str(file)}
        tasks = await asyncio.gather(*(cas.submit_task("sleeper", body) for _ in range(tasks_at_once)))
        await until(lambda: len(lines(file)) == tasks_at_once, timeout_s=30, what="all run")
        began_s = time.monotonic()
        answers = await asyncio.gather(*(task.cancel("all", wait=True) for task in tasks))
        took_s = time.monotonic() - began_s
        history = await settled(nats_server.url, deployment, tasks)

    assert Counter(answers) == {"requested": tasks_at_once}
    assert {tuple(kinds(events)) for events in history.values()} == {("started", "cancelled")}
    assert Counter(lines(file)[tasks_at_once:]) == {"cancelled 1 True": tasks_at_once}
    # All of them heard it at once; nobody waited for a redelivery of the shared consumer.
    record_property("all cancelled within", f"{took_s:.1f} s")
    assert took_s < promised(2.0 + tasks_at_once / 200)


async def test_a_cancel_racing_completion_has_one_outcome(
    cas: Client, nats_server, deployment: str, record_property
) -> None:
    """The cancel is sent about when the code returns, sometimes before the task is even claimed."""
    races, draw = count(20, 1_000), random.Random(20261122)
    record_property("cases", f"{races} races")
    places = asyncio.Semaphore(20)

    async def race(n: int) -> tuple[str, str]:
        run_s = draw.choice([0.0, 0.005, 0.02])
        async with places:
            task = await cas.submit_task("sleeper", {"sleep_s": run_s}, task_id=f"race-{n}")
            following = asyncio.create_task(task.result())
            # The moment is the race's own, and no state: a timer, not a wait.
            moment = asyncio.Event()
            asyncio.get_running_loop().call_later(draw.uniform(0, 2 * run_s + 0.01), moment.set)
            await moment.wait()
            answer = await task.cancel("race", wait=True)
            return answer, (await asyncio.wait_for(following, promised(20.0))).status

    async with troubling(nats_server.url, deployment, "sleeper", **OPTIONS):
        outcomes = await asyncio.wait_for(asyncio.gather(*(race(n) for n in range(races))), promised(100.0))
        history = await settled(nats_server.url, deployment)

    assert len(history) == races
    for n, (answer, status) in enumerate(outcomes):
        assert kinds(history[f"race-{n}"])[-1] == status
        assert status in {"completed", "cancelled"}
        assert (answer, status) != ("already_finished", "cancelled")
    if races >= 100:
        assert {status for _, status in outcomes} == {"completed", "cancelled"}
