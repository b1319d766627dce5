"""The pure parts of the feature-development workflow: specification, rules, plan, code, verdict.

Goal: a specification is data and runs nothing; code comes from rules alone; what is mended follows from what failed.
"""

from __future__ import annotations

import ast
import fcntl
import os
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_events.agents.feature_development import code
from cas_events.agents.feature_development.catalogue import read_rule
from cas_events.agents.feature_development.developer import check_source
from cas_events.agents.feature_development.plan import make_plan
from cas_events.agents.feature_development.scratch import scratch
from cas_events.agents.feature_development.spec import Spec, module_name, parse_spec
from cas_events.agents.feature_development.verdict import TestReport, failed_examples, judge, read_outcomes
from cas_events.agents.feature_development.work import diff
from cas_events.errors import InvalidCommandError

SPEC = """# Text tools

## `slugify(title: str, limit: int = 40) -> str`

Turn a title into a part of a URL.

- Apply `plain`.
- Replace everything but letters and digits with "-".
- Cut to `limit` characters.
- `slugify("a  b")` gives `"a-b"`
- `slugify(3)` raises `TypeError`

## plain(text: str) -> str

- Lower case.
- `plain("")` → `""`
"""


def function(*items: str, signature: str = "f(x: str) -> str") -> Spec:
    return parse_spec("\n".join([f"# T\n\n## {signature}\n", *(f"- {item}" for item in items)]))


def module(spec: Spec, choices: dict[str, code.Choice] | None = None) -> dict[str, Any]:
    """The names that the written module defines."""
    names: dict[str, Any] = {}
    exec(code.write_module(spec, make_plan(spec).order, choices or {}), names)
    return names


def test_a_specification_is_read() -> None:
    spec = parse_spec(SPEC)
    assert (spec.title, spec.module) == ("Text tools", "text_tools")
    slugify, plain = spec.functions
    assert slugify.signature == "slugify(title: str, limit: int = 40) -> str"
    assert slugify.summary == "Turn a title into a part of a URL."
    assert len(slugify.rules) == 3
    assert [(example.gives, example.raises) for example in slugify.examples] == [
        ('"a-b"', ""),
        ("", "TypeError"),
    ]
    assert plain.examples[0].call == 'plain("")'


@pytest.mark.parametrize("name", ["text_tools", "statistics"])
def test_the_shipped_examples_are_understood(name: str) -> None:
    text = (files("cas_events.agents.feature_development") / "specs" / f"{name}.md").read_text()
    spec = parse_spec(text)
    assert make_plan(spec).unclear == ()
    assert all(function.examples for function in spec.functions)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no function"),
        ("# Only prose\n\nNothing to do.", "no function"),
        ("## f(x: os.system) -> str", "names and brackets"),
        ("## f(x: Path) -> str", "no built-in type"),
        ("## f(x: str = open('y')) -> str", "not usable"),
        ("## f() -> str", "no parameter"),
        ("## f(x: str, *y: str) -> str", "plain parameters"),
        ("## f(x: str) -> str\n\n- `f(open('x'))` gives `1`", "literal arguments"),
        ("## f(x: str) -> str\n\n- `g(1)` gives `1`", "literal arguments"),
        ("## f(x: str) -> str\n\n- `f(1)` gives `__import__('os')`", "not a literal"),
        ("## f(x: str) -> str\n\n- `f(1)` raises `SystemExit`", "no built-in exception"),
        ("## f(x: str) -> str\n\n## f(y: str) -> str", "twice"),
    ],
)
def test_what_is_no_specification_is_refused_with_the_place(text: str, word: str) -> None:
    with pytest.raises(InvalidCommandError, match=word):
        parse_spec(text)


@given(st.text(max_size=400))
def test_any_text_is_a_specification_or_refused(text: str) -> None:
    for shape in (text, f"# T\n\n## f(x: str) -> str\n\n- {text}", f"## f(x: {text}) -> str"):
        try:
            spec = parse_spec(shape)
        except InvalidCommandError:
            continue
        ast.parse(code.write_module(spec, make_plan(spec).order, {}))
        ast.parse(code.write_tests(spec))


@pytest.mark.parametrize(
    ("title", "name"), [("Text tools", "text_tools"), ("42 ways", "feature_42_ways"), ("日本", "feature")]
)
def test_a_module_has_a_name(title: str, name: str) -> None:
    assert module_name(title) == name


@pytest.mark.parametrize(
    ("rules", "argument", "result"),
    [
        (["Strip white space.", "Upper case."], " a ", "A"),
        (['Replace "a" with "b".'], "aa", "bb"),
        (["Split into words.", "Take the first letter of each word.", 'Join them with "."'], "ab cd", "a.c"),
        (["Remove accents", "Remove punctuation", "Collapse white space"], "é,  x", "e x"),
        (['Split at ","', "Remove duplicates", "Sort descending"], "a,b,a", ["b", "a"]),
        (["Keep numbers above 2", "Sum the numbers", "Multiply by 10", "Round to 1 digit"], [1, 3, 4], 70),
        (["Count each letter"], "aab", {"a": 2, "b": 1}),
        (["Keep the first 2 items", "Reverse"], [1, 2, 3], [2, 1]),
        (["Take the median"], [1, 9, 2], 2),
        (["Return 0 if empty", "Take the average"], [], 0),
    ],
)
def test_rules_become_code(rules: list[str], argument: Any, result: Any) -> None:
    assert module(function(*rules))["f"](argument) == result


def test_a_guard_raises_what_the_rule_says() -> None:
    names = module(function("Raise ValueError if empty", "Sum them"))
    with pytest.raises(ValueError, match="x is empty"):
        names["f"]([])


@pytest.mark.parametrize(
    "rule", ["Make it nice.", "Cut to `unknown` letters", "Apply `unknown`", "import os"]
)
def test_a_rule_that_is_not_understood_is_unclear(rule: str) -> None:
    spec = function(rule)
    assert read_rule(rule, frozenset({"x"})) == ()
    assert make_plan(spec).unclear == (f"f: {rule}",)
    with pytest.raises(NotImplementedError):
        module(spec)["f"]("x")


def test_a_plan_is_in_order_of_need() -> None:
    plan = make_plan(parse_spec(SPEC))
    ids = [task.id for task in plan.tasks]
    assert plan.order == ("plain", "slugify")
    assert ids.index("write plain") < ids.index("write slugify") < ids.index("test slugify")
    assert ids[-1] == "review text_tools"
    done: set[str] = set()
    for task in plan.tasks:
        assert set(task.needs) <= done
        done.add(task.id)


def test_a_circle_is_refused_with_its_names() -> None:
    circle = "## a(x: str) -> str\n\n- Apply `b`.\n\n## b(x: str) -> str\n\n- Apply `a`."
    with pytest.raises(InvalidCommandError, match=r"a → b|b → a"):
        make_plan(parse_spec(circle))


def test_what_failed_decides_what_is_changed() -> None:
    spec = parse_spec(SPEC)
    first = module(spec)
    assert first["slugify"]("a  b") == "a--b"
    second = code.improve(spec, {}, {"slugify": [1]})
    assert second["slugify"].candidate == 1
    assert module(spec, second)["slugify"]("a  b") == "a-b"
    guarded = code.improve(spec, second, {"slugify": [2]})
    assert guarded["slugify"].edges[0].condition == "not isinstance(title, str)"
    with pytest.raises(TypeError, match="title is 3"):
        module(spec, guarded)["slugify"](3)


def test_improving_ends() -> None:
    spec = function("Split into words.", '`f("a")` gives `["b"]`')
    choices: dict[str, code.Choice] = {}
    for _ in range(20):
        better = code.improve(spec, choices, {"f": [1]})
        if better == choices:
            break
        choices = better
    else:
        pytest.fail("there is always something left to try")
    assert choices["f"].edges == ()


@pytest.mark.parametrize(
    ("example", "condition"),
    [
        ('`f("")` gives `0`', "not x"),
        ("`f(None)` gives `0`", "x is None"),
        ("`f(0)` gives `1`", "x == 0"),
        ("`f(-1)` raises `ValueError`", "x < 0"),
        ("`f([])` raises `TypeError`", "not isinstance(x, int)"),
        ("`f(-1)` gives `7`", None),
        ("`f(5)` gives `7`", None),
    ],
)
def test_only_edges_by_nature_are_special(example: str, condition: str | None) -> None:
    spec = function("Add 1", example, signature="f(x: int) -> int")
    choices = code.improve(spec, {}, {"f": [1]})
    conditions = [edge.condition for edge in choices["f"].edges]
    assert conditions == ([condition] if condition else [])


OUTPUT = """collected 2 items

test_t.py::test_f_1 PASSED                                   [ 50%]
test_t.py::test_f_2 FAILED                                   [100%]

FAILED test_t.py::test_f_2 - AssertionError: assert 1 == 2
""".splitlines()


def test_outcomes_are_read() -> None:
    report = read_outcomes(
        OUTPUT, {"totals": {"percent_covered": 87.5}, "files": {"t.py": {"missing_lines": [3]}}}
    )
    assert (report.passed, report.coverage, report.missing, report.broken) == (1, 87.5, (3,), "")
    assert report.failed[0].reason == "AssertionError: assert 1 == 2"
    assert failed_examples(report) == {"f": [2]}
    assert read_outcomes([], {}).broken == "no test ran"
    assert read_outcomes(["ERROR test_t.py - SyntaxError: x"], {}).broken == "SyntaxError: x"


def test_a_verdict_names_everything_that_is_wrong() -> None:
    report = read_outcomes(OUTPUT, {"totals": {"percent_covered": 50.0}, "files": {}})
    verdict = judge(
        report,
        unclear=["f: make it nice"],
        lint=b'[{"code": "F401", "message": "unused", "location": {"row": 2}}]',
        complexity=b'{"t.py": [{"name": "f", "complexity": 12}]}',
    )
    assert not verdict.accepted
    assert [finding.kind for finding in verdict.findings] == [
        "test",
        "unclear",
        "lint",
        "complexity",
        "coverage",
    ]
    clean = judge(TestReport(passed=1, failed=(), coverage=100.0), unclear=[], lint=b"[]", complexity=b"{}")
    assert clean.accepted


def test_a_diff_is_for_patch() -> None:
    assert diff({}, {"a.py": "x\n"}).splitlines()[:2] == ["--- /dev/null", "+++ b/a.py"]
    assert diff({"a.py": "x\n"}, {"a.py": "x\n"}) == ""


GOOD = "def f(x: str) -> str:\n    return x\n"


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("def f(x", "parsed"),
        ("def g(x): ...", "does not define f"),
        ("def f(y): ...", "does not define f"),
        ("import os\n" + GOOD, "imports os"),
        ("from subprocess import run\n" + GOOD, "imports subprocess"),
        (GOOD + "open('x')\n", "uses open"),
        (GOOD + "().__class__\n", "uses __class__"),
    ],
)
def test_a_models_source_is_looked_at_before_it_is_run(source: str, word: str) -> None:
    check_source("import re\n" + GOOD, function("Strip."))
    with pytest.raises(ValueError, match=word):
        check_source(source, function("Strip."))


async def test_a_scratch_folder_of_a_killed_runner_goes_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock tells who lives; what is young may not be locked yet; what has another name is somebody else's."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("cas-feature-dead", "cas-feature-alive", "cas-feature-young", "else"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "module.py").write_text("")
        if name != "cas-feature-young":
            os.utime(tmp_path / name, (time.time() - 3600, time.time() - 3600))
    lock = os.open(tmp_path / "cas-feature-alive", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        async with scratch({"module.py": "x = 1\n"}) as folder:
            assert (folder / "module.py").read_text() == "x = 1\n"
            async with scratch({}) as other:
                assert other != folder
            left = {path.name for path in tmp_path.iterdir()} - {folder.name}
            assert left == {"cas-feature-alive", "cas-feature-young", "else"}
    finally:
        os.close(lock)
    assert not folder.exists()
