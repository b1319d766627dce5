"""The database file of a deployment, the one beside it that a rebuild makes, and the swap of the two.

Invariants: the file under the live name is whole at every moment. The new one is closed, without a write-ahead log of
its own, before it takes the name. The old one's write-ahead log is removed before that, or DuckDB would apply it to
the new file; a crash between the two leaves the old tables as of their last checkpoint, from which a projector goes
on. Nobody writes the live file meanwhile: DuckDB locks what it writes, and the swap holds a lock against that.
No file here is opened as a database, see `store`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cas_events.errors import ProjectionError


def beside(live: Path, *, accept_loss: bool) -> Path:
    """Where the new tables are made. With and without loss they differ, so that neither goes on with the other's."""
    return live.with_name(f"{live.stem}.{'rebuild-with-loss' if accept_loss else 'rebuild'}{live.suffix}")


def log_of(path: Path) -> Path:
    """The write-ahead log that DuckDB keeps beside a database file."""
    return path.with_name(path.name + ".wal")


def discard(path: Path) -> None:
    """Delete a database file that nobody has open; its log first, which must never meet another file."""
    log_of(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def swap(new: Path, live: Path) -> None:
    """Give the new file the live name.

    Both are on one file system, since they are in one folder. This process must have neither of them open.

    Raises:
        ProjectionError: another process writes the live file, or the new one has not been closed in order.
        OSError: the folder cannot be changed.
    """
    if log_of(new).exists():
        raise ProjectionError(
            f"{new} has not been closed in order; run the rebuild again, it goes on from there"
        )
    with unwritten(live):
        log_of(live).unlink(missing_ok=True)
        os.replace(new, live)  # noqa: PTH105 - the name that a reader of this module looks for
        _sync_folder(live.parent)


@contextmanager
def unwritten(path: Path) -> Iterator[None]:
    """Keep other processes from opening a database file for writing; readers may come and go.

    Raises:
        ProjectionError: a process writes it.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield
        return
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise ProjectionError(
                f"{path} is being written by a projector; with it running, `cas rebuild` asks it, on the server that it "
                f"is connected to; or stop it and run `cas rebuild` again"
            ) from error
        yield


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
