"""What the tidy rules look at: the tracked files, and Python modules as parsed trees.

A rule is a function from a parsed module to complaints, so that its own test can hand it a bad sample. Nothing here
imports the code under test.
"""

from __future__ import annotations

import ast
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Module:
    """A Python file.

    Attributes:
        name: dotted, such as ``cas_events.wire.subjects``.
        path: relative to the repository, with slashes.
        text: the source.
        tree: the same, parsed.
    """

    name: str
    path: str
    text: str
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        """Whether it is an ``__init__.py``."""
        return self.path.endswith("__init__.py")


def module_of(path: str, text: str) -> Module:
    """Parse a source text as the file at ``path``."""
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return Module(name, path, text, ast.parse(text, filename=path))


@cache
def modules(*folders: str) -> tuple[Module, ...]:
    """Every module below the folders."""
    paths = sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))
    return tuple(_module_at(path) for path in paths if "node_modules" not in path.parts)


@cache
def _module_at(path: Path) -> Module:
    """Each file is parsed once, however many sets of folders it is looked at in."""
    return module_of(path.relative_to(REPOSITORY).as_posix(), path.read_text(encoding="utf-8"))


@cache
def tracked_files() -> tuple[str, ...]:
    """Every file that git knows, relative to the repository."""
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=30)
    names = listed.stdout.decode().split("\0")
    return tuple(name for name in names if name and (REPOSITORY / name).is_file())


def imports(module: Module) -> list[tuple[int, str]]:
    """Every module that a module imports, wherever the statement stands, as (line, absolute dotted name).

    ``from a.b import c`` gives ``a.b.c``: `c` may be a module, and if it is a name, its prefix says the same.
    """
    found: list[tuple[int, str]] = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def is_within(name: str, package: str) -> bool:
    """Whether a dotted name is the package or in it; ``cas_events.client`` is not in ``cas_events.cli``."""
    return name == package or name.startswith(package + ".")


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of an attribute chain; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        prefix = dotted(node.value)
        return f"{prefix}.{node.attr}" if prefix else ""
    return ""


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    kept = parts[: len(parts) - node.level + (1 if module.is_package else 0)]
    return ".".join([*kept, *([node.module] if node.module else [])])
