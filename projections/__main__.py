"""`python -m projections`: the projector of the deployment that the environment names."""

from __future__ import annotations

import asyncio
import logging
import sys

from cas_events.errors import CasEventsError
from cas_events.settings import Settings
from projections.process import run


def main() -> int:
    """Run until stopped; 1 after an error, which stands on stderr in one line."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(run(Settings.from_env()))
    except CasEventsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
