"""Diffs that ruff calls safe, for files in which a weakness was found. Reads files, never writes one.

None of ruff's S rules has a fix. What can be fixed safely around a finding is what `FIX_RULES` names: an unused
import of pickle or subprocess goes, a comparison of literals by identity, a raised NotImplemented, a useless f-string.
Diffs repeat source lines, so the caller hands in only files without a secret (see `tally`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cas_events.agents.security_audit.files import BATCH_FILES
from cas_events.agents.security_audit.process import run_module
from cas_events.agents.security_audit.report import ProposedDiff
from cas_events.agents.security_audit.scanners import DEADLINE_S
from cas_events.errors import ToolFailedError

# Security, likely bugs, pyflakes, logging, pylint's errors and warnings; no style.
FIX_RULES = "S,B,E7,F,LOG,PLE,PLW"

_CHECK = (
    "check",
    "--isolated",
    "--no-cache",
    "--quiet",
    "--exit-zero",
    f"--select={FIX_RULES}",
    "--no-unsafe-fixes",
)
_HUNK = "@@ "


def existing(root: str, files: Sequence[str]) -> list[str]:
    """Those of ``files`` that are still regular files below ``root``; blocking.

    A path that leads elsewhere, through a link or through "..", is dropped: the list may come from another process.
    """
    folder = Path(root).resolve()
    return [file for file in files if _is_below(folder, file)]


def _is_below(folder: Path, file: str) -> bool:
    path = folder / file
    try:
        return path.resolve(strict=True) == path and path.is_relative_to(folder) and path.is_file()
    except (OSError, RuntimeError, ValueError):
        return False


async def fixable(root: str, files: Sequence[str]) -> list[str]:
    """Those of ``files`` for which ruff has a safe fix, in the same order.

    Raises:
        ToolFailedError: ruff gave no usable answer.
    """
    found: set[str] = set()
    for start in range(0, len(files), BATCH_FILES):
        paths = [os.path.join(root, file) for file in files[start : start + BATCH_FILES]]  # noqa: PTH118
        finished = await run_module(
            "ruff", [*_CHECK, "--output-format=json", "--", *paths], timeout_s=DEADLINE_S
        )
        found.update(_with_safe_fix(root, finished.stdout))
    return [file for file in files if file in found]


def _with_safe_fix(root: str, stdout: bytes) -> set[str]:
    try:
        items: list[dict[str, Any]] = json.loads(stdout)
        return {
            os.path.relpath(item["filename"], root)
            for item in items
            if item["fix"] is not None and item["fix"]["applicability"] == "safe"
        }
    except (ValueError, LookupError, TypeError) as error:
        raise ToolFailedError("ruff", "unreadable_output", type(error).__name__) from error


async def propose(root: str, file: str) -> ProposedDiff | None:
    """The diff for one file, or None when there is nothing to fix.

    Raises:
        ToolFailedError: ruff gave no usable answer.
    """
    path = os.path.join(root, file)  # noqa: PTH118
    finished = await run_module("ruff", [*_CHECK, "--diff", "--", path], timeout_s=DEADLINE_S)
    hunks = with_header(file, finished.stdout.decode("utf-8", "replace"))
    return ProposedDiff(file=file, diff=hunks) if hunks else None


def with_header(file: str, diff: str) -> str:
    """A diff whose header names the file below the root, whatever folder the tool ran in; empty without a hunk."""
    start = 0 if diff.startswith(_HUNK) else diff.find("\n" + _HUNK) + 1
    if start == 0 and not diff.startswith(_HUNK):
        return ""
    return f"--- a/{file}\n+++ b/{file}\n{diff[start:].rstrip()}\n"


def within(diffs: Sequence[ProposedDiff], *, each_bytes: int, total_bytes: int) -> list[ProposedDiff]:
    """As many whole diffs as fit, in order; one that is too large by itself is passed over."""
    kept: list[ProposedDiff] = []
    left = total_bytes
    for proposed in diffs:
        size = len(proposed.diff.encode())
        if size <= min(each_bytes, left):
            kept.append(proposed)
            left -= size
    return kept
