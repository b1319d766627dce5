"""What the event loop and the keeper thread share: offered deliveries and held tasks.

Both sides only insert into, pop from and read plain dicts, each of which is one atomic step under the interpreter's
lock: whoever pops an offer owns the delivery.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from cas_events.jetstream.queue import Delivery
from cas_events.jetstream.topology import ConsumerSpec
from cas_events.wire.envelope import EventEncoder

# (agent, task): the same task id may have been used for two agents, and only one of them is to be rejected.
TaskKey = tuple[str, str]


@dataclass(slots=True, kw_only=True, eq=False)
class Source:
    """One work consumer that the keeper pulls from.

    Attributes:
        kind: ``task`` (execute and resume), ``wake``, ``cancel`` or ``cron``.
        spec: the consumer, as it would be made.
        agent_id: the agent that it serves; empty for ``cancel`` and ``cron``.
        ack_wait_s: the server's redelivery time: the lease.
    """

    kind: str
    spec: ConsumerSpec
    agent_id: str
    ack_wait_s: float

    @property
    def consumer(self) -> str:
        """The consumer's durable name, unique among a runner's sources."""
        return self.spec.name

    @property
    def takes_places(self) -> bool:
        """Whether what it brings fills a place until it is done: tasks do."""
        return self.kind in {"task", "wake"}

    def task_key(self, subject: str) -> TaskKey:
        """What a delivered subject is about: `cas.cmd.execute.A.T`, `cas.cmd.resume.A.T.I`, `cas.due.A.T.n`."""
        return self.agent_id, subject.split(".")[3 if self.kind == "wake" else 4]


@dataclass(slots=True, eq=False)
class Offer:
    """A delivery on its way from the keeper thread to the event loop."""

    source: Source
    delivery: Delivery
    offered_s: float = field(default_factory=time.monotonic)


@dataclass(slots=True, kw_only=True, eq=False)
class Hold:
    """A task that this process runs, and whose lease the keeper renews.

    Attributes:
        task_id: the task.
        agent_id: its agent.
        lifecycle_subject: whose last event must stay our fence.
        fence_seq: sequence of our `started`.
        delivery: the newest delivery of the governing command; its reply subject is what is renewed and acked.
        ack_wait_s: the lease.
        encoder: of the attempt.
        indexes: the attempt's index counter.
        command_seq: the governing command.
        tries: what the attempt counts against `max_attempts`.
        timeout_s: bound on the run, if any.
        deadline_s: when the keeper itself fails the task, on the monotonic clock; None for never.
        on_lost: called on the event loop when the task is no longer ours.
        renew_at_s: when the next renewal is due, on the monotonic clock.
        is_lost: the keeper has stopped renewing, for good.
        must_be_settled: what ends the task has its children to end, or its slot to pass on, before the delivery is
            acknowledged.
    """

    task_id: str
    agent_id: str
    lifecycle_subject: str
    fence_seq: int
    delivery: Delivery
    ack_wait_s: float
    encoder: EventEncoder
    indexes: itertools.count[int]
    command_seq: int
    tries: int
    timeout_s: float | None
    deadline_s: float | None
    on_lost: Callable[[], None]
    renew_at_s: float
    is_lost: bool = False
    must_be_settled: bool = False

    @property
    def key(self) -> TaskKey:
        """Where it is kept in `Desk.holds`."""
        return self.agent_id, self.task_id


class Desk:
    """The shared state of one runner process.

    Args:
        places: how many tasks the process takes at once.

    Attributes:
        offers: deliveries on their way to the event loop.
        holds: tasks that this process runs.
        claims: tasks whose `started` is on its way.
        in_hand: deliveries that the event loop has taken and not finished.
        probing: agents whose breaker is not closed; their commands are pulled one at a time.
        loop_ticked_s: when the event loop last ran, on the monotonic clock.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self.offers: dict[int, Offer] = {}
        self.holds: dict[TaskKey, Hold] = {}
        self.claims: set[TaskKey] = set()
        self.in_hand: dict[int, Offer] = {}
        self.probing: set[str] = set()
        self.loop_ticked_s = time.monotonic()

    def take(self, offer: Offer) -> bool:
        """On the event loop: take an offered delivery; False if the keeper has given it back meanwhile."""
        if self.offers.pop(id(offer), None) is None:
            return False
        if offer.source.takes_places:
            self.in_hand[id(offer)] = offer
        return True

    def hold(self, hold: Hold) -> None:
        """On the event loop: a claim is stored, and its lease is to be renewed."""
        self.holds[hold.key] = hold
        self.claims.discard(hold.key)

    def release(self, key: TaskKey) -> Hold | None:
        """On the event loop: the task is no longer ours to hold; what was held of it."""
        self.claims.discard(key)
        return self.holds.pop(key, None)

    def finish(self, offer: Offer) -> None:
        """On the event loop: the delivery is dealt with, its place is free."""
        self.in_hand.pop(id(offer), None)

    def lend(self, offer: Offer) -> None:
        """On the event loop: the task waits for another one, and its place is another's meanwhile."""
        self.in_hand.pop(id(offer), None)

    def take_back(self, offer: Offer) -> None:
        """On the event loop: the task goes on, even if that is one more than there are places."""
        self.in_hand[id(offer)] = offer

    def is_busy_with(self, agent_id: str) -> bool:
        """Whether a delivery of this agent is offered or taken."""
        deliveries = (*self.offers.values(), *self.in_hand.values())
        return any(offer.source.agent_id == agent_id for offer in deliveries)

    def running(self) -> Counter[str]:
        """How many tasks this process runs, by agent, from the claim to the end."""
        holds = {key for key, hold in list(self.holds.items()) if not hold.is_lost}
        return Counter(agent_id for agent_id, _ in holds | set(self.claims))

    @property
    def free_places(self) -> int:
        """Places that neither a taken nor an offered delivery fills."""
        return self.places - len(self.in_hand) - len(self.offers)
