"""What any projector has to do, as Pekko Projection and Emmett list it, for ours; one class a promise.

Method: a real DuckDB file; kill -9 before and after each commit, in a process that is forked before anything is open.
What the list says of rebuilds is in `test_rebuild`, of interleaving in `tests/property/test_projection_fold`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cas_events.errors import FileInUseError, ProjectionError
from cas_events.jetstream.messages import StoredMessage
from projections import store
from projections.fold import Fold
from tests.property.projection_model import Command, Fact, command_message, event_message

COUNT = 5  # tasks, of three events each; a batch is what one task says


def batch(number: int) -> tuple[list[StoredMessage], list[StoredMessage]]:
    """A task's command and events; numbers begin with 0."""
    task, seq = f"t{number}", number * 3
    facts = [
        Fact("cas.task.started", "analyst", task, 1, 0, {"input": {"n": number}}),
        Fact("cas.log", "analyst", task, 1, 1, {"level": "info", "message": "m"}),
        Fact("cas.task.completed", "analyst", task, 1, 2, {"output": number}),
    ]
    command = command_message(number + 1, Command("execute", "analyst", task, {"input": number}))
    return [command], [event_message(seq + n, fact) for n, fact in enumerate(facts, 1)]


def everything(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    file = store.open_file(path, read_only=True)
    try:
        return {
            table: file.execute(f"FROM {table} ORDER BY ALL")
            for table in ("cas_tasks", "cas_agent_events", "cas_agent_logs", "cas_commands", "cas_projection")
        }
    finally:
        file.close()


def folded(path: Path, count: int = COUNT) -> dict[str, list[tuple[Any, ...]]]:
    fold = Fold(path, "cas")
    for number in range(count):
        fold.apply(*batch(number))
    fold.close()
    return everything(path)


KILLED = """
import os, signal, sys
from pathlib import Path
from projections import store
from projections.fold import Fold
from tests.faults.test_projector_conformance import COUNT, batch

folder = Path(sys.argv[1])

class Raw:
    def __init__(self, raw, die_at):
        self.raw, self.commits, self.die_at = raw, 0, die_at

    def __getattr__(self, name):
        return getattr(self.raw, name)

    def execute(self, sql, *params):
        for_good = sql == "COMMIT"
        if for_good:
            self.point()
        result = self.raw.execute(sql, *params)
        if for_good:
            self.point()
        return result

    def point(self):
        self.commits += 1
        if self.commits == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

def project(path, die_at):
    fold = Fold(path, "cas")
    fold._connection._raw = Raw(fold._connection._raw, die_at)
    for number in range(COUNT):
        fold.apply(*batch(number))
        if number % 2:
            fold.checkpoint()
    fold.close()

for die_at in range(1, 2 * COUNT + 1):
    pid = os.fork()
    if not pid:
        project(folder / f"{die_at}.duckdb", die_at)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL, die_at
"""


@pytest.mark.timeout(300)
class TestRowsAndPositionAreOneWrite:
    def test_killed_before_and_after_every_commit_all_or_nothing_and_goes_on(self, tmp_path: Path) -> None:
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=True, timeout=250, env=os.environ)
        wanted = folded(tmp_path / "wanted.duckdb")
        for die_at in range(1, 2 * COUNT + 1):
            path = tmp_path / f"{die_at}.duckdb"
            fold = Fold(path, "cas")
            batches = die_at // 2  # Odd points are before a commit, even ones after.
            assert fold.positions == (batches, batches * 3)
            [(tasks, events, logs, commands)] = fold.reader().execute(
                "SELECT (SELECT count(*) FROM cas_tasks), (SELECT count(*) FROM cas_agent_events),"
                " (SELECT count(*) FROM cas_agent_logs), (SELECT count(*) FROM cas_commands)"
            )
            assert (tasks, events, logs, commands) == (batches, batches * 3, batches, batches)
            for number in range(COUNT):  # From the beginning: what is there is passed over.
                fold.apply(*batch(number))
            fold.close()
            assert everything(path) == wanted

    def test_nothing_is_seen_before_the_commit(self, tmp_path: Path) -> None:
        fold = Fold(tmp_path / "cas.duckdb", "cas")
        reader, seen = fold.reader(), []
        original = fold._advance

        def advance(stream: str, before: int, after: int) -> None:
            original(stream, before, after)  # The last statement of a transaction.
            seen.append(
                reader.execute("SELECT (SELECT count(*) FROM cas_tasks), max(last_seq) FROM cas_projection")
            )

        fold._advance = advance  # type: ignore[method-assign]
        fold.apply(*batch(0))
        assert seen == [[(0, 0)], [(0, 0)]]
        assert reader.execute(
            "SELECT (SELECT count(*) FROM cas_tasks), max(last_seq) FROM cas_projection"
        ) == [(1, 3)]
        reader.close()
        fold.close()


class TestRestartFromThePreviousPosition:
    @pytest.mark.parametrize("statement", ["events_store", "events_merge_tasks", "others_advance"])
    def test_failure_within_a_batch_leaves_nothing_of_it(self, tmp_path: Path, statement: str) -> None:
        path = tmp_path / "cas.duckdb"
        fold = Fold(path, "cas")
        fold.apply(*batch(0))
        run = fold._connection.run

        def fail(name: str, *params: object) -> list[tuple[Any, ...]]:
            rows = run(name, *params)
            if name == statement:
                raise store.Error("IO Error: No space left on device")
            return rows

        fold._connection.run = fail  # type: ignore[method-assign]
        with pytest.raises(
            ProjectionError, match="No space left on device; nothing of that batch is stored"
        ) as caught:
            fold.apply(*batch(1))
        assert "\n" not in str(caught.value)
        assert fold.positions == (1, 3)
        fold._connection.run = run  # type: ignore[method-assign]
        for number in range(1, COUNT):
            fold.apply(*batch(number))
        fold.close()
        assert everything(path) == folded(tmp_path / "wanted.duckdb")

    def test_from_the_beginning_when_the_position_is_gone(self, tmp_path: Path) -> None:
        path = tmp_path / "cas.duckdb"
        wanted = folded(path)
        path.unlink()
        assert folded(path) == wanted

    def test_stopped_and_started_between_any_two_batches(self, tmp_path: Path) -> None:
        path = tmp_path / "cas.duckdb"
        for number in range(3):
            fold = Fold(path, "cas")
            assert fold.positions == (number, number * 3)
            fold.apply(*batch(number))
            fold.close()
        assert everything(path) == folded(tmp_path / "wanted.duckdb", 3)


class TestWhatFailsIsSkippedOrRepeatedWithoutEffect:
    def test_position_passes_what_cannot_be_decoded(self, tmp_path: Path) -> None:
        fold = Fold(tmp_path / "cas.duckdb", "cas")
        commands, events = batch(0)
        bad = StoredMessage("CAS_EVENTS", 4, events[0].subject, 0, b"\xff")
        assert fold.apply(commands, [*events, bad]) == (1, 4)
        reader = fold.reader()
        assert reader.execute("SELECT seq, raw FROM cas_dead_letters") == [(4, b"\xff")]
        assert reader.execute("SELECT status FROM cas_tasks") == [("completed",)]
        reader.close()
        fold.close()

    def test_delivered_again_changes_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "cas.duckdb"
        fold = Fold(path, "cas")
        for number in (0, 1, 0, 1, 1, 0):
            fold.apply(*batch(number))
        assert fold.positions == (2, 6)
        fold.close()
        assert everything(path) == folded(tmp_path / "wanted.duckdb", 2)


class TestOneWriterAFile:
    def test_another_process_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "cas.duckdb"
        fold = Fold(path, "cas")
        code = (
            "import sys; from pathlib import Path; from projections.fold import Fold\n"
            "from cas_events.errors import FileInUseError\n"
            "try: Fold(Path(sys.argv[1]), 'cas')\n"
            "except FileInUseError as error: print(error.pid)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], check=True, capture_output=True, timeout=60
        )
        assert int(done.stdout) == os.getpid()
        assert str(FileInUseError(str(path), 5)).endswith(
            "is in use by process 5; ask that projector, or stop it"
        )
        fold.close()
