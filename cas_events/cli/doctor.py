"""`cas doctor`: is this deployment well, and which promises hold on its server?

It asks and changes nothing: no stream, consumer or message is made. Exit code 1 if there is a problem; warnings and
notes do not fail.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rich.text import Text

from cas_events.cli.options import Json
from cas_events.cli.output import console, print_line, say
from cas_events.cli.session import ask
from cas_events.cli.texts import one_line
from cas_events.errors import ProjectionError, ServerNotConfiguredError
from cas_events.settings import Settings

if TYPE_CHECKING:
    from cas_events.cli.checkup.check import Check
    from cas_events.cli.checkup.promises import Standing
    from cas_events.cli.checkup.server import Embedded
    from cas_events.cli.checkup.work import Tables
    from cas_events.jetstream.connection import Connection
    from cas_events.jetstream.diagnosis import Diagnosis

PROBLEM = 1
PROJECTOR_ASK_S = 3.0

_POSITIONS = "SELECT stream, last_seq FROM cas_projection"
# An interrupted task waits for an answer, not for a runner.
_OPEN = """
SELECT agent_id, count(*) FROM cas_tasks WHERE status IN ('queued', 'running', 'retrying') GROUP BY agent_id
"""
_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "bold red"}
_VERDICT_STYLES = {"holds": "green", "holds with a condition": "yellow", "does not hold": "bold red"}
_NAME_WIDTH = 24
_CONSUMER = "consumer "


def doctor(json: Json = False) -> int:
    """Look at the server and the deployment, and say which promises hold on them and which do not.

    Changes nothing. Exit code 1 if there is a problem; warnings (something to know or to mend in time) and notes do
    not fail.
    """
    return ask(_doctor(json=json))


async def _doctor(*, json: bool) -> int:
    from cas_events.cli.checkup.promises import standings  # noqa: PLC0415 - see the package's docstring
    from cas_events.cli.checkup.server import server_checks  # noqa: PLC0415
    from cas_events.cli.checkup.streams import stream_checks  # noqa: PLC0415
    from cas_events.cli.checkup.work import work_checks  # noqa: PLC0415
    from cas_events.jetstream.connection import Connection  # noqa: PLC0415
    from cas_events.jetstream.diagnosis import diagnose  # noqa: PLC0415

    settings = Settings.from_env()
    url = settings.url()
    async with await Connection.open(url, name="cas-doctor") as connection:
        # The tables are asked first: then they cannot seem to be ahead of the log.
        tables = await _tables(connection, settings)
        found = await diagnose(connection, settings.deployment)
    checks = [
        *server_checks(found, _embedded(settings, url)),
        *stream_checks(found),
        *work_checks(found, tables),
    ]
    promises = list(standings(checks))
    is_fine = all(check.level != "problem" for check in checks)
    if json:
        _print_json(found, checks, promises, is_fine=is_fine)
    else:
        _print_text(found, checks, promises)
    return 0 if is_fine else PROBLEM


# --- what only this side knows


async def _tables(connection: Connection, settings: Settings) -> Tables:
    """What the projector says, if one answers."""
    from cas_events import sql_client as projector  # noqa: PLC0415
    from cas_events.cli.checkup.work import Tables  # noqa: PLC0415 - as above
    from cas_events.errors import NoRespondersError  # noqa: PLC0415

    async def rows(sql: str) -> list[tuple[Any, ...]]:
        answer = await projector.query(connection, settings.deployment, sql, timeout_s=PROJECTOR_ASK_S)
        return answer.rows

    try:
        return Tables(positions=dict(await rows(_POSITIONS)), open=dict(await rows(_OPEN)))
    except ProjectionError as error:
        is_absent = isinstance(error.__cause__, NoRespondersError)
        return Tables(error="" if is_absent else str(error))


def _embedded(settings: Settings, url: str) -> Embedded | None:
    """What the folder of the embedded server says, if it is the one that we are connected to."""
    from cas_events.cli.checkup.server import Embedded  # noqa: PLC0415 - as above

    try:
        if replace(settings, nats_url="").url() != url:
            return None
    except ServerNotConfiguredError:
        return None
    store_dir = settings.home / "nats"
    try:
        config = (store_dir / "server" / "nats-server.conf").read_text()
        disk = shutil.disk_usage(store_dir)
    except OSError:
        return None
    interval = re.search(r'sync_interval: "?(\w+)"?', config)
    return Embedded(
        store_dir=store_dir,
        sync_interval=interval[1] if interval else "",
        free_bytes=disk.free,
        total_bytes=disk.total,
    )


# --- showing it


def _print_json(
    found: Diagnosis, checks: Sequence[Check], promises: Sequence[Standing], *, is_fine: bool
) -> None:
    from cas_events.cli.texts import json_text  # noqa: PLC0415 - only here

    answer = {
        "fine": is_fine,
        "url": found.url,
        "deployment": found.deployment,
        "version": found.version,
        "checks": [asdict(check) for check in checks],
        "promises": [asdict(standing) for standing in promises],
    }
    say(json_text(answer))


def _print_text(found: Diagnosis, checks: Sequence[Check], promises: Sequence[Standing]) -> None:
    target = console()
    print_line(target, Text(f"{found.url}, deployment {found.deployment}", style="bold"))
    area = ""
    for check in _folded(checks):
        if check.area != area:
            area = check.area
            print_line(target, Text(f"\n{area.capitalize()}", style="bold"))
        _print_check(check)
    print_line(target, Text("\nPromises on this server", style="bold"))
    for standing in promises:
        line = Text(f"  {standing.number:>2}  ")
        line.append(f"{standing.verdict:<24}", style=_VERDICT_STYLES[standing.verdict])
        print_line(target, line.append(standing.promise))
        for reason in standing.reasons:
            word = "because" if standing.verdict == "does not hold" else "but"
            print_line(target, Text(f"      {word}: {one_line(reason)}", style="dim"))
    _print_summary(checks)


def _folded(checks: Sequence[Check]) -> Iterator[Check]:
    """The checks, with all consumers that are well in one line: there are two for each agent."""
    well = [check for check in checks if check.level == "ok" and check.name.startswith(_CONSUMER)]
    for check in checks:
        if check not in well:
            yield check
        elif check is well[0]:
            yield replace(check, name="consumers", said=f"{len(well)} are as they should be")


def _print_check(check: Check) -> None:
    line = Text("  ").append(f"{check.level:<9}", style=_STYLES[check.level])
    line.append(f"{one_line(check.name):<{_NAME_WIDTH}} {one_line(check.said)}")
    print_line(console(), line)
    if check.advice:
        print_line(console(), Text(f"{'':11}{'':{_NAME_WIDTH}} → {check.advice}", style="dim"))


def _print_summary(checks: Sequence[Check]) -> None:
    count = {level: sum(check.level == level for check in checks) for level in _STYLES}
    problems, warnings = count["problem"], count["warning"]
    words = f"{problems} problem{'s' * (problems != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    style = _STYLES["problem"] if problems else _STYLES["ok"]
    print_line(console(), Text(f"\n{words}", style=style))
