"""From the data of older versions to what this program reads: pure steps, chained. Stored events are never rewritten.

`dataversion` counts the shapes of one type's ``data``. A step makes of one version the next; a reader applies all that
follow. A version without a step has the same shape as the next. What is newer than `DATAVERSION` cannot be known: it is
kept as it is, and the tables count it (`cas_unknown_events`). Version 1 is the first, so there is no step yet; a new one
comes with a frozen file of the version that it leaves (`tests/frozen`). The projector reads version 1 in SQL; its first
successor has to be raised in `staging` too, before DuckDB sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DATAVERSION = 1  # What this program writes, and the newest that it reads.

Data = dict[str, Any]
Step = Callable[[Data], Data]

# By type and the version that a step starts from.
STEPS: Mapping[tuple[str, int], Step] = {}


def upcast(
    type_: str,
    version: int,
    data: Data,
    *,
    steps: Mapping[tuple[str, int], Step] = STEPS,
    newest: int = DATAVERSION,
) -> tuple[int, Data]:
    """The data as of the newest version that is known.

    Args:
        type_: the event's type.
        version: of the data.
        data: not changed.
        steps: by type and version.
        newest: where to stop.

    Returns:
        The version and the data; both as they were when the version is the newest, or newer, or below 0.
    """
    if version < 0:
        return version, data  # A raw client's; counting up from wherever it is could take for ever.
    for at in range(version, newest):
        step = steps.get((type_, at))
        data = step(data) if step is not None else data
    return max(version, newest), data
