"""Ids of child tasks: the same call gets the same id in every attempt, so that a finished child is found again.

Which call is "the same" after a crash? Not the n-th: parallel nodes race, a graph that goes on from a checkpoint does
not repeat its first calls, and a model does not say the same thing twice. So a call is named by what it asks: the
place in the graph, the agent, the input, and how often exactly this was asked before in the attempt. Calls that agree
in all of that are interchangeable. A ``key`` names it instead, whatever it asks.
"""

from __future__ import annotations

import uuid
from collections import Counter

_NAMESPACE = uuid.UUID(
    "6f1c2a52-93f5-5f0e-9d4d-2b8f6c1f7a10"
)  # drawn once; changing it would rerun finished children


class ChildIds:
    """The ids of one attempt's children. Not safe for parallel threads.

    Args:
        parent_id: the task that calls.
    """

    def __init__(self, parent_id: str) -> None:
        self._family = uuid.uuid5(_NAMESPACE, parent_id)
        self._asked: Counter[tuple[str, str, str]] = Counter()

    def named(self, key: str) -> str:
        """The id of the call that the user names."""
        return str(uuid.uuid5(self._family, f"key:{key}"))

    def next(self, scope: str, agent_id: str, input_digest: str) -> str:
        """The id of the next call that asks this.

        Args:
            scope: the place in the graph that the call is made from; empty outside graphs.
            agent_id: the called agent.
            input_digest: of the input, the same for equal JSON.
        """
        question = scope, agent_id, input_digest
        nth = self._asked[question]
        self._asked[question] += 1
        return str(uuid.uuid5(self._family, f"call:{scope}:{agent_id}:{input_digest}:{nth}"))
