"""Which files of a tree an agent reads, and what is known about each before it does.

Owns the walk: no symbolic link below the given path is followed (so no loop and no way out of the tree), only
regular files are opened, folders that hold other people's code or history are left out, and everything left out is
counted or named. Blocking; the caller runs it in a thread and can stop it. Reads each file once to tell text from
binary and keeps nothing of it.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from cas_events.errors import InvalidCommandError, PathNotFoundError

FILE_BYTES_MAX = 1024 * 1024  # Larger ones are data or generated; detect-secrets needs seconds for each.
BATCH_FILES = 50
BATCH_PATH_BYTES = 64 * 1024  # of arguments; Linux allows 2 MiB, macOS 1 MiB, environment included
BATCH_CONTENT_BYTES = 4 * 1024 * 1024  # keeps a batch of large files within a tool's deadline

SKIPPED_FOLDERS = frozenset(
    {
        *(".git", ".hg", ".svn", ".bzr", "CVS"),
        *(".venv", "node_modules", "__pycache__", ".tox", ".nox", ".eggs"),
        *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis"),
        ".cas",  # The runtime's own store: the log of earlier audits is no source code.
    }
)

_PYTHON_SUFFIXES = (".py", ".pyi", ".pyw")
_SNIFF_BYTES = 8 * 1024


class Problem(msgspec.Struct, frozen=True, kw_only=True, order=True, omit_defaults=True):
    """A file (or folder) that could not be audited, or not by every tool.

    Attributes:
        file: path below the audited folder, in printable form.
        problem: ``unreadable``, ``encoding``, ``syntax``, ``too_large``, ``timeout``, ``crashed`` or another word.
        tool: which tool could not read it; empty for all.
        line: where, if known.
    """

    file: str
    problem: str
    tool: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A text file to audit.

    Attributes:
        path: absolute, as the operating system wants it (undecodable bytes as surrogates).
        shown: path below the audited folder, printable and JSON-able.
        size_bytes: when it was looked at.
        is_python: whether ruff and bandit get it.
    """

    path: str
    shown: str
    size_bytes: int
    is_python: bool


@dataclass(slots=True, kw_only=True)
class Tree:
    """What a walk found: the files in a fixed order, and all that is not among them."""

    root: str
    files: list[SourceFile] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)


def shown_path(path: str) -> str:
    """A path as text that any terminal, JSON parser and diff can take: escapes for what is not printable."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def resolve_root(path: str) -> Path:
    """The real file or folder behind a user's path.

    Raises:
        PathNotFoundError: there is none, or it cannot be reached.
        InvalidCommandError: it is the root of the file system.
    """
    try:
        root = Path(path).resolve(strict=True)
        str(root).encode()  # The report carries it as JSON.
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # RuntimeError is Python 3.11's word for a link loop.
        problem = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable path"
        raise PathNotFoundError(shown_path(path), problem.lower()) from error
    if root == Path(root.anchor):
        raise InvalidCommandError(
            "input.path is the whole file system; name a folder below", field="input.path"
        )
    return root


def list_tree(
    root: Path, *, files_max: int, stop: threading.Event, suffixes: tuple[str, ...] = ("",)
) -> Tree:
    """Walk a folder, or take a single file; ``stop`` ends the walk early.

    Files beyond ``files_max`` are counted as skipped (``over_limit``). Of a folder only files whose names end with
    one of ``suffixes`` are looked at.
    """
    if not os.path.isdir(root):  # noqa: PTH112 - pathlib raises where a closed folder is above
        tree = Tree(root=str(root.parent))
        _add(tree, str(root), files_max)
        return tree
    tree = Tree(root=str(root))
    for path in _walk(tree, stop):
        if path.lower().endswith(suffixes):
            _add(tree, path, files_max)
    tree.files.sort(key=lambda file: os.fsencode(file.path))
    return tree


def _walk(tree: Tree, stop: threading.Event) -> Iterator[str]:
    """Paths of regular files below the root, folder by folder, without following links."""
    folders = [tree.root]
    while folders and not stop.is_set():
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError:
            tree.problems.append(Problem(file=_below(tree, folder), problem="unreadable"))
            continue
        for entry in listed:
            if entry.is_symlink():
                tree.skipped["symlink"] += 1
            elif entry.is_dir(follow_symlinks=False):
                if _is_skipped_folder(entry):
                    tree.skipped["folder"] += 1
                else:
                    folders.append(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield entry.path
            else:
                tree.skipped["special"] += 1


def _is_skipped_folder(entry: os.DirEntry[str]) -> bool:
    """Whether the folder is a cache, a history, or a virtual environment under whatever name."""
    return entry.name in SKIPPED_FOLDERS or os.path.lexists(os.path.join(entry.path, "pyvenv.cfg"))  # noqa: PTH118


def _add(tree: Tree, path: str, files_max: int) -> None:
    """Look at one file and put it where it belongs."""
    if len(tree.files) >= files_max:
        tree.skipped["over_limit"] += 1
        return
    shown = _below(tree, path)
    try:
        content = _read(path)
    except OSError:
        tree.problems.append(Problem(file=shown, problem="unreadable"))
        return
    if len(content) > FILE_BYTES_MAX:
        tree.problems.append(Problem(file=shown, problem="too_large"))
        return
    if b"\0" in content[:_SNIFF_BYTES]:
        tree.skipped["binary"] += 1
        return
    if not _is_utf8(content):
        # Still handed to the tools: bandit knows coding cookies. The other two pass it over without a word.
        tree.problems.append(Problem(file=shown, problem="encoding"))
    is_python = path.endswith(_PYTHON_SUFFIXES) or _has_python_shebang(content)
    tree.files.append(SourceFile(path=path, shown=shown, size_bytes=len(content), is_python=is_python))


def _read(path: str) -> bytes:
    """The file's content up to just over the limit; a link or a pipe that took its place is not opened."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("not a regular file")
        return file.read(FILE_BYTES_MAX + 1)


def read_text(path: str) -> str:
    """A listed file as text; bytes that are none are replaced.

    Raises:
        OSError: it is gone, or no regular file any more.
    """
    return _read(path)[:FILE_BYTES_MAX].decode("utf-8-sig", "replace")


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_python_shebang(content: bytes) -> bool:
    first_line = content.split(b"\n", 1)[0]
    return first_line.startswith(b"#!") and b"python" in first_line


def _below(tree: Tree, path: str) -> str:
    return shown_path(os.path.relpath(path, tree.root))


def batches(files: list[SourceFile]) -> Iterator[list[SourceFile]]:
    """Cut a list of files so that each part fits a command line and a deadline."""
    batch: list[SourceFile] = []
    path_bytes = content_bytes = 0
    for file in files:
        cost = len(os.fsencode(file.path)) + 1
        is_full = (
            len(batch) >= BATCH_FILES
            or path_bytes + cost > BATCH_PATH_BYTES
            or content_bytes + file.size_bytes > BATCH_CONTENT_BYTES
        )
        if batch and is_full:
            yield batch
            batch, path_bytes, content_bytes = [], 0, 0
        batch.append(file)
        path_bytes += cost
        content_bytes += file.size_bytes
    if batch:
        yield batch
