"""Ports for servers that go away and come back on the same one.

Not from the range of which the kernel gives to outgoing connections: while such a server is down, any process could be
given its port, and a client that keeps trying to reach it could even be connected to itself.
"""

from __future__ import annotations

import random
import socket

_RANGE = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that were free a moment ago, all different; drawn at random, so that two callers differ too."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_RANGE, len(_RANGE)):
        if len(found) == count:
            return found
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    raise AssertionError(f"loopback has no {count} free ports from {_RANGE.start} to {_RANGE.stop}")
