"""The check itself: reads the log, asks the tables, and says where the two differ.

The tables may be a projector's that goes on meanwhile, or a file that stands still. Rows that only grow are compared
in ranges of sequences while the log is read, so that neither is ever held as a whole. Rows that change are compared
at the end; where one has changed after the position that was read, the log is read on, and it is looked at again.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

import msgspec

from cas_events.errors import ProjectionError, QueryError
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.messages import StoredMessage
from cas_events.jetstream.reader import StreamReader
from cas_events.wire.rows import QueryResult
from cas_events.wire.subjects import Names
from projections.fold import VERSION, Positions
from projections.verify.compare import AGENTS, BY_NAME, ROW, STATES, TASKS, Difference, Table, differences
from projections.verify.plain_fold import COMMANDS, EVENTS, LETTERS, LOGS, Agent, PlainFold
from projections.verify.values import Row

log = logging.getLogger(__name__)

Ask = Callable[[str, Sequence[object]], Awaitable[QueryResult]]
Tell = Callable[[int, int], None]

KEPT = 100  # Differences that are told; all are counted.
_RANGE = 5_000  # Sequences that are compared at once.
_PAGE = 2_000  # Rows that are compared at once.
_ROUNDS = 5
_TOO_LARGE = ("too_many_rows", "row_too_large", "memory")


class Report(msgspec.Struct):
    """What the check found.

    Attributes:
        commands: sequence up to which commands were read.
        events: sequence up to which events were read.
        rows: how many rows were compared, by table.
        differences: the first of them.
        difference_count: all of them.
        complaints: lifecycles that the state machine does not allow, the first of them.
        complaint_count: all of them.
        unverified: rows that could not be compared: too large to fetch, or changing all the time, or differing where
            the log has lost events of theirs. A task whose first event is still there is compared whole.
        log_begins: first sequence of the event stream; above 1, retention took what was before.
    """

    commands: int = 0
    events: int = 0
    rows: dict[str, int] = {}
    differences: list[Difference] = []
    difference_count: int = 0
    complaints: list[str] = []
    complaint_count: int = 0
    unverified: int = 0
    log_begins: int = 1

    @property
    def is_good(self) -> bool:
        """Whether the tables are what the log says, and the log is what it may be."""
        return not self.difference_count and not self.complaint_count


class Check:
    """One check of one deployment.

    Args:
        connection: to the server.
        names: of the deployment.
        ask: answers a query from the tables.
        tell: told now and then how many messages of how many have been compared.
    """

    def __init__(self, connection: Connection, names: Names, ask: Ask, tell: Tell = lambda *_: None) -> None:
        self._connection = connection
        self._names = names
        self._ask = ask
        self._tell = tell
        self._fold = PlainFold(names)
        self._at = Positions(0, 0)
        self._has_moved = True
        self.report = Report()

    async def run(self) -> Report:
        """Check everything that is in the tables now.

        Raises:
            ProjectionError: the tables cannot be asked, or are of another version.
            ServerError: the log cannot be read.
        """
        await self._read_on(await self._positions())
        await self._compare_extra()
        moving: set[tuple[str, Row]] = set()
        for table in (TASKS, AGENTS, STATES):
            moving |= await self._compare_all(BY_NAME[table])
        for _ in range(_ROUNDS):
            if moving:
                now = await self._positions()
                self._has_moved = now != self._at
                await self._read_on(now)
                moving = await self._compare_again(moving)
        self.report.unverified += len(moving)
        self.report.complaint_count = len(self._fold.complaints)
        self.report.complaints = [f"event {seq}: {text}" for seq, text in self._fold.complaints[:KEPT]]
        self.report.commands, self.report.events = self._at
        return self.report

    async def _positions(self) -> Positions:
        rows = (await self._ask("SELECT stream, last_seq, version FROM cas_projection", ())).rows
        versions = {row[2] for row in rows}
        if versions != {VERSION}:
            raise ProjectionError(
                f"the tables are of projection version {', '.join(map(str, sorted(versions)))}, this program checks {VERSION}; "
                f"`cas rebuild` makes them anew"
            )
        found = {row[0]: int(row[1]) for row in rows}
        return Positions(found[self._names.commands], found[self._names.events])

    # --- rows that only grow -----------------------------------------------------------------------------------------

    async def _read_on(self, to: Positions) -> None:
        """Fold the log up to positions of the tables, and compare what only grows."""
        if to.commands > self._at.commands:
            await self._stream(
                self._names.commands, self._at.commands, to.commands, (COMMANDS,), self._command
            )
        if to.events > self._at.events:
            await self._stream(
                self._names.events, self._at.events, to.events, (EVENTS, LOGS), self._fold.event
            )
        self._at = to

    def _command(self, message: StoredMessage) -> Iterable[tuple[str, Row]]:
        return (self._fold.command(message),)

    async def _stream(
        self,
        stream: str,
        after: int,
        to: int,
        tables: tuple[str, ...],
        fold: Callable[[StoredMessage], Iterable[tuple[str, Row]]],
    ) -> None:
        low = after + 1
        async for messages in self._messages(stream, after, to):
            expected: dict[str, list[Row]] = {table: [] for table in (*tables, LETTERS)}
            for message in messages:
                for table, row in fold(message):
                    expected[table].append(row)
            if low == after + 1 == 1 and messages[0].seq > 1:
                # Retention took what was before; what the tables have of it cannot be checked.
                low = messages[0].seq
                if stream == self._names.events:
                    self.report.log_begins = low
            high = messages[-1].seq
            for table, rows in expected.items():
                await self._compare_range(BY_NAME[table], stream, low, high, rows)
            self._tell(high, to)
            low = high + 1
        if low <= to:  # The log ends before the tables do, or with messages that are gone.
            for name in (*tables, LETTERS):
                await self._compare_range(BY_NAME[name], stream, low, to, [])

    async def _messages(self, stream: str, after: int, to: int) -> AsyncIterator[list[StoredMessage]]:
        """The messages of a stream up to a position, in ranges."""
        async with StreamReader(self._connection, stream, from_seq=after + 1, batch=_RANGE) as reader:
            async for batch in reader.batches():
                messages = [message for message in batch.messages if message.seq <= to]
                if messages:
                    yield messages
                if not batch.pending or (batch.messages and batch.messages[-1].seq >= to):
                    return

    async def _compare_range(
        self, table: Table, stream: str, low: int, high: int, expected: list[Row]
    ) -> None:
        where, params = "seq BETWEEN ? AND ?", [low, high]
        if table.name == LETTERS:
            where, params = f"{where} AND stream = ?", [low, high, stream]  # type: ignore[list-item]
        try:
            found = (await self._ask(f"{table.select} WHERE {where} ORDER BY seq", params)).rows
        except QueryError as error:
            if error.reason not in _TOO_LARGE:
                raise
            if low == high:
                log.info("%s %d is too large to be fetched: %s", table.name, low, error)
                self.report.unverified += 1
                return
            middle = (low + high) // 2
            await self._compare_range(
                table, stream, low, middle, [row for row in expected if row[0] <= middle]
            )
            await self._compare_range(
                table, stream, middle + 1, high, [row for row in expected if row[0] > middle]
            )
            return
        self._count(table, len(found))
        self._note(differences(table, expected, found))

    async def _compare_extra(self) -> None:
        """Rows of sequences that the tables themselves do not claim to hold."""
        for name in (EVENTS, LOGS, COMMANDS):
            stream = self._names.commands if name == COMMANDS else self._names.events
            position = "SELECT last_seq FROM cas_projection WHERE stream = ?"
            sql = f"SELECT seq FROM {name} WHERE seq < 1 OR seq > ({position}) LIMIT {KEPT}"  # noqa: S608 - constants
            for (seq,) in (await self._ask(sql, (stream,))).rows:
                self._note(
                    [Difference(name, str(seq), ROW, "no row", "a row beyond the position of the tables")]
                )

    # --- rows that change --------------------------------------------------------------------------------------------

    async def _compare_all(self, table: Table) -> set[tuple[str, Row]]:
        """Compare a table page by page; the keys of rows that have changed meanwhile."""
        expected = self._expected(table)
        moving: set[tuple[str, Row]] = set()
        seen: set[Row] = set()
        async for rows, as_of in self._pages(table):
            self._count(table, len(rows))
            for row in rows:
                seen.add(row[: table.key])
                moving |= self._compare_row(table, expected.get(row[: table.key]), row, as_of)
        for key in expected.keys() - seen:
            self._note(differences(table, [expected[key]], []))
        return moving

    async def _pages(self, table: Table) -> AsyncIterator[tuple[list[Row], int]]:
        last: Row | None = None
        size = _PAGE
        marks = ", ".join("?" * table.key)
        while True:
            where = f"WHERE ({table.key_columns}) > ({marks}) " if last else ""
            try:
                answer = await self._ask(
                    f"{table.select} {where}ORDER BY {table.key_columns} LIMIT {size}", last or ()
                )
            except QueryError as error:
                if error.reason not in _TOO_LARGE or size == 1:
                    raise
                size = max(1, size // 4)
                continue
            if not answer.rows:
                return
            last = answer.rows[-1][: table.key]
            yield answer.rows, answer.as_of

    async def _compare_again(self, moving: set[tuple[str, Row]]) -> set[tuple[str, Row]]:
        """Compare rows that had changed while the log was read up to where they were."""
        still: set[tuple[str, Row]] = set()
        for name, key in sorted(moving, key=str):
            table = BY_NAME[name]
            where = " AND ".join(f'"{column}" = ?' for column, _ in table.columns[: table.key])
            answer = await self._ask(f"{table.select} WHERE {where}", key)
            for row in answer.rows:
                still |= self._compare_row(table, self._expected_row(table, key), row, answer.as_of)
            if not answer.rows:
                self._note([Difference(name, str(key), ROW, "a row", "no row")])
        return still

    def _compare_row(self, table: Table, expected: Row | None, row: Row, as_of: int) -> set[tuple[str, Row]]:
        """Note how a row differs; its key if that may be because it has changed after what was read."""
        found = list(differences(table, [expected] if expected else [], [row]))
        if not found:
            return set()
        # A row that an event or an execute beyond what was read has changed says nothing yet.
        changed_later = self._at.events < row[table.changed] <= as_of
        executed_later = table.name == TASKS and self._has_moved and not self._knows_execute(row[0])
        if changed_later or executed_later:
            return {(table.name, row[: table.key])}
        if self._may_be_of_what_is_gone(table, expected, row):
            self.report.unverified += 1
            return set()
        self._note(found)
        return set()

    def _may_be_of_what_is_gone(self, table: Table, expected: Row | None, row: Row) -> bool:
        """Whether retention took events that the row may have been made of."""
        begins = self.report.log_begins
        if begins == 1:
            return False
        if expected is None or table.name == AGENTS:  # An agent's row is put together from events of any age.
            return table.name == AGENTS or row[table.changed] < begins
        return table.name == TASKS and not self._fold.knows_whole(row[0])

    # --- what the log says -------------------------------------------------------------------------------------------

    def _expected(self, table: Table) -> dict[Row, Row]:
        fold = self._fold
        keys: Iterable[Row]
        if table.name == TASKS:
            keys = ((task,) for task in fold.tasks)
        else:
            keys = ((agent,) for agent in fold.agents) if table.name == AGENTS else fold.states
        rows = ((key, self._expected_row(table, key)) for key in keys)
        return {key: row for key, row in rows if row is not None}

    def _expected_row(self, table: Table, key: Row) -> Row | None:
        if table.name == TASKS:
            task = self._fold.tasks.get(key[0])
            return task.row(key[0]) if task else None
        if table.name == AGENTS:
            agent = self._fold.agents.get(key[0])
            return agent_row(key[0], agent) if agent else None
        return self._fold.states.get((key[0], key[1]))

    def _knows_execute(self, task_id: str) -> bool:
        task = self._fold.tasks.get(task_id)
        return task is not None and task.command is not None

    # --- the report --------------------------------------------------------------------------------------------------

    def _count(self, table: Table, rows: int) -> None:
        self.report.rows[table.name] = self.report.rows.get(table.name, 0) + rows

    def _note(self, found: Iterable[Difference]) -> None:
        for difference in found:
            self.report.difference_count += 1
            if len(self.report.differences) < KEPT:
                self.report.differences.append(difference)


def agent_row(agent_id: str, agent: Agent) -> Row:
    """As in `cas_agents`."""
    return (
        agent_id, agent.status, agent.version, agent.schema, agent.registered_us, agent.breaker, agent.is_paused,
        agent.last_seq,
    )  # fmt: skip
