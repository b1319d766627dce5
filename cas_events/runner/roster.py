"""What a process pulls and answers for, as the event loop says and the keeper thread carries out.

Every change replaces the mapping whole and then raises the version, so that the other thread, which only reads, sees
either the old duties or the new ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cas_events.domain.agents import Stance
from cas_events.runner.holds import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """One agent that this process has code for.

    Attributes:
        sources: its consumers.
        stance: whether it is served, left alone, or pulled to refuse what has not begun.
    """

    sources: tuple[Source, ...]
    stance: Stance = "wait"


class Roster:
    """The duties of one process.

    Args:
        shared: consumers that are pulled whatever is served.

    Attributes:
        version: raised with each change.
    """

    def __init__(self, *shared: Source) -> None:
        self._shared = shared
        self._duties: Mapping[str, Duty] = {}
        self.version = 1

    @property
    def duties(self) -> Mapping[str, Duty]:
        """By agent, in the order of their registration."""
        return self._duties

    @property
    def sources(self) -> tuple[Source, ...]:
        """The consumers to pull from."""
        pulled = [duty for duty in self._duties.values() if duty.stance != "wait"]
        return self._shared + tuple(source for duty in pulled for source in duty.sources)

    @property
    def served(self) -> tuple[str, ...]:
        """The agents to answer for."""
        return tuple(agent_id for agent_id, duty in self._duties.items() if duty.stance == "serve")

    @property
    def withdrawn(self) -> tuple[str, ...]:
        """The agents that this process has code for and does not offer."""
        return tuple(agent_id for agent_id, duty in self._duties.items() if duty.stance != "serve")

    def stance(self, agent_id: str) -> Stance:
        """What to do with a delivery of this agent."""
        duty = self._duties.get(agent_id)
        return "wait" if duty is None else duty.stance

    # --- on the event loop ---------------------------------------------------------------------------------------------

    def add(self, agent_id: str, sources: tuple[Source, ...]) -> None:
        """An agent more, left alone until `stand` says otherwise."""
        self._change({**self._duties, agent_id: Duty(sources=sources)})

    def stand(self, agent_id: str, stance: Stance) -> bool:
        """Take a stance for an agent; whether it is news."""
        duty = self._duties.get(agent_id)
        if duty is None or duty.stance == stance:
            return False
        self._change({**self._duties, agent_id: replace(duty, stance=stance)})
        return True

    def drop(self, agent_id: str) -> None:
        """An agent less."""
        self._change({name: duty for name, duty in self._duties.items() if name != agent_id})

    def _change(self, duties: Mapping[str, Duty]) -> None:
        self._duties = duties
        self.version += 1
