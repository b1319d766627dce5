"""Questions that a task waits on, and the answers it got: the names of interrupts as a pure rule (PROTOCOL section 7).

On the wire an interrupt is ``<id>-<n>``. The id is the graph's own and names one question for good; n begins at 1 and
rises only after an invalid answer, because the subject of an answer takes one message. A question that is listed
again keeps its name, so that an answer that was stored meanwhile still answers it.

`Dialogue` is folded from a task's lifecycle events, oldest first; it is the log's word on which answers there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cas_events.domain import events

# One event lists them all, and its `data` has a bound; what is left out is listed after the next answer.
LISTED_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One interrupt as the code that asks knows it.

    Attributes:
        id: names the question; up to 54 characters of a token's.
        value: what there is to decide on, JSON-able.
        schema: JSON Schema of the answer, if the code has one.
    """

    id: str
    value: Any = None
    schema: Any = None


def wire_id(id_: str, n: int) -> str:
    """The name of a question on the wire."""
    return f"{id_}-{n}"


def parse_wire_id(name: str) -> tuple[str, int]:
    """The (id, n) of a name on the wire; n is 0 if it has none."""
    id_, dash, n = name.rpartition("-")
    return (id_, int(n)) if dash and n.isdecimal() else (name, 0)


@dataclass(slots=True, kw_only=True)
class Dialogue:
    """What was asked and answered in a task so far.

    Attributes:
        listed: the newest n that each question was listed with.
        answers: by question, the answer to the newest listing of it, as it stands in the log.
        open: the items of the newest `interrupted` that have not been answered since, by their names on the wire.
        answered: every name that an answer was taken for.
        timeouts: when a question's time is over (RFC 3339), by its name.
    """

    listed: dict[str, int] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    open: dict[str, dict[str, Any]] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)
    timeouts: dict[str, str] = field(default_factory=dict)

    def take(self, type_: str, data: Mapping[str, Any]) -> None:
        """Take the next lifecycle event; odd values of foreign writers count as absent."""
        if type_ == events.INTERRUPTED:
            self.open = {item["id"]: item for item in items_of(data)}
            for name, item in self.open.items():
                self._list(name)
                if isinstance(item.get("timeout_at"), str):
                    self.timeouts[name] = item["timeout_at"]
        elif type_ == events.RESUMED and isinstance(data.get("interrupt_id"), str):
            name = data["interrupt_id"]
            id_, n = parse_wire_id(name)
            self.answered.add(name)
            self.open.pop(name, None)
            if self.listed.get(id_) == n:
                self.answers[id_] = data.get("value")

    def _list(self, name: str) -> None:
        id_, n = parse_wire_id(name)
        if n > self.listed.get(id_, -1):
            self.listed[id_] = n
            self.answers.pop(id_, None)

    def names(self, asked: Iterable[Question], *, refused: Collection[str]) -> dict[str, str]:
        """The names on the wire of the questions to list, by their ids.

        Args:
            asked: what the code waits on.
            refused: ids whose answer was given to the code, which waits on them still: it was invalid.
        """
        return {
            question.id: wire_id(
                question.id, max(1, self.listed.get(question.id, 0) + (question.id in refused))
            )
            for question in asked
        }


def items_of(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The items of an `interrupted` event's list that have an id."""
    items = data.get("interrupts")
    if not isinstance(items, list):
        return []
    return [item for item in items if isinstance(item, dict) and isinstance(item.get("id"), str)]


def dialogue_of(lifecycle: Iterable[tuple[str, Mapping[str, Any]]]) -> Dialogue:
    """Fold the (type, data) of lifecycle events, oldest first."""
    dialogue = Dialogue()
    for type_, data in lifecycle:
        dialogue.take(type_, data)
    return dialogue
