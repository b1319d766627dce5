"""Code and tests for a specification, by templates; and what to change when its examples fail. Pure.

Every function is a chain of the steps that its rules mean (`catalogue`). What may be meant in several ways is a
`Choice`: the first version takes every rule literally, and only what the tests found makes the developer choose again
or guard an edge. Nothing is special-cased to an example except edges that a function has by nature: the empty value,
None, zero, a wrong type.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import msgspec

from cas_events.agents.feature_development.catalogue import Readings, Step, read_rule
from cas_events.agents.feature_development.plan import names_of
from cas_events.agents.feature_development.spec import Example, Function, Spec, parse_call, parse_signature

CANDIDATES_MAX = 64


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """An end before the first step: under a condition, a statement."""

    condition: str
    then: str


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What the developer decided for a function: which candidate of its readings, which edges."""

    candidate: int = 0
    edges: tuple[Edge, ...] = ()


Choices = Mapping[str, Choice]


def write_module(spec: Spec, order: Iterable[str], choices: Choices) -> str:
    """The module's source, its functions in an order in which each is defined before it is used."""
    functions = {function.name: function for function in spec.functions}
    bodies: list[str] = []
    imports: set[str] = set()
    for name in order:
        steps = _steps(functions[name], spec, choices.get(name, Choice()))
        imports |= {module for step in steps for module in step.imports if _is_used(module, step)}
        bodies.append(_write_function(functions[name], steps, choices.get(name, Choice())))
    imported = "\n".join(map(_import, sorted(imports)))
    head = [f'"""{_prose(spec.title)}"""', "from __future__ import annotations", imported]
    return "\n\n".join(part for part in (*head, *bodies) if part) + "\n"


def _steps(function: Function, spec: Spec, choice: Choice) -> list[Step]:
    readings = _readings(function, spec)
    return [
        found[index] for found, index in zip(readings, _candidates(readings)[choice.candidate], strict=True)
    ]


def _readings(function: Function, spec: Spec) -> list[Readings]:
    """Of every rule that is understood; the others are for `qa` to complain about."""
    found = (read_rule(rule, names_of(function, spec)) for rule in function.rules)
    return [readings for readings in found if readings]


def _candidates(readings: list[Readings]) -> list[tuple[int, ...]]:
    """Which reading of each rule to take, the literal ones first, then all second ones, then every mixture."""
    most = max(map(len, readings), default=1)
    together = [tuple(min(number, len(found) - 1) for found in readings) for number in range(most)]
    mixtures = product(*(range(len(found)) for found in readings))
    return list(
        dict.fromkeys(
            [*together, *(mixture for mixture, _ in zip(mixtures, range(CANDIDATES_MAX), strict=False))]
        )
    )


def _is_used(module: str, step: Step) -> bool:
    return module.rpartition(".")[2] in step.expression


def _import(name: str) -> str:
    module, _, member = name.rpartition(".")
    return f"from {module} import {member}" if module else f"import {name}"


def _write_function(function: Function, steps: list[Step], choice: Choice) -> str:
    value = parse_signature(function.signature).args.args[0].arg
    lines = [f"def {function.signature}:", f'    """{_prose(function.summary or function.name)}"""']
    for edge in choice.edges:
        lines += [f"    if {edge.condition}:", f"        {edge.then}"]
    if not steps:
        return "\n".join(
            [*lines, f'    raise NotImplementedError("no rule of {function.name} is understood")']
        )
    for step in steps:
        expression, then = (part.replace("{v}", value) for part in (step.expression, step.then))
        lines += [f"    if {expression}:", f"        {then}"] if then else [f"    {value} = {expression}"]
    last = lines[-1]
    is_kept = last.startswith("        ")  # a guard comes last
    return "\n".join(
        [*lines, f"    return {value}"]
        if is_kept
        else [*lines[:-1], f"    return {last.partition(' = ')[2]}"]
    )


def _prose(text: str) -> str:
    """Text for a docstring: nothing in it can end one."""
    plain = text.replace("\\", "/").replace('"', "'").strip()
    return plain if plain.endswith(".") else f"{plain}."


def write_tests(spec: Spec) -> str:
    """A test for every example: ``test_<function>_<number>``, numbers from 1."""
    examples = [(function, example) for function in spec.functions for example in function.examples]
    names = sorted({function.name for function, _ in examples})
    lines = ['"""The examples of the specification, as tests."""', "from __future__ import annotations"]
    if any(example.raises or isinstance(_result(example), float) for _, example in examples):
        lines.append("import pytest")
    lines.append(f"from {spec.module} import {', '.join(names)}" if names else "")
    for function in spec.functions:
        for number, example in enumerate(function.examples, start=1):
            lines.append(f"def test_{function.name}_{number}() -> None:\n    {_assertion(example)}")
    return "\n\n".join(lines) + "\n"


def _assertion(example: Example) -> str:
    if example.raises:
        return f"with pytest.raises({example.raises}):\n        {example.call}"
    if isinstance(_result(example), float):
        return f"assert {example.call} == pytest.approx({example.gives})"
    word = "is" if example.gives in {"None", "True", "False"} else "=="
    return f"assert {example.call} {word} {example.gives}"


def _result(example: Example) -> Any:
    return ast.literal_eval(example.gives) if example.gives else None


def improve(spec: Spec, choices: Choices, failed: Mapping[str, Iterable[int]]) -> dict[str, Choice]:
    """The next choices, from which examples of which functions failed (numbers from 1).

    Equal to ``choices`` when there is nothing left to try.
    """
    better = dict(choices)
    for function in spec.functions:
        if function.name in failed:
            choice = choices.get(function.name, Choice())
            examples = [function.examples[number - 1] for number in failed[function.name]]
            better[function.name] = _improved(function, spec, choice, examples)
    return better


def _improved(function: Function, spec: Spec, choice: Choice, failed: list[Example]) -> Choice:
    """Edges when only edges failed, else the next reading."""
    edges = [_edge(function, example) for example in failed]
    known = [edge for edge in edges if edge is not None and edge not in choice.edges]
    is_last = choice.candidate + 1 >= len(_candidates(_readings(function, spec)))
    if known and (is_last or len(known) == len(edges)):
        return msgspec.structs.replace(choice, edges=tuple(dict.fromkeys([*choice.edges, *known])))
    return choice if is_last else msgspec.structs.replace(choice, candidate=choice.candidate + 1)


def _edge(function: Function, example: Example) -> Edge | None:
    """The edge case that an example is, if it is one."""
    parameter = parse_signature(function.signature).args.args[0]
    name = parameter.arg
    positional, keywords = parse_call(example.call, function.name)
    value = positional[0] if positional else keywords.get(name)
    hint = ast.unparse(parameter.annotation).partition("[")[0] if parameter.annotation else ""
    kind = getattr(builtins, hint, None)
    message = f'f"{name} is {{{name}!r}}"'
    then = f"raise {example.raises}({message})" if example.raises else f"return {example.gives}"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None:
        return Edge(condition=f"{name} is None", then=then)
    if (
        example.raises
        and isinstance(kind, type)
        and not isinstance(value, kind)
        and not (kind is float and is_number)
    ):
        return Edge(condition=f"not isinstance({name}, {hint})", then=then)
    if is_number:
        below = Edge(condition=f"{name} < 0", then=then) if example.raises and value < 0 else None
        return Edge(condition=f"{name} == 0", then=then) if value == 0 else below
    return Edge(condition=f"not {name}", then=then) if not value else None
