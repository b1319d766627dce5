"""Static breakpoints (``compile(interrupt_before=…, interrupt_after=…)``) as questions.

LangGraph stops there without an interrupt: the run just ends with nodes to come, which must not pass for the end of
the task. The question is named after the checkpoint that it stands on; any answer to it lets the graph go on. A runner
that dies right at a breakpoint asks at an ``interrupt_before`` when it comes back, while an ``interrupt_after`` in that
moment is passed: which nodes have just ended is not in a checkpoint.
"""

from __future__ import annotations

import hashlib
from typing import Any

from langgraph.types import StateSnapshot

from cas_events.domain.interrupts import Question
from cas_events.runner.graphs.opening import AnyPregel


def has_breakpoints(graph: AnyPregel) -> bool:
    """Whether a graph may stop without an interrupt."""
    return bool(graph.interrupt_before_nodes or graph.interrupt_after_nodes)


def question_at(state: StateSnapshot) -> Question | None:
    """What a stopped graph asks; None if it has ended, or asks by interrupts of its own."""
    if not state.next or state.interrupts:
        return None
    configurable: Any = state.config["configurable"]
    name = hashlib.blake2b(configurable["checkpoint_id"].encode(), digest_size=16).hexdigest()
    return Question(id=name, value={"breakpoint": list(state.next)})


def is_before_breakpoint(graph: AnyPregel, state: StateSnapshot) -> bool:
    """Whether the graph may not go on from here without an answer."""
    nodes = graph.interrupt_before_nodes
    return bool(state.next) and (nodes == "*" or not set(nodes).isdisjoint(state.next))
