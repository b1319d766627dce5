"""What each command begins with: the settings, the log, and a loop to run in."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from cas_events.cli import logs
from cas_events.settings import Settings

T = TypeVar("T")


def ask(work: Coroutine[Any, Any, T]) -> T:
    """Run a command that asks and prints.

    Ctrl-C cancels ``work``, waits for its end and raises `KeyboardInterrupt`.
    """
    try:
        logs.configure_command(Settings.from_env().log_level)
    except BaseException:
        work.close()
        raise
    return asyncio.run(work)
