"""What a delta channel is rebuilt from, on JetStream as in memory.

Goal: LangGraph's contract of `aget_delta_channel_history`, which the published conformance suite does not have yet.
Method: the same checkpoints and writes in LangGraph's own in-memory saver and in ours, and equal answers; and a graph
with a `DeltaChannel` whose state is the same after pruning and copying.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.conformance.test_utils import (
    generate_checkpoint,
    generate_config,
    generate_metadata,
)
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.graph import START, StateGraph

from cas_events import JetStreamSaver
from tests.harness.processes import settings


@pytest.fixture
async def saver(nats_url: str, deployment: str) -> AsyncIterator[JetStreamSaver]:
    async with JetStreamSaver(settings=settings(nats_url, deployment)) as saver:
        yield saver


class Story:
    """Checkpoints of one thread, told to both savers."""

    def __init__(self, saver: JetStreamSaver) -> None:
        self.savers: tuple[Any, ...] = (saver, InMemorySaver())
        self.ids: list[str] = []

    async def put(
        self, values: dict[str, Any], *, parent: int | None = -1, versions: dict[str, int] | None = None
    ) -> int:
        config = generate_config("t")
        if parent is not None and self.ids:
            config["configurable"]["checkpoint_id"] = self.ids[parent]
        number = len(self.ids) + 1
        checkpoint = generate_checkpoint(
            channel_values=values, channel_versions=versions or {"c": number, "d": number}
        )
        new = {
            channel: version
            for channel, version in checkpoint["channel_versions"].items()
            if version == number
        }
        for saver in self.savers:
            await saver.aput(config, checkpoint, generate_metadata(), new)
        self.ids.append(checkpoint["id"])
        return len(self.ids) - 1

    async def write(self, at: int, task: str, *writes: tuple[str, Any], path: str = "") -> None:
        for saver in self.savers:
            await saver.aput_writes(generate_config("t", checkpoint_id=self.ids[at]), writes, task, path)

    async def history(self, *channels: str, at: int | None = None) -> Any:
        config = generate_config("t", checkpoint_id=self.ids[at] if at is not None else None)
        ours, theirs = [
            await saver.aget_delta_channel_history(config=config, channels=channels) for saver in self.savers
        ]
        assert ours == theirs
        return ours


@pytest.fixture
def story(saver: JetStreamSaver) -> Story:
    return Story(saver)


async def test_no_channels_no_history(story: Story) -> None:
    await story.put({})
    assert await story.history() == {}


async def test_a_thread_without_a_value_has_writes_only(story: Story) -> None:
    for number in range(3):
        at = await story.put({})
        await story.write(at, "task", ("c", number), ("d", -number))
    assert await story.history("c") == {"c": {"writes": [("task", "c", 0), ("task", "c", 1)]}}


async def test_the_walk_ends_at_the_nearest_value_and_takes_the_writes_on_top_of_it(story: Story) -> None:
    for number, values in enumerate(({"c": [1]}, {"c": _DeltaSnapshot([1, 2])}, {}, {})):
        at = await story.put(values)
        await story.write(at, "task", ("c", number))
    found = await story.history("c")
    assert found["c"]["seed"] == _DeltaSnapshot([1, 2])
    assert [value for _, _, value in found["c"]["writes"]] == [1, 2]


async def test_every_channel_ends_at_a_value_of_its_own(story: Story) -> None:
    for number, values in enumerate(({"c": 1}, {"d": 2}, {})):
        at = await story.put(values)
        await story.write(at, "task", ("c", f"c{number}"), ("d", f"d{number}"))
    found = await story.history("c", "d", "never")
    assert (found["c"]["seed"], found["d"]["seed"]) == (1, 2)
    assert [len(found[name]["writes"]) for name in ("c", "d", "never")] == [2, 1, 0]


async def test_parallel_tasks_apply_in_the_order_of_their_paths(story: Story) -> None:
    at = await story.put({})
    for task, path in (("aaa", "~pull, b"), ("bbb", "~pull, a"), ("ccc", "")):
        await story.write(at, task, ("c", task), ("c", task + "2"), path=path)
    await story.put({})
    found = await story.history("c")
    assert [value for _, _, value in found["c"]["writes"]] == ["ccc", "ccc2", "bbb", "bbb2", "aaa", "aaa2"]


async def test_a_fork_sees_its_own_ancestors_only(story: Story) -> None:
    root = await story.put({})
    await story.write(root, "task", ("c", "root"))
    side = await story.put({}, parent=root)
    await story.write(side, "task", ("c", "side"))
    main = await story.put({}, parent=root)
    await story.write(main, "task", ("c", "main"))
    await story.put({}, parent=main)
    values = [value for _, _, value in (await story.history("c"))["c"]["writes"]]
    assert values == ["root", "main"]


async def test_a_value_that_did_not_change_counts_where_it_is_carried(story: Story) -> None:
    await story.put({"c": "seed"}, versions={"c": 1})
    await story.put({}, versions={"c": 1})
    await story.put({}, versions={"c": 3})
    assert (await story.history("c"))["c"]["seed"] == "seed"


async def test_an_unknown_checkpoint_has_no_history(story: Story) -> None:
    await story.put({"c": 1})
    story.ids.append("unknown")
    assert await story.history("c", at=-1) == {"c": {"writes": []}}


class State(TypedDict):
    items: Annotated[
        list[str],
        DeltaChannel(lambda state, writes: state + [x for w in writes for x in w], snapshot_frequency=5),
    ]


async def test_pruning_copying_and_forking_keep_what_a_delta_channel_needs(saver: JetStreamSaver) -> None:
    graph = StateGraph(State)
    graph.add_node("n", lambda state: {"items": [f"n{len(state['items'])}" + "x" * 300]})
    graph.add_edge(START, "n")
    compiled = graph.compile(checkpointer=saver)
    for turn in range(9):
        config: Any = {"configurable": {"thread_id": "t"}}
        await compiled.ainvoke({"items": [f"in {turn}"]}, config)
        before = (await compiled.aget_state(config)).values
        assert len(before["items"]) == 2 * turn + 2
        await saver.aprune(["t"])
        assert (await compiled.aget_state(config)).values == before
        await saver.acopy_thread("t", f"copy {turn}")
        assert (await compiled.aget_state({"configurable": {"thread_id": f"copy {turn}"}})).values == before
    kept = [each async for each in saver.alist(config)]
    assert len(kept) < 9
