"""Whatever test a document names exists: a promise is shown by something that runs.

A name with ``*`` or ``…`` at its end stands for every test that begins so; one with ``.py`` is a file.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = re.compile(r"`(?:tests/[\w/]*/)?(test_\w+)(\.py|\*|…)?(?:\[[^`]*\])?`")


def all_tests() -> set[str]:
    files = (ROOT / "tests").rglob("test_*.py")
    return {name for file in files for name in re.findall(r"def (test_\w+)\(", file.read_text("utf-8"))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    known, files = all_tests(), {file.stem for file in (ROOT / "tests").rglob("test_*.py")}
    missing = []
    for name, end in NAMED.findall(page.read_text("utf-8")):
        if end == ".py":
            exists = name in files
        elif end:
            exists = any(test.startswith(name) for test in known)
        else:
            exists = name in known
        if not exists:
            missing.append(name + end)
    assert missing == []


def test_the_table_of_faults_names_its_tests() -> None:
    """Each row of README's table ends with a test."""
    section = (ROOT / "README.md").read_text("utf-8").partition("## Under faults")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    assert [row for row in rows if not NAMED.search(row.split("|")[-2])] == []
