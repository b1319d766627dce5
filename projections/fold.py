"""From batches of the log to rows: the tables are a deterministic function of the two streams.

Invariants (PROTOCOL section 11): rows and positions of a batch are one transaction. The result does not depend on
how the streams interleave nor on how they are cut into batches; each stream is read in order. Of events with the
same (agent, task, attempt, index) the one with the lowest sequence counts. Nothing changes a row of `cas_tasks`
after the task's terminal event.

The plain statements (`sql/events.sql`) assume that a batch continues what is stored; they notice when it does not.
Then the transaction is rolled back, and the exact way (`sql/exact.sql`) first takes out of the staged events what
the plain ones would get wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cas_events.errors import OtherVersionError, ProjectionError
from cas_events.jetstream.messages import StoredMessage
from cas_events.wire.subjects import Names
from projections import store
from projections.continuity import Newest
from projections.staging import Letter, Stage
from projections.statements import script, statements
from projections.views import make_views

log = logging.getLogger(__name__)

VERSION = 2  # of the projection; another one means that the tables have to be made anew

_EXACT_COMMANDS = ("find_switched", "switch_folds", "switch_tasks")
_EXACT_EVENTS = (
    "set_duplicates_aside",
    "find_owners",
    "recall_pending",
    "clear_pending",
    "set_foreign_aside",
    "keep_foreign",
    "forget_foreign",
    "drop_bad_progress",
    "cut_after_end",
    "find_attempts",
    "keep_early",
    "forget_early",
)


_RECLAIM_AFTER = 40_000  # Staged messages, after which the memory that staging took is given back.
_PREPARED_AT_ONCE = ("commands", "events")  # The rest at its first use, which may never come.


class Positions(NamedTuple):
    """Up to where the streams are in the tables; 0: nothing."""

    commands: int
    events: int


class _Survey(NamedTuple):
    """What a batch of events holds, as counts; `odd`: reasons to go the exact way from the start."""

    total: int = 0
    invalid: int = 0
    logs: int = 0
    agents: int = 0
    states: int = 0
    letters: int = 0
    odd: int = 0


class _DoubtError(Exception):
    """The plain statements are not enough for this batch."""


class Fold:
    """The writer's side of the tables. Blocking; one thread at a time.

    Args:
        path: the database file; made if it is not there.
        deployment: whose log it is.

    Raises:
        ProjectionError: the file cannot be opened, or holds something else.
        OtherVersionError: the tables are of another projection version; the file is left as it is.
    """

    def __init__(self, path: Path, deployment: str) -> None:
        self._names = Names(deployment)
        self._connection = store.open_file(path)
        try:
            self._check_version(path)
            self._connection.execute(script("schema"))
            self._connection.execute(script("as_of"))
            make_views(self._connection)
            self._claim_positions(path)
            self._stage = Stage(self._connection, self._names)
            self._prepare()
            self.positions = self._read_positions()
            self._has_pending = self._count("events_pending") > 0
            self._staged = 0
        except BaseException:
            self._connection.close()
            raise

    def apply(self, commands: Sequence[StoredMessage], events: Sequence[StoredMessage]) -> Positions:
        """Put messages that follow the stored positions into the tables; what is at or below them is passed over.

        Raises:
            ProjectionError: the storage failed; nothing of the batch is stored.
        """
        commands = _after(commands, self.positions.commands)
        events = _after(events, self.positions.events)
        if not commands and not events:
            return self.positions
        reached = Positions(
            commands[-1].seq if commands else self.positions.commands,
            events[-1].seq if events else self.positions.events,
        )
        try:
            self._apply(commands, events, reached)
            self.positions = reached
            self._staged += len(commands) + len(events)
            if self._staged > _RECLAIM_AFTER:
                self._staged = 0
                self._stage.reclaim()
        except store.OutOfMemoryError as error:
            self._stage.reclaim()
            raise _failed(reached, error) from error
        except store.Error as error:
            raise _failed(reached, error) from error
        return reached

    def newest(self) -> Newest:
        """The newest rows, as far as they tell whether the log is still the same."""
        command = next(iter(self._connection.run("others_newest_command")), None)
        event = next(iter(self._connection.run("others_newest_event")), None)
        return Newest(command and (command[0], command[1]), event and (event[0], event[1]))

    def checkpoint(self) -> bool:
        """Move what is committed from the write-ahead log into the file; False: not now, because queries run."""
        try:
            self._connection.execute("CHECKPOINT")
        except store.Error as error:
            log.debug("no checkpoint now: %s", _line(error))
            return False
        return True

    def reader(self) -> store.Connection:
        """A connection for another thread."""
        return self._connection.cursor()

    def close(self) -> None:
        """Close the file; idempotent."""
        self._connection.close()

    # --- opening ---------------------------------------------------------------------------------------------------

    def _check_version(self, path: Path) -> None:
        """Refuse a snapshot, and the tables of another version, before anything is made in their file."""
        if self._connection.execute("FROM duckdb_tables() WHERE table_name = 'cas_snapshot'"):
            raise ProjectionError(f"{path} is a snapshot, which no projector goes on with")
        if not self._connection.execute("FROM duckdb_tables() WHERE table_name = 'cas_projection'"):
            return
        for (found,) in self._connection.execute("SELECT DISTINCT version FROM cas_projection"):
            if found != VERSION:
                raise OtherVersionError(str(path), found, VERSION)

    def _claim_positions(self, path: Path) -> None:
        """Make the rows of the two streams, or see that they are of this deployment and version."""
        found = {row[0] for row in self._connection.execute(statements("others")["positions"])}
        wanted = {self._names.commands, self._names.events}
        if not found:
            with self._connection.transaction():
                for stream in sorted(wanted):
                    self._connection.execute("INSERT INTO cas_projection VALUES (?, 0, ?)", (stream, VERSION))
        elif found != wanted:
            raise ProjectionError(f"{path} holds {', '.join(sorted(found))}, not {', '.join(sorted(wanted))}")

    def _prepare(self) -> None:
        for group in ("commands", "events", "exact", "others"):
            for name, sql in statements(group).items():
                if not sql.rpartition("\n")[2].startswith("TRUNCATE"):
                    self._connection.prepare(f"{group}_{name}", sql, at_once=group in _PREPARED_AT_ONCE)

    def _read_positions(self) -> Positions:
        rows = {row[0]: row[1] for row in self._connection.run("others_positions")}
        return Positions(rows[self._names.commands], rows[self._names.events])

    # --- one batch ---------------------------------------------------------------------------------------------------

    def _apply(
        self, commands: Sequence[StoredMessage], events: Sequence[StoredMessage], reached: Positions
    ) -> None:
        letters = self._stage.stage_commands(commands)
        letters += self._stage.stage_events(events)
        survey = _Survey()
        if events:
            self._fold_tasks()
            survey = _Survey(*self._connection.run("events_survey")[0])
        if survey.invalid:
            letters += self._stage.undecodable_events(events)
        if not (survey.odd or (self._has_pending and self._count("events_touches_pending"))):
            try:
                self._transact(reached, survey, letters, exact=False)
            except _DoubtError:
                log.debug("batch up to %s goes the exact way", reached)
            else:
                return
        self._transact(reached, survey, letters, exact=True)
        self._has_pending = self._count("events_pending") > 0

    def _fold_tasks(self) -> None:
        self._connection.execute(statements("events")["clear_tasks"])
        self._connection.run("events_fold_tasks")

    def _transact(self, reached: Positions, survey: _Survey, letters: list[Letter], *, exact: bool) -> None:
        batch = reached.commands + reached.events  # grows with every batch
        with self._connection.transaction():
            if reached.events > self.positions.events:
                self._connection.run("events_store_times")
            if reached.commands > self.positions.commands:
                self._merge_commands(batch, exact=exact)
            if survey.total or exact:
                self._merge_events(batch, exact=exact)
            self._store_events(survey)
            for letter in letters:
                self._connection.execute(statements("others")["store_undecodable"], letter)
            self._advance(self._names.commands, self.positions.commands, reached.commands)
            self._advance(self._names.events, self.positions.events, reached.events)

    def _merge_commands(self, batch: int, *, exact: bool) -> None:
        if exact:
            self._run_exact("clear_switched", *_EXACT_COMMANDS)
        self._connection.run("commands_merge_folds", batch)
        if not exact and self._count("commands_doubts", batch):
            raise _DoubtError
        self._connection.run("commands_merge_tasks", batch)
        self._connection.run("commands_store")

    def _merge_events(self, batch: int, *, exact: bool) -> None:
        if exact:
            self._make_plain()
        self._connection.run("events_merge_folds", batch)
        if not exact and self._count("events_doubts", batch):
            raise _DoubtError
        self._connection.run("events_merge_tasks", batch)

    def _make_plain(self) -> None:
        """Leave of the staged events only what the plain statements get right."""
        self._run_exact("drop_invalid", "drop_repeats", "clear_suspects", "find_suspects")
        floor = self._connection.run("exact_suspect_floor")[0][0]
        if floor is not None:
            self._connection.run("exact_drop_stored", floor)
        self._run_exact("clear_owners", *_EXACT_EVENTS)
        self._fold_tasks()

    def _run_exact(self, *names: str) -> None:
        for name in names:
            if name.startswith("clear_") and name != "clear_pending":
                self._connection.execute(statements("exact")[name])
            else:
                self._connection.run(f"exact_{name}")

    def _store_events(self, survey: _Survey) -> None:
        if survey.total > survey.invalid:
            self._connection.run("events_store")
            self._connection.run("events_store_more")
        if survey.logs:
            self._connection.run("events_store_logs")
        if survey.agents:
            self._connection.run("others_add_agents")
            self._connection.run("others_update_agents")
        if survey.states:
            self._connection.run("others_merge_states")
        if survey.letters:
            self._connection.run("others_store_letters", self._names.events)

    def _count(self, name: str, *params: object) -> int:
        return int(self._connection.run(name, *params)[0][0])

    def _advance(self, stream: str, before: int, after: int) -> None:
        if after > before:
            self._connection.run("others_advance", stream, after)


def _after(messages: Sequence[StoredMessage], seq: int) -> Sequence[StoredMessage]:
    """The messages beyond a sequence; the readers hand over ascending ones."""
    if not messages or messages[0].seq > seq:
        return messages
    return [message for message in messages if message.seq > seq]


def _failed(reached: Positions, error: Exception) -> ProjectionError:
    return ProjectionError(
        f"the projection cannot be written at command {reached.commands}, event {reached.events}: {_line(error)}; "
        f"nothing of that batch is stored, and a projector that is started again, with room on the disk, goes on before it"
    )


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
