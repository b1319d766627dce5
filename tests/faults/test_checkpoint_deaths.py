"""kill -9 of a process that writes checkpoints, at every message that it sends.

Goal: the thread is readable whole, whenever its writer died, and another process goes on with it. Method: a process
forks a child per message and each child dies right before sending that one; then every thread is read and continued.
"""

from __future__ import annotations

import asyncio
import sys

from cas_events import JetStreamSaver
from tests.faults.checkpoint_deaths import BIG, TURNS, build, thread
from tests.harness.processes import ROOT, settings


async def test_a_thread_is_whole_whenever_its_writer_dies(nats_url: str, deployment: str) -> None:
    async with JetStreamSaver(settings=settings(nats_url, deployment)) as saver:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.faults.checkpoint_deaths",
            nats_url,
            deployment,
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        assert process.returncode == 0
        count = int(said)
        assert count > 10
        seen = set()
        for number in range(1, count + 1):
            graph = build(saver)
            logs = [state.values.get("log", []) async for state in graph.aget_state_history(thread(number))]
            seen.add(len(logs))
            state = await graph.aget_state(thread(number))
            # Not `next`, which is empty when the last task of a step has left its writes.
            out = await graph.ainvoke(None if state.tasks else {"log": ["turn again"]}, thread(number))
            said = [entry.rstrip("x") for entry in out["log"]]
            turns = [entry for entry in said if entry.startswith("turn")]
            assert len(turns) == len(set(turns)) == said.count("left") == said.count("right") > 0
            assert set(turns) <= {*(f"turn {turn}" for turn in range(TURNS)), "turn again"}
            assert out["big"].startswith(BIG)
            await saver.aprune([f"death-{number}"])
            assert (await graph.aget_state(thread(number))).values == out
        assert len(seen) > 2
