"""One set of open tables for all examples of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.folds import Folds


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folds]:
    folds = Folds(tmp_path_factory.mktemp("folds"))
    yield folds
    folds.close()
