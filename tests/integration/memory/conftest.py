"""Fixtures of the tests of long-term memory: a store on the module's server, and more of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cas_events import JetStreamStore
from cas_events.wire.memory import MemorySubjects
from cas_events.wire.subjects import Names
from tests.harness.processes import settings
from tests.harness.server import NatsServer


@pytest.fixture
def open_store(nats_server: NatsServer, deployment: str):
    return lambda **options: JetStreamStore(settings=settings(nats_server.url, deployment), **options)


@pytest.fixture
async def store(open_store) -> AsyncIterator[JetStreamStore]:
    async with open_store() as store:
        yield store


@pytest.fixture
def subjects(deployment: str) -> MemorySubjects:
    return MemorySubjects.of(Names(deployment))
