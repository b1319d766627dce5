"""The tables as of an earlier event, for one question: their plain names show the past.

Common table expressions around the statement take the names; what they show is `sql/as_of.sql`'s. The tables stay
reachable as ``main.cas_tasks`` and so on: these show the present.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cas_events.errors import QueryError
from projections.store import Connection
from projections.views import views_as_tables

TABLES = (
    "cas_tasks", "cas_agents", "cas_agent_logs", "cas_agent_state", "cas_agent_events", "cas_commands",
    "cas_dead_letters", "cas_projection",
)  # fmt: skip

AsOf = int | str | None


def sequence_of(connection: Connection, as_of: int | str, newest: int) -> int:
    """The sequence that an ``as_of`` means.

    Args:
        connection: to the tables.
        as_of: a `CAS_EVENTS` sequence; or a time, meaning the last event that was stored not after it.
        newest: the sequence up to which the tables are.

    Raises:
        QueryError: the tables are not there yet (`ahead`), or it is no time (`bad_request`).
    """
    seq = as_of if isinstance(as_of, int) else _seq_at(connection, _moment(as_of))
    if not 0 <= seq <= newest:
        raise QueryError(
            f"the tables cannot be shown as of {seq}: they are at {newest}; wait for that event, or ask for one up to it",
            reason="ahead",
        )
    return seq


def in_the_past(statement: str, seq: int) -> str:
    """A statement whose plain names of tables and views mean those as of a sequence.

    Args:
        statement: one SELECT, without what ends a statement.
        seq: a whole number.
    """
    tables = ", ".join(f"{table} AS (FROM main.{table}_as_of({int(seq)}))" for table in TABLES)
    return f"WITH {tables}, {views_as_tables()} FROM (\n{statement}\n)"


def _seq_at(connection: Connection, moment: datetime) -> int:
    [(seq,)] = connection.select("SELECT cas_seq_at(?)", (moment.replace(tzinfo=None),), limit=1)[2]
    return int(seq)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise QueryError(
            f"as of {text!r} is neither a sequence nor a time such as 2026-11-22T09:00:00Z",
            reason="bad_request",
        ) from None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
