"""Diffs that ruff calls safe, for files in which a weakness was found. Reads files, never writes one.

None of ruff's S rules has a fix. What can be fixed safely around a finding is what `FIX_RULES` names: an unused
import of pickle or subprocess goes, a comparison of literals by identity, a raised NotImplemented, a useless f-string.
Diffs repeat source lines, so the caller hands in only files without a secret (see `tally`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from cas_events.agents.process import WORKING_FOLDER, run_module
from cas_events.agents.security_audit.report import ProposedDiff
from cas_events.agents.security_audit.scanners import DEADLINE_PER_FILE_S, DEADLINE_S
from cas_events.errors import ToolFailedError

# Security, likely bugs, pyflakes, logging, pylint's errors and warnings; no style.
FIX_RULES = "S,B,E7,F,LOG,PLE,PLW"

_CHECK = (
    "check",
    "--isolated",
    "--no-cache",
    "--quiet",
    "--diff",
    "--no-unsafe-fixes",
    f"--select={FIX_RULES}",
)
_HEADER = re.compile(r"^--- (?P<path>.+)\n\+\+\+ (?P=path)\n(?=@@ )", re.MULTILINE)


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


async def propose(root: str, files: Sequence[str]) -> list[ProposedDiff]:
    """The diffs for some files below ``root``, in their order; files with nothing to fix have none.

    Raises:
        ToolFailedError: ruff gave no usable answer.
    """
    paths = [_joined(root, file) for file in files]
    deadline_s = DEADLINE_S + DEADLINE_PER_FILE_S * len(files)
    finished = await run_module("ruff", [*_CHECK, "--", *paths], timeout_s=deadline_s)
    # 2 is a crash; 1 says that there is a diff.
    if finished.returncode not in {0, 1}:
        raise ToolFailedError("ruff", "crashed", f"exit status {finished.returncode}")
    hunks = split(finished.stdout.decode("utf-8", "replace"), folder=WORKING_FOLDER)
    return [
        ProposedDiff(file=file, diff=f"--- a/{file}\n+++ b/{file}\n{hunks[path]}")
        for file, path in zip(files, paths, strict=True)
        if path in hunks
    ]


def split(output: str, *, folder: str) -> dict[str, str]:
    """The hunks of each file, by absolute path; the paths of the headers are relative to ``folder``."""
    headers = list(_HEADER.finditer(output))
    ends = [*(header.start() for header in headers[1:]), len(output)]
    return {
        # Only line ends go: a line with a single space is an empty line of context.
        _joined(folder, header["path"]): output[header.end() : end].rstrip("\n") + "\n"
        for header, end in zip(headers, ends, strict=False)
    }


def _joined(folder: str, path: str) -> str:
    return os.path.normpath(os.path.join(folder, path))  # noqa: PTH118 - pathlib does not resolve ".."


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
