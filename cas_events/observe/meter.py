"""What the runtime tells about itself as it works: one method a fact, all of which do nothing here.

The parts of a runner and a client always have a meter, so that counting costs a call of an empty method where nobody
looks. `prometheus.PrometheusMeter` is the one that counts. A meter is called on the event loop and on the keeper's
thread, never waits and never raises.
"""

from __future__ import annotations


class Meter:
    """Takes facts and forgets them."""

    def submitted(self, agent_id: str) -> None:
        """A client, or an agent that calls another, stored an execute command."""

    def claimed(self, agent_id: str, *, waited_s: float | None, after_crash: bool) -> None:
        """A claim is stored.

        Args:
            agent_id: the agent.
            waited_s: seconds since a task could have started, at its first start; None at a later one.
            after_crash: the runner of the attempt before is gone.
        """

    def appended(self, agent_id: str, type_: str, attempt: int, *, is_handover: bool = False) -> None:
        """A lifecycle event is stored.

        Args:
            agent_id: the agent.
            type_: the event type.
            attempt: the attempt, from 1.
            is_handover: of a `retrying`: the runner shuts down, and nothing failed.
        """

    def refused(self, agent_id: str, type_: str) -> None:
        """A lifecycle event is not stored, because another writer's stands where it should have gone."""

    def fenced(self, agent_id: str) -> None:
        """A lease is not renewed any more: the task is another runner's now, or has ended."""

    def ran(self, agent_id: str, type_: str, seconds: float) -> None:
        """An attempt's code ran for so long and ended with a lifecycle event of this type."""

    def redelivered(self, agent_id: str, kind: str) -> None:
        """The server delivered something once more: a ``task``, a ``wake`` or a ``cancel``."""

    def lagged(self, seconds: float) -> None:
        """The event loop ran so much later than it was asked to."""


NO_METER = Meter()
