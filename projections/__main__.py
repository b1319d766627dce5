"""`python -m projections`: the projector of the deployment that the environment names."""

from __future__ import annotations

import asyncio
import sys

from cas_events.errors import CasEventsError
from cas_events.process_log import configure_process
from cas_events.settings import Settings
from projections.process import run


def main() -> int:
    """Run until stopped; 1 after an error, which stands on stderr in one line."""
    try:
        settings = Settings.from_env()
        configure_process(settings.log_level, service="projector")
    except ValueError as error:
        return _fail(error)
    try:
        asyncio.run(run(settings))
    except CasEventsError as error:
        return _fail(error)
    return 0


def _fail(error: Exception) -> int:
    sys.stderr.write(f"error: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
