"""`cas worker langgraph.json`: the ecosystem's own file, as a runner that serves its graphs.

Of the file this reads ``graphs``, ``dependencies`` (folders, which are looked for modules in; packages have to be
installed) and ``env``; what else it says is for LangGraph's own server and left aside with a note. A graph is written
``./path/file.py:variable``, ``package.module:variable`` or an object with ``path`` and maybe ``description``; the
variable is a graph in any form that `Runner.register` takes. Paths are relative to the file.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from cas_events.cli.problems import RunnerNotLoadedError
from cas_events.domain.tokens import is_token
from cas_events.errors import PathNotFoundError, WireError
from cas_events.runner.worker import Runner
from cas_events.settings import read_env_file, set_defaults, wants_traces
from cas_events.wire.jsonvalue import decode_json

_log = logging.getLogger(__name__)

READ = frozenset({"graphs", "dependencies", "env"})
_PACKAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class LangGraphFile:
    """A `langgraph.json`, read.

    Args:
        target: its path, as the user wrote it.
        folder: what a relative path is relative to.

    Raises:
        PathNotFoundError: it is not there.
        RunnerNotLoadedError: it is no JSON object with graphs.
    """

    def __init__(self, target: str, folder: Path) -> None:
        self._target = target
        path = (folder / target).resolve()
        if not path.is_file():
            raise PathNotFoundError(target, "no such file")
        self._folder = path.parent
        self._content = self._read(path)

    def apply_environment(self) -> None:
        """Set the variables of ``env`` that are not set already.

        Raises:
            PathNotFoundError: it names a file that is not there.
            RunnerNotLoadedError: it is neither a file's name nor an object of texts.
        """
        env = self._content.get("env", {})
        if isinstance(env, str):
            path = self._folder / env
            if not path.is_file():
                raise PathNotFoundError(str(path), f"no such file; `env` of {self._target} names it")
            set_defaults(read_env_file(path))
        elif isinstance(env, dict) and all(isinstance(value, str) for value in env.values()):
            set_defaults(env)
        else:
            raise self._wrong("env: write the name of a file, or an object of texts")

    def runner(self) -> Runner:
        """A runner that serves the graphs.

        Raises:
            RunnerNotLoadedError: a graph cannot be loaded; the error names the entry.
            PathNotFoundError: a graph's file, or a folder of `dependencies`, is not there.
        """
        ignored = sorted(self._content.keys() - READ - {"$schema"})
        if ignored:
            _log.warning("%s: not for a runner, left aside: %s", self._target, ", ".join(ignored))
        missing = self._look_in_dependencies()
        runner = Runner()
        for name, entry in self._content["graphs"].items():
            where = f"graphs.{name}"
            if not is_token(name):
                raise self._wrong(
                    f"{where}: an agent's name is 1 to 64 characters out of A-Z, a-z, 0-9, - and _"
                )
            source, variable, description = self._entry(where, entry)
            graph = self._attribute(where, self._module(where, source, missing), source, variable)
            try:
                runner.register(name, graph, description=description)
            except (TypeError, ValueError) as problem:
                raise self._wrong(f"{where}: {source}:{variable}: {problem}") from problem
        return runner

    # --- the file --------------------------------------------------------------------------------------------------------

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            content = decode_json(path.read_bytes())
        except WireError as problem:
            raise self._wrong(f"it is no JSON: {problem}") from problem
        if (
            not isinstance(content, dict)
            or not isinstance(content.get("graphs"), dict)
            or not content["graphs"]
        ):
            raise self._wrong('it has no graphs; write {"graphs": {"my-agent": "./my_agent.py:graph"}}')
        return content

    def _wrong(self, problem: str) -> RunnerNotLoadedError:
        return RunnerNotLoadedError(self._target, problem)

    def _entry(self, where: str, entry: Any) -> tuple[str, str, str]:
        """Source, variable and description of a graph."""
        path, description = entry, ""
        if isinstance(entry, dict):
            path, description = entry.get("path"), entry.get("description") or ""
        source, separator, variable = path.rpartition(":") if isinstance(path, str) else ("", "", "")
        if not (separator and source and variable.isidentifier() and isinstance(description, str)):
            raise self._wrong(
                f'{where}: write it as "./path/file.py:variable" or "package.module:variable", not {entry!r}'
            )
        return source, variable, description

    # --- dependencies ----------------------------------------------------------------------------------------------------

    def _look_in_dependencies(self) -> list[str]:
        """Put the folders where imports look; the packages that are not installed."""
        dependencies = self._content.get("dependencies", ["."])
        if not isinstance(dependencies, list) or not all(isinstance(name, str) for name in dependencies):
            raise self._wrong("dependencies: write a list of folders and packages")
        missing = []
        for name in dependencies:
            if name.startswith("."):
                self._look_in(name)
            elif not _is_installed(name):
                missing.append(name)
        if missing:
            _log.warning("%s: not installed: %s", self._target, ", ".join(missing))
        return missing

    def _look_in(self, name: str) -> None:
        folder = (self._folder / name).resolve()
        if not folder.is_dir():
            raise PathNotFoundError(str(folder), f"no such folder; `dependencies` of {self._target} names it")
        for found in (folder / "src", folder):
            if found.is_dir() and str(found) not in sys.path:
                sys.path.insert(0, str(found))

    # --- graphs ----------------------------------------------------------------------------------------------------------

    def _module(self, where: str, source: str, missing: list[str]) -> ModuleType:
        is_file = source.endswith(".py") or "/" in source
        try:
            return self._file(source) if is_file else importlib.import_module(source)
        except PathNotFoundError:
            raise
        except (
            Exception
        ) as problem:  # The user's own code, which may raise anything; it is named in the error.
            words = f"{where}: importing {source} failed: {type(problem).__name__}: {problem}"
            if isinstance(problem, ModuleNotFoundError):
                words += (
                    f"; install {', '.join(missing)}"
                    if missing
                    else "; install it, or add its folder to dependencies"
                )
            elif not wants_traces():
                words += " (CAS_DEBUG=1 shows where)"
            raise self._wrong(words) from problem

    def _file(self, source: str) -> ModuleType:
        """Load a file under the name that an import of it would have, so that both are one module."""
        path = (self._folder / source).resolve()
        if not path.is_file():
            raise PathNotFoundError(str(path), f"no such file; `graphs` of {self._target} names it")
        name = _importable_name(path)
        if name is not None:
            return importlib.import_module(name)
        unique = f"cas_graph_{path.stem}_{abs(hash(str(path)))}"
        spec = importlib.util.spec_from_file_location(unique, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[unique] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def _attribute(self, where: str, module: ModuleType, source: str, variable: str) -> Any:
        try:
            return getattr(module, variable)
        except AttributeError:
            has = ", ".join(name for name in vars(module) if not name.startswith("_")) or "nothing"
            raise self._wrong(f"{where}: {source} has no {variable!r}; it has {has}") from None


def _importable_name(path: Path) -> str | None:
    """The dotted name under which an import would load this very file, if any."""
    for folder in sys.path:
        try:
            relative = path.relative_to(Path(folder or ".").resolve())
        except ValueError:
            continue
        parts = relative.with_suffix("").parts
        if all(part.isidentifier() for part in parts):
            name = ".".join(parts)
            found = _spec(name)
            if found is not None and found.origin is not None and Path(found.origin).resolve() == path:
                return name
    return None


def _spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError) as problem:  # A parent that cannot be imported, or a half-made module.
        _log.debug("%s is not importable: %s", name, problem)
        return None


def _is_installed(requirement: str) -> bool:
    """Whether a package is there; what has no plain name, such as an address, is taken to be."""
    name = _PACKAGE_NAME.match(requirement)
    if name is None or "://" in requirement:
        return True
    try:
        version(name[0])
    except PackageNotFoundError:
        return _spec(name[0].replace("-", "_").partition(".")[0]) is not None
    return True


def is_langgraph_file(target: str) -> bool:
    """Whether `cas worker` was given such a file."""
    return target.endswith(".json")
