"""The scratch folder in which tools look at a version of the code.

It lies in the system's temporary folder and goes when its block ends. A process that is killed leaves its own; whoever
makes the next one removes it. Who lives holds a lock on its folder, which the system lets go of with the process, whatever
its number and its container.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

_PREFIX = "cas-feature-"
_YOUNG_S = 60.0  # It may have been made a moment ago, and be locked in the next one.


@asynccontextmanager
async def scratch(files: Mapping[str, str]) -> AsyncIterator[Path]:
    """A folder with these files and an empty pytest configuration; gone at the end."""
    folder, lock = await asyncio.to_thread(_make)
    try:
        await asyncio.to_thread(write, folder, {**files, "pytest.ini": "[pytest]\n"})
        yield folder
    finally:
        await asyncio.shield(asyncio.to_thread(_remove, folder, lock))


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write files into a folder, over those of the same names."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _make() -> tuple[Path, int]:
    """A new folder, and the descriptor that holds its lock."""
    _remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime < _YOUNG_S:
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # It has just gone, or is another user's.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)  # Somebody works in it.
        else:
            _remove(folder, lock)
