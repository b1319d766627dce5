"""An agent in a process of its own that logs from everywhere; at the top of a module, where such a process finds it."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import structlog

from cas_events import TaskContext

_log = logging.getLogger("lab.apart")


async def leaker_apart(_ctx: TaskContext, input: dict) -> dict[str, Any]:
    """Fail with what it was given in its words."""
    raise RuntimeError(f"the server refused password={input['password']}")


async def talker_apart(ctx: TaskContext, _input: dict) -> dict[str, Any]:
    """Log through everything there is, also from threads that know of no task."""
    ctx.log.info("from the context")
    _log.debug("too quiet")
    _log.info("from the standard library")
    structlog.get_logger("lab.structlog").info("from structlog", color="red")
    bare = threading.Thread(target=_log.warning, args=("from a bare thread",))
    bare.start()
    await asyncio.to_thread(bare.join)
    return {}
