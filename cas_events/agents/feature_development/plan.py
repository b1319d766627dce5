"""The plan: what is to be done for a specification, in an order in which everything needed is there. Pure."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import msgspec

from cas_events.agents.feature_development.catalogue import read_rule
from cas_events.agents.feature_development.spec import Function, Spec, parse_signature
from cas_events.errors import InvalidCommandError


class PlannedTask(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of work.

    Attributes:
        id: such as ``write slugify``.
        agent: who does it.
        needs: ids of the tasks before it.
        size: rules and examples to look after.
    """

    id: str
    agent: str
    needs: tuple[str, ...]
    size: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The tasks in an order that heeds their needs; ``unclear`` are the rules that nobody understood."""

    tasks: tuple[PlannedTask, ...]
    order: tuple[str, ...]
    unclear: tuple[str, ...] = ()


def names_of(function: Function, spec: Spec) -> frozenset[str]:
    """What the rules of a function may speak of: ``parameters``, and the other ``functions()``."""
    parameters = {argument.arg for argument in parse_signature(function.signature).args.args}
    return frozenset(parameters | {f"{other.name}()" for other in spec.functions if other != function})


def make_plan(spec: Spec) -> Plan:
    """Plan a specification.

    Raises:
        InvalidCommandError: its functions need each other in a circle.
    """
    tasks: dict[str, PlannedTask] = {}
    unclear: list[str] = []
    for function in spec.functions:
        names = names_of(function, spec)
        readings = [read_rule(rule, names) for rule in function.rules]
        unclear += [
            f"{function.name}: {rule}"
            for rule, found in zip(function.rules, readings, strict=True)
            if not found
        ]
        used = sorted({step.uses for found in readings for step in found if step.uses})
        write = PlannedTask(
            id=f"write {function.name}",
            agent="developer",
            needs=tuple(f"write {name}" for name in used),
            size=max(1, len(function.rules)),
        )
        test = PlannedTask(
            id=f"test {function.name}", agent="tester", needs=(write.id,), size=max(1, len(function.examples))
        )
        tasks |= {write.id: write, test.id: test}
    tests = tuple(task.id for task in tasks.values() if task.agent == "tester")
    review = PlannedTask(id=f"review {spec.module}", agent="qa", needs=tests, size=len(spec.functions))
    tasks[review.id] = review
    order = _in_order(tasks)
    return Plan(
        tasks=tuple(tasks[id_] for id_ in order),
        order=tuple(id_.removeprefix("write ") for id_ in order if id_.startswith("write ")),
        unclear=tuple(unclear),
    )


def _in_order(tasks: dict[str, PlannedTask]) -> list[str]:
    """Ids so that each comes after its needs; as the specification has them where that is free."""
    place = {id_: number for number, id_ in enumerate(tasks)}
    sorter = TopologicalSorter({task.id: task.needs for task in tasks.values()})
    try:
        sorter.prepare()
    except CycleError as error:
        circle = " → ".join(id_.removeprefix("write ") for id_ in error.args[1])
        raise InvalidCommandError(
            f"the functions need each other in a circle: {circle}", field="input"
        ) from None
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=lambda id_: place[id_])
        order += ready
        sorter.done(*ready)
    return order
