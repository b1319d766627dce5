"""Fixtures for everything that needs a real nats-server: one per test module, a deployment per test."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import hypothesis
import pytest

from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from tests.harness.patience import IS_TORTURE, count
from tests.harness.server import NatsServer

# What hangs ends after this; every wait inside a test is shorter, and says what it waited for.
HANGS_S = count(600, 1800)

# The short form asks the same examples every time, and of no example that it be fast.
hypothesis.settings.register_profile(
    "patient",
    deadline=None,
    derandomize=not IS_TORTURE,
    max_examples=count(60, 300),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bound every test that names no bound of its own."""
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(HANGS_S))


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """The module's server; a test may crash it if it brings it back."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def nats_url(nats_server: NatsServer) -> str:
    return nats_server.url


@pytest.fixture
def deployment() -> str:
    """A deployment name of the test's own: its subjects and streams touch nobody else's."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def connection(nats_url: str) -> AsyncIterator[Connection]:
    async with await Connection.open(nats_url, name="test") as connection:
        yield connection


@pytest.fixture
def js(connection: Connection) -> JetStream:
    return JetStream(connection)
