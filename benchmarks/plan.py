"""What one run measures, handed to every process of it as one JSON argument.

Both sides, the floor and ours, get the same plan, so that they do the same amount of the same work.
"""

from __future__ import annotations

import msgspec

MEASUREMENTS = (
    "noop",
    "throughput",
    "tick",
    "cancel",
    "graph",
    "publish",
    "checkpoints",
    "replay",
    "asking",
    "observing",
)


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How much of everything, per round.

    Attributes:
        sequential: no-op tasks one after another, for the latency.
        burst: no-op tasks at once from one client, for the throughput; `bursts` times.
        ticks: progress ticks that one task emits, and `tick_pause_s` between two of them.
        running: tasks that run while one of them is cancelled.
        cancels: cancels, one after another.
        graphs: tasks of a LangGraph graph with one node, one after another.
        checkpoints: runs of a graph with a checkpointer in one process, one after another.
        checkpoint_burst: such runs in all, 50 at once.
        events: events that one publisher has acknowledged.
        window: messages in flight of a publisher.
        replays: lengths of the logs that the projector replays.
        lag_s: how long the lag of a live projector is measured.
        asked_events: length of the log of which the past is asked.
        asked_tasks: tasks among which one is looked up.
        observed: how often each way of being looked at has its turn.
    """

    sequential: int = 200
    burst: int = 2_000
    bursts: int = 3
    ticks: int = 100
    tick_pause_s: float = 0.02
    running: int = 100
    cancels: int = 100
    graphs: int = 100
    checkpoints: int = 100
    checkpoint_burst: int = 500
    events: int = 40_000
    window: int = 4_000
    replays: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    lag_s: float = 10.0
    asked_events: int = 1_000_000
    asked_tasks: int = 1_000_000
    observed: int = 30


QUICK = Sizes(
    sequential=100,
    burst=1_000,
    ticks=50,
    cancels=50,
    graphs=50,
    checkpoints=50,
    checkpoint_burst=300,
    events=20_000,
    replays=(10_000, 100_000),
    lag_s=5.0,
    asked_events=100_000,
    asked_tasks=100_000,
    observed=10,
)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One process's part of a round.

    Attributes:
        url: of the server.
        deployment: of this round; the floor uses it as the prefix of its streams and subjects.
        wanted: the measurements.
        sizes: how much.
        server_pid: whose CPU time is read before and after a burst.
        worker_pid: the same; 0 before the worker is started.
    """

    url: str
    deployment: str
    wanted: tuple[str, ...]
    sizes: Sizes
    server_pid: int = 0
    worker_pid: int = 0

    def to_argument(self) -> str:
        """The plan as a command-line argument."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_argument(cls, text: str) -> Plan:
        """The plan that a process was started with."""
        return msgspec.json.decode(text, type=cls)
