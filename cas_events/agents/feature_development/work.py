"""What the agents hand to each other. The user's tree is written to only by `deliver`, when the task asks for it."""

from __future__ import annotations

import asyncio
import difflib
import importlib.util
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from cas_events.agents.feature_development.code import Choice
from cas_events.agents.feature_development.scratch import write
from cas_events.agents.feature_development.spec import Spec
from cas_events.errors import InvalidCommandError, ToolsMissingError

Files = dict[str, str]
TOOLS = ("ruff", "radon", "coverage", "pytest")


class FeatureInput(msgspec.Struct, frozen=True, kw_only=True):
    """What to build.

    Attributes:
        path: the specification, a Markdown or text file; relative ones are taken from the runner's working directory.
        text: the specification itself; this or ``path``.
        max_rounds: how often the developer may mend what qa found.
        write_to: an existing folder that gets the files, if they are accepted; nothing is written without it.
    """

    path: str = ""
    text: Annotated[str, msgspec.Meta(max_length=100_000)] = ""
    max_rounds: Annotated[int, msgspec.Meta(ge=0, le=10)] = 4
    write_to: str = ""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version of the code.

    Attributes:
        round: 0 for the first.
        files: by name; the module, its tests.
        choices: what the developer decided, by function.
        by: whether a model or the rules wrote it.
        changed: whether it differs from the version before it.
    """

    round: int
    files: Files
    choices: dict[str, Choice]
    by: Literal["model", "rules"] = "rules"
    changed: bool = True


def require_tools() -> None:
    """Make sure that the tools are there before any work starts.

    Raises:
        ToolsMissingError: at least one is not installed.
    """
    missing = [name for name in TOOLS if importlib.util.find_spec(name) is None]
    if missing:
        raise ToolsMissingError(missing, extra="demo")


def module_file(spec: Spec) -> str:
    """The name of the module's file."""
    return f"{spec.module}.py"


def tests_file(spec: Spec) -> str:
    """The name of the tests' file."""
    return f"test_{spec.module}.py"


def diff(before: Files, after: Files) -> str:
    """A unified diff for ``patch -p1``."""
    return "".join(
        line
        for name in sorted({*before, *after})
        for line in difflib.unified_diff(
            before.get(name, "").splitlines(keepends=True),
            after.get(name, "").splitlines(keepends=True),
            f"a/{name}" if name in before else "/dev/null",
            f"b/{name}",
        )
    )


async def existing(write_to: str, files: Files) -> Files:
    """The files of these names that the folder has already; none without a folder.

    Raises:
        InvalidCommandError: there is no such folder.
    """
    if not write_to:
        return {}
    return await asyncio.to_thread(_existing, Path(write_to), files)


def _existing(folder: Path, files: Files) -> Files:
    if not folder.is_dir():
        raise InvalidCommandError(f"write_to: there is no folder {str(folder)!r}", field="input.write_to")
    return {
        name: (folder / name).read_text(encoding="utf-8", errors="replace")
        for name in files
        if (folder / name).is_file()
    }


async def deliver(write_to: str, files: Files) -> None:
    """Write the files where the task wants them; doing so again changes nothing."""
    await asyncio.to_thread(write, Path(write_to), files)
