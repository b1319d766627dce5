"""Fixtures for everything that needs a real nats-server: one per test module, a deployment per test."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from tests.harness.server import NatsServer


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
