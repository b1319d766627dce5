"""Tables for one example after another: opening their file takes longer than most examples do with it.

A file that was emptied is to the fold what a new one is: no row, no position, nothing pending. New files, and what is
found in old ones, are what the tests of the projector's process and of the rebuild are about.
"""

from __future__ import annotations

from pathlib import Path

from projections.fold import Fold, Positions

DEPLOYMENT = "cas"


class Folds:
    """Open tables of `DEPLOYMENT`, each under a name; closed together.

    Args:
        folder: for the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, Fold] = {}

    def empty(self, name: str = "tables") -> Fold:
        """Tables without a row; what this name had before is gone."""
        fold = self._open.get(name)
        if fold is None:
            return self._opened(name)
        execute = fold._connection.execute
        for (table,) in execute(
            "SELECT table_name FROM duckdb_tables() WHERE NOT temporary AND NOT internal"
        ):
            execute(f"DELETE FROM {table}")
        fold._claim_positions(self._path(name))
        fold.positions, fold._has_pending = Positions(0, 0), False
        return fold

    def reopened(self, name: str = "tables") -> Fold:
        """The same tables after a restart."""
        self._open.pop(name).close()
        return self._opened(name)

    def close(self) -> None:
        """Close all of them."""
        for fold in self._open.values():
            fold.close()
        self._open.clear()

    def _opened(self, name: str) -> Fold:
        self._open[name] = Fold(self._path(name), DEPLOYMENT)
        return self._open[name]

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.duckdb"
