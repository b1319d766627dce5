"""The shape of modules and functions, banned calls, and what must not be in a tracked file.

Goal: the house style holds by itself, not by review. Method: rules over the parsed source, and over the text of
every file that git tracks. Each rule is shown a bad sample first: a rule that cannot fail proves nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.tidy.source import (
    REPOSITORY,
    Module,
    dotted,
    imports,
    is_within,
    module_of,
    modules,
    tracked_files,
)

MODULE_LINES_MAX = 350
FUNCTION_LINES_MAX = 70
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "helper", "common", "base", "misc"}

# What the pure core must not reach for, and what to do instead.
IMPURE = {
    "asyncio": "the core is synchronous",
    "io": "bytes are handed in",
    "logging": "the caller logs",
    "os": "settings are handed in",
    "pathlib": "bytes are handed in",
    "random": "the draw is handed in",
    "secrets": "ids are handed in",
    "socket": "bytes are handed in",
    "subprocess": "the core runs nothing",
    "threading": "the core is synchronous",
    "time": "`now` is handed in",
    "uuid": "ids are handed in",
}
CLOCK_CALLS = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
SLEEPS = {"asyncio.sleep", "time.sleep"}
SKIPS = {
    "pytest.skip",
    "pytest.importorskip",
    "pytest.mark.skip",
    "pytest.mark.skipif",
    "pytest.mark.xfail",
    "pytest.xfail",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(module: Module) -> list[Function]:
    return [node for node in ast.walk(module.tree) if isinstance(node, Function)]


def docstring_complaints(module: Module) -> list[str]:
    """Every module, public class, public function and public method says what it is for."""
    missing = [] if ast.get_docstring(module.tree) else [f"{module.path}:1: no module docstring"]
    missing += [
        f"{module.path}:{node.lineno}: {name} has no docstring"
        for name, node in public_definitions(module.tree)
        if not ast.get_docstring(node)
    ]
    return missing


def public_definitions(
    tree: ast.Module | ast.ClassDef, prefix: str = ""
) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    for node in tree.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if {"override", "overload"} & {
            dotted(decorator).rpartition(".")[2] for decorator in node.decorator_list
        }:
            continue
        yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from public_definitions(node, f"{prefix}{node.name}.")


def size_complaints(module: Module) -> list[str]:
    lines = len(module.text.splitlines())
    long_functions = [
        f"{module.path}:{node.lineno}: {node.name} has {length} lines, over {FUNCTION_LINES_MAX}"
        for node in functions(module)
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    if lines > MODULE_LINES_MAX:
        return [f"{module.path}: {lines} lines, over {MODULE_LINES_MAX}", *long_functions]
    return long_functions


def name_complaints(module: Module) -> list[str]:
    parts = module.name.split(".")
    return [
        f"{module.path}: the name {part!r} says nothing" for part in parts if part in NAMES_THAT_SAY_NOTHING
    ]


def purity_complaints(module: Module) -> list[str]:
    if not is_within(module.name, "cas_events.domain"):
        return []
    imported = [
        f"{module.path}:{line}: domain/ must not import {top}: {IMPURE[top]}"
        for line, name in imports(module)
        if (top := name.partition(".")[0]) in IMPURE
    ]
    clocks = [
        f"{module.path}:{node.lineno}: domain/ must not call {dotted(node.func)}: `now` is handed in"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ends_with(dotted(node.func), CLOCK_CALLS)
    ]
    return imported + clocks


def print_complaints(module: Module) -> list[str]:
    if is_within(module.name, "cas_events.cli"):
        return []
    return [
        f"{module.path}:{node.lineno}: print belongs in cli/; log instead"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and dotted(node.func) == "print"
    ]


def sleep_complaints(module: Module) -> list[str]:
    """A test waits on a state with a bound (tests/harness), never for a time.

    ``asyncio.sleep(0)`` only lets others run; inside an agent that a test defines, a sleep is the agent's work.
    """
    if is_within(module.name, "tests.harness"):
        return []
    work = {id(inner) for node in functions(module) if is_agent(node) for inner in ast.walk(node)}
    return [
        f"{module.path}:{node.lineno}: wait on a state with a bound, do not sleep"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and ends_with(dotted(node.func), SLEEPS)
        and id(node) not in work
        and not (node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0)
    ]


def is_agent(node: Function) -> bool:
    """Whether a function is code under a runner: an agent, or a node or tool of a graph."""
    arguments = [argument.arg for argument in node.args.args]
    return arguments[:1] in (["ctx"], ["_ctx"], ["state"], ["_state"])


def skip_complaints(module: Module) -> list[str]:
    return [
        f"{module.path}:{node.lineno}: a skipped test proves nothing; make it run or delete it"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and dotted(node) in SKIPS
    ]


def ends_with(name: str, endings: set[str]) -> bool:
    return any(name == ending or name.endswith("." + ending) for ending in endings)


PACKAGES = ("cas_events", "projections")
EVERYTHING = (*PACKAGES, "tests", "benchmarks", "scripts")
RULES = [
    (docstring_complaints, PACKAGES),
    (size_complaints, PACKAGES),
    (name_complaints, EVERYTHING),
    (purity_complaints, PACKAGES),
    (print_complaints, PACKAGES),
    (sleep_complaints, ("tests",)),
    (skip_complaints, ("tests",)),
]


@pytest.mark.parametrize(("rule", "folders"), RULES)
def test_code_keeps_its_shape(rule, folders: tuple[str, ...]) -> None:
    complaints = [text for module in modules(*folders) for text in rule(module)]
    assert not complaints, "\n".join(complaints)


BAD = [
    (docstring_complaints, "cas_events/a.py", "x = 1"),
    (docstring_complaints, "cas_events/a.py", '"""Doc."""\ndef f(): ...'),
    (docstring_complaints, "cas_events/a.py", '"""Doc."""\nasync def f(): ...'),
    (docstring_complaints, "cas_events/a.py", '"""Doc."""\nclass A: ...'),
    (docstring_complaints, "cas_events/a.py", '"""Doc."""\nclass A:\n    """Doc."""\n    def f(self): ...'),
    (size_complaints, "cas_events/a.py", "x = 1\n" * 351),
    (size_complaints, "cas_events/a.py", "def f():\n" + "    x = 1\n" * 70),
    (name_complaints, "cas_events/runner/utils.py", ""),
    (name_complaints, "tests/common/x.py", ""),
    (purity_complaints, "cas_events/domain/a.py", "import random"),
    (purity_complaints, "cas_events/domain/a.py", "from uuid import uuid4"),
    (purity_complaints, "cas_events/domain/a.py", "def f():\n    import time"),
    (purity_complaints, "cas_events/domain/a.py", "import datetime\nx = datetime.datetime.now()"),
    (
        purity_complaints,
        "cas_events/domain/a.py",
        "from datetime import datetime, UTC\nx = datetime.now(UTC)",
    ),
    (print_complaints, "cas_events/client.py", "print(1)"),
    (sleep_complaints, "tests/unit/test_a.py", "async def test_a():\n    await asyncio.sleep(0.1)"),
    (sleep_complaints, "tests/unit/test_a.py", "def test_a():\n    time.sleep(1)"),
    (skip_complaints, "tests/unit/test_a.py", "@pytest.mark.skip\ndef test_a(): ..."),
    (skip_complaints, "tests/unit/test_a.py", "x = pytest.importorskip('a')"),
]
GOOD = [
    (docstring_complaints, "cas_events/a.py", '"""Doc."""\ndef _f():\n    def g(): ...\nclass _A: ...'),
    (size_complaints, "cas_events/a.py", "def f():\n" + "    x = 1\n" * 69),
    (name_complaints, "cas_events/runner/worker.py", ""),
    (
        purity_complaints,
        "cas_events/domain/a.py",
        "from datetime import datetime\nx = datetime.fromtimestamp(0)",
    ),
    (purity_complaints, "cas_events/wire/a.py", "import time"),
    (print_complaints, "cas_events/cli/run.py", "print(1)"),
    (sleep_complaints, "tests/harness/wait.py", "async def f():\n    await asyncio.sleep(0.01)"),
    (sleep_complaints, "tests/unit/test_a.py", "async def f():\n    await asyncio.sleep(0)"),
    (sleep_complaints, "tests/unit/test_a.py", "async def slow(ctx, input):\n    await asyncio.sleep(60)"),
]


@pytest.mark.parametrize(("rule", "path", "text"), BAD)
def test_rule_sees_the_bad_sample(rule, path: str, text: str) -> None:
    assert len(rule(module_of(path, text))) == 1


@pytest.mark.parametrize(("rule", "path", "text"), GOOD)
def test_rule_lets_the_good_sample_pass(rule, path: str, text: str) -> None:
    assert rule(module_of(path, text)) == []


# --- what must not be in a tracked file ----------------------------------------------------------------------------

NOT_IN_ANY_FILE = {
    "a path of somebody's machine": r"(?<![\w./~])/(?:home|Users|root|work)/[\w.]|\b[A-Z]:\\+Users\\",
    "the address of a package index": r"(?i)\bindex[-_]url\b[\s=:\"']+http|\bregistry\s*[=:]\s*[\"']?http",
    "the host of a package index": r"(?i)https?://[\w.-]*(?:pythonhosted|registry|artifactory|nexus|devpi|verdaccio)",
    "a bare address of a machine": r"https?://(?!127\.|0\.0\.0\.0)\d{1,3}(?:\.\d{1,3}){3}",
}
LOCK_FILES = {
    "requirements.lock": r"://|^\s*--(?!hash=)|\s@\s",
    "tests/node/package-lock.json": r"://|\"resolved\"",
}


def text_complaints(path: str, text: str) -> list[str]:
    patterns = dict(NOT_IN_ANY_FILE)
    if path in LOCK_FILES:
        patterns["where a package was downloaded from"] = LOCK_FILES[path]
    return [
        f"{path}:{number}: {what}: {line.strip()[:120]}"
        for number, line in enumerate(text.splitlines(), start=1)
        for what, pattern in patterns.items()
        if re.search(pattern, line)
    ]


def test_no_tracked_file_names_a_machine_or_an_index() -> None:
    files = {path: (REPOSITORY / path).read_bytes() for path in tracked_files()}
    assert LOCK_FILES.keys() <= files.keys()
    texts = {path: raw.decode("utf-8", "replace") for path, raw in files.items() if b"\0" not in raw[:8000]}
    complaints = [complaint for path, text in texts.items() for complaint in text_complaints(path, text)]
    assert not complaints, "\n".join(complaints)


# One character of each sample is written as an escape, so that this file passes its own rule.
BAD_TEXT = [
    ("README.md", "see \x2fhome/ada/cas"),
    ("README.md", "see \x2fUsers/ada/cas"),
    ("a.json", '{"path": "\x2froot/.venv/bin"}'),
    ("a.py", "C:\x5cUsers\x5cada"),
    ("pip.conf", "index\x2durl = https://mirror.example/simple"),
    (".npmrc", "registry\x3dhttps://mirror.example/"),
    ("README.md", "http\x3a//files.pythonhosted.org/x"),
    ("README.md", "http\x3a//10.1.2.3/x"),
    ("requirements.lock", "--extra-index-url mirror"),
    ("requirements.lock", "msgspec @ file"),
    ("tests/node/package-lock.json", '"resolved": "mirror"'),
]


@pytest.mark.parametrize(("path", "text"), BAD_TEXT)
def test_text_rule_sees_the_bad_sample(path: str, text: str) -> None:
    assert text_complaints(path, text)


def test_text_rule_lets_ordinary_text_pass() -> None:
    text = "open http://127.0.0.1:8222/healthz, `~/work/x`, var/home/x, https://docs.nats.io/"
    assert text_complaints("README.md", text) == []
