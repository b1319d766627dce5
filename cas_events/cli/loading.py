"""From ``MODULE:RUNNER``, ``FILE.py:RUNNER`` or a `langgraph.json` to the runner object, with errors that say what to mend."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from cas_events.cli.problems import RunnerNotLoadedError
from cas_events.errors import PathNotFoundError
from cas_events.runner.worker import Runner
from cas_events.settings import wants_traces

DEFAULT_NAME = "runner"


def load_runner(target: str, folder: Path) -> Runner:
    """Import a runner.

    Args:
        target: ``package.module:name`` or ``path/file.py:name``; without a name it is `DEFAULT_NAME`.
        folder: modules are also looked for here, before anywhere else.

    Raises:
        RunnerNotLoadedError: the module, or the name in it, is not there or does not work, or is no runner.
        PathNotFoundError: the file is not there.
    """
    source, _, name = target.rpartition(":") if ":" in target else (target, "", "")
    name = name or DEFAULT_NAME
    module = (
        _import_file(target, source, folder) if source.endswith(".py") else _import(target, source, folder)
    )
    try:
        value = _attribute(module, name)
    except AttributeError:
        raise RunnerNotLoadedError(target, f"{source} has no {name!r}{_others(module)}") from None
    if not isinstance(value, Runner):
        raise RunnerNotLoadedError(target, f"{name!r} is a {type(value).__name__}, not a cas_events.Runner")
    return value


def _attribute(module: ModuleType, dotted: str) -> object:
    value: object = module
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def _others(module: ModuleType) -> str:
    found = sorted(name for name, value in vars(module).items() if isinstance(value, Runner))
    return f"; it has {', '.join(found)}" if found else "; it has no runner at all"


def _import(target: str, name: str, folder: Path) -> ModuleType:
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise RunnerNotLoadedError(
            target, "write it as MODULE:RUNNER, FILE.py:RUNNER or langgraph.json, such as agents:runner"
        )
    _look_in(folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise RunnerNotLoadedError(
                target, f"there is no module {error.name!r} here or installed"
            ) from None
        raise _broken(target, name, error) from error
    except Exception as error:  # The user's own code, which may raise anything; it is named in the error.
        raise _broken(target, name, error) from error


def _import_file(target: str, source: str, folder: Path) -> ModuleType:
    path = (folder / source).resolve()
    if not path.is_file():
        raise PathNotFoundError(source, "no such file")
    _look_in(path.parent)
    # Its own name, unless that would replace a module that is loaded already, such as `json`.
    name = path.stem if path.stem not in sys.modules else f"cas_worker_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # As above.
        raise _broken(target, source, error) from error
    return module


def _look_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _broken(target: str, name: str, error: Exception) -> RunnerNotLoadedError:
    hint = "" if wants_traces() else " (CAS_DEBUG=1 shows where)"
    return RunnerNotLoadedError(target, f"importing {name} failed: {type(error).__name__}: {error}{hint}")
