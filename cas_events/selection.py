"""Which events of the log somebody wants: by agent, by type, and by which subjects the server can tell them apart."""

from __future__ import annotations

from dataclasses import dataclass

from cas_events.domain.events import OUTPUT, Event
from cas_events.domain.tokens import require_token
from cas_events.wire.subjects import EVENT_CLASSES, Names

_PREFIX = "cas."


@dataclass(frozen=True)
class Selection:
    """A choice of events; what is empty chooses everything.

    Attributes:
        agent_id: only of this agent.
        type: only of this type, such as ``cas.log``; ``cas.task.*`` for all that begin so. ``cas.`` may be left out.
    """

    agent_id: str = ""
    type: str = ""

    @classmethod
    def of(cls, agent: str | None = None, type_: str | None = None) -> Selection:
        """Read what a user asks for.

        Raises:
            InvalidNameError: the agent is no name.
        """
        wanted = type_ or ""
        if wanted and wanted != "*" and not wanted.startswith(_PREFIX):
            wanted = _PREFIX + wanted
        return cls("" if agent is None else require_token("agent", agent), "" if wanted == "*" else wanted)

    def matches(self, event: Event) -> bool:
        """Whether an event is chosen."""
        if self.agent_id and event.agent_id != self.agent_id:
            return False
        if self.type.endswith("*"):
            return event.type.startswith(self.type[:-1])
        return not self.type or event.type == self.type

    def stream(self, names: Names) -> str:
        """The stream that holds them: outputs are in one of their own."""
        return names.output if self.type == OUTPUT else names.events

    def subject_filter(self, names: Names) -> str:
        """One filter that no chosen event fails; others may pass it, too."""
        agent = self.agent_id or "*"
        if self.type == OUTPUT:
            return names.out(agent, "*")
        class_ = self._class
        return names.event(class_, agent, "*") if class_ else names.all_events

    def subject_filters(self, names: Names, task_id: str | None = None) -> list[str]:
        """As `subject_filter`, as close as several filters come; those of one task if it is named."""
        if task_id is not None:
            return [names.event(self._class or "*", self.agent_id or "*", task_id)]
        if self.agent_id and not self._class and self.type != OUTPUT:
            agent = self.agent_id
            return [names.event("*", agent, "*"), names.agent_event(agent)]
        return [self.subject_filter(names)]

    @property
    def _class(self) -> str:
        """The class in the subject of the chosen type, if there is just one."""
        class_ = self.type.removeprefix(_PREFIX).partition(".")[0]
        return class_ if class_ in EVENT_CLASSES else ""
