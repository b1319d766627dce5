"""The README's commands, run as written, in the README's order, in a folder with nothing but the README.

Goal: what the README shows is what happens. Method: every ``console`` block is run line by line, every block with a file name
is written to that file; what is printed is compared with what is shown after numbers, times and ids have been
made alike. A line ``…`` stands for any lines.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.patience import promised
from tests.harness.wait import until

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(console|(?:python|markdown) file=(\S+))\n(.*?)^```", re.MULTILINE | re.DOTALL)
TIMEOUT_S = promised(40)


def blocks() -> list[tuple[str, str]]:
    """(file name or empty, text) of each block, in order."""
    return [(match[2] or "", match[3]) for match in BLOCK.finditer((ROOT / "README.md").read_text())]


def commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block with the lines shown below it."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)
    for part in parts[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown.splitlines()


def alike(line: str) -> str:
    """A line without what differs from run to run."""
    line = re.sub(r"(?<=left out: ).*|(?<=files listed ).*", "<any>", line)
    line = re.sub(r"\S+:\d+  .*\(\w\S+ .*\)$", "<finding>", line)
    line = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "<id>", line)
    line = re.sub(r"\b[0-9a-f]{32}-\d+", "<interrupt>", line)
    line = re.sub(r"(?<=\s)/\S+|^/\S+", "<path>", line)
    return re.sub(r"\s+", " ", re.sub(r"\d+(\.\d+)*", "0", line)).strip()


def missing(shown: list[str], printed: str) -> list[str]:
    """The shown lines that were not printed, in this order."""
    actual = iter([alike(line) for line in printed.splitlines()])
    wanted = [alike(line) for line in shown if line.strip() not in {"", "…"}]
    return [line for line in wanted if line not in actual]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CAS_")},
        "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}",
        "CAS_HOME": str(tmp_path / ".cas"),
        "HOME": str(tmp_path),
        "NO_COLOR": "1",
        "COLUMNS": "160",
    }
    background: list[subprocess.Popen[bytes]] = []

    def run(command: str) -> str:
        if command.endswith("&"):
            with (tmp_path / f"background-{len(background)}.log").open("wb") as log:
                words = ["bash", "-c", f"exec {command.removesuffix('&')}"]
                background.append(
                    subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=log, stderr=log)
                )
            return ""
        folder = ROOT if command.startswith("scripts/") else tmp_path
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    yield run
    for process in reversed(background):
        process.send_signal(signal.SIGTERM)
    for process in reversed(background):
        process.wait(promised(20))


@pytest.mark.timeout(1200)
def test_the_readme_is_true(shell, tmp_path: Path) -> None:
    ran = []
    (tmp_path / "README.md").write_text((ROOT / "README.md").read_text())
    for name, text in blocks():
        if name:
            (tmp_path / name).write_text(text)
            continue
        for command, shown in commands(text):
            if command.startswith("cas worker"):
                wait_for_server(tmp_path / ".cas" / "server.json")
            printed = shell(command)
            # The tables are a moment behind the log, as the README says; a person would ask again.
            ask_until_s = time.monotonic() + promised(5.0)
            while (
                command.startswith("cas sql") and missing(shown, printed) and time.monotonic() < ask_until_s
            ):
                printed = shell(command)
            ran.append(command)
            assert not missing(shown, printed), f"{command} printed\n{printed}"
    assert [command.split()[0] for command in ran][:1] == ["scripts/demo"]
    assert len(ran) >= 8


def wait_for_server(path: Path) -> None:
    """`cas up` is up when it says where."""
    asyncio.run(until(path.exists, timeout_s=20, what="cas up"))


def test_a_difference_is_seen() -> None:
    assert missing(["a 1", "…", "b 2"], "a 7\nx\nb 9\n") == []
    assert missing(["b", "a"], "a\nb\n") == ["a"]
    assert missing(["gone"], "here\n") == ["gone"]
