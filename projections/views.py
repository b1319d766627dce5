"""The views and macros for common questions: `sql/views.sql`, `sql/log_search.sql` and `sql/tree.sql`.

They hold nothing and are made again whenever the file is opened for writing, so a change to them needs no rebuild.
What is stored names the tables with their schema, because a question may give the plain names another meaning; a
question about the past takes the plain text, which then reads the tables of then.
"""

from __future__ import annotations

import re

from projections.statements import script, statements
from projections.store import Connection

_TABLE = re.compile(r"(?<![\w.])(cas_(?:tasks|agent_events|agent_logs)\b)")


def make_views(connection: Connection) -> None:
    """Make them in a database that has the tables."""
    for name, body in statements("views").items():
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS {_qualified(body)}")
    connection.execute(script("log_search"))
    tree = _qualified(script("tree").replace("?", "of_task"))
    connection.execute(f"CREATE OR REPLACE MACRO cas_workflow_tree(of_task) AS TABLE {tree}")


def views_as_tables() -> str:
    """The views as common table expressions, for a statement whose plain table names mean something else."""
    return ", ".join(f"{name} AS ({body})" for name, body in statements("views").items())


def _qualified(sql: str) -> str:
    return _TABLE.sub(r"main.\1", sql)
