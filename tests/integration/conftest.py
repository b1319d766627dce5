"""Fixtures of tests that want a client of the test's own deployment, and runners in the test's own loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from cas_events import Client, Runner
from tests.harness import own_runner
from tests.harness.processes import settings


@pytest.fixture
async def cas(nats_server, deployment: str) -> AsyncIterator[Client]:
    async with Client(settings=settings(nats_server.url, deployment)) as client:
        yield client


@pytest.fixture
def make_runner(nats_server, deployment: str):
    def make(**options: Any) -> Runner:
        return own_runner.make_runner(nats_server.url, deployment, **options)

    return make
