"""Beats: how a runner process says that it lives, and what it does. On core NATS only, never stored.

A runner publishes its beat every `BEAT_S` seconds on ``<deployment>.svc.beat.<runner>`` and answers with it whoever asks
on ``<deployment>.svc.beats``. Who is not heard for three beats is gone.
"""

from __future__ import annotations

import msgspec

from cas_events.errors import WireError

BEAT_S = 1.0
GONE_AFTER_S = 3 * BEAT_S


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """One runner process at one moment.

    Attributes:
        runner: its token, made anew at each start.
        agents: how many tasks of each agent that it serves it runs now.
        places: how many tasks it takes at once.
        free_places: how many more it would take now.
        is_pulling: False once it shuts down.
        host: the machine's name.
        pid: the process there.
        time: by the runner's clock, RFC 3339.
        withdrawn: agents that it has code for and does not offer, because they are deregistered, with how many of their
            tasks it still runs.
    """

    runner: str
    agents: dict[str, int]
    places: int
    free_places: int
    is_pulling: bool
    host: str
    pid: int
    time: str
    withdrawn: dict[str, int] = {}


_decoder = msgspec.json.Decoder(Beat)


def decode_beat(data: bytes) -> Beat:
    """Read a beat.

    Raises:
        WireError: it is none.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"not a beat: {error}") from error
