"""The SQL of the projection, read from the files beside this module.

A file is either a script (run as a whole) or a set of statements, each under a line ``-- name: <name>``.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

_MARK = "-- name: "


@cache
def script(name: str) -> str:
    """The text of `sql/<name>.sql`."""
    return (files("projections") / "sql" / f"{name}.sql").read_text(encoding="utf-8")


@cache
def statements(name: str) -> dict[str, str]:
    """The named statements of `sql/<name>.sql`, in their order."""
    found: dict[str, str] = {}
    for part in script(name).split(f"\n{_MARK}")[1:]:
        title, _, body = part.partition("\n")
        found[title.strip()] = body.strip().rstrip(";")
    return found
