"""Flow control while runners die or stand still (issue 6, item 6; promises 1, 2 and 4).

Method: a runner process holds the slots of two keys while others wait for them, and is killed or stopped; another
process serves the same agent. Slots are never held by two: seen in the log, where the lifecycles of a key's tasks must
not overlap. That is true however slow anything is: the next task of a key is started by what the log says of the one
before.
"""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from cas_events import Client, Task
from cas_events.domain.events import Event
from cas_events.wire.envelope import decode_event
from tests.faults.settled import kinds, settled
from tests.harness.processes import serving, settings
from tests.harness.wait import until_async


@pytest.fixture
async def cas(nats_server, deployment: str) -> AsyncIterator[Client]:
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        yield client


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_slot_outlives_its_holders_runner_and_is_passed_on_once(
    cas: Client, nats_server, deployment: str, tmp_path: Path, fault: signal.Signals
) -> None:
    enough, options = tmp_path / "enough", {"lease_s": 1.0, "grace_s": 0.5}
    async with serving(nats_server.url, deployment, "keyed", **options) as first:
        holders = [await submit(cas, customer, until=str(enough)) for customer in ("c1", "c2")]
        await until_async(lambda: have_started(cas, holders, 1), what="the slots are held")
        waiting = [await submit(cas, customer) for _ in range(4) for customer in ("c1", "c2")]
        async with serving(nats_server.url, deployment, "echo,keyed", **options):
            first.send(fault)
            await until_async(lambda: have_started(cas, holders, 2), timeout_s=30, what="the holders go on")
            enough.touch()
            stories = await settled(nats_server.url, deployment, [*holders, *waiting])
            first.send(signal.SIGCONT)

    for task in holders:
        *attempts, end = kinds(stories[task.task_id])
        assert (end, set(attempts)) == ("completed", {"started"})
        assert len(attempts) >= 2  # More, if a lease ran out because nobody had a processor.
    by_customer = defaultdict[str, list[list[Event]]](list)
    for story in stories.values():
        by_customer[story[0].data["input"]["customer"]].append(story)
    assert {customer: len(of_it) for customer, of_it in by_customer.items()} == {"c1": 5, "c2": 5}
    for of_it in by_customer.values():
        of_it.sort(key=lambda story: story[0].seq)
        for earlier, later in pairwise(of_it):
            assert earlier[-1].seq < later[0].seq, f"{earlier[-1].id} and {later[0].id} overlap"


async def submit(cas: Client, customer: str, **more: str) -> Task:
    input_ = {"customer": customer, "ticks": 1, **more}
    return await cas.submit_task("keyed", input_, max_attempts=20, wait_for_runner_s=60)


async def have_started(cas: Client, tasks: list[Task], attempt: int) -> bool:
    """Whether each task is in this attempt, at least."""
    names, js = cas._session.names, cas._session.js
    for task in tasks:
        last = await js.last_message(names.events, names.lifecycle(task.agent_id, task.task_id))
        if last is None or decode_event(last.data, seq=last.seq, stream=last.stream).attempt < attempt:
            return False
    return True
