"""The embedded server: loopback only, one per store, and never longer than the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cas_events.errors import ServerStartError, StoreLockedError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.server import EmbeddedServer
from tests.harness.pids import gone_within, is_alive

_START_AND_TELL = """
import sys, time
from pathlib import Path
from threading import Thread
from cas_events.server import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
starter = Thread(target=server.start)
starter.start()
starter.join()
print(server.pid, server.url, flush=True)
time.sleep(60)
"""


async def test_started_server_listens_on_loopback_and_has_jetstream(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "store with blanks").start() as server:
        assert server.url.startswith("nats://127.0.0.1:")
        async with await Connection.open(server.url, name="test") as connection:
            info = await JetStream(connection).account_info()
            assert info["streams"] == 0
    assert not server.is_running


async def test_restart_on_the_same_port_keeps_what_was_stored(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path).start()
    port = int(server.url.rpartition(":")[2])
    async with await Connection.open(server.url, name="test") as connection:
        js = JetStream(connection)
        await js.create_stream({"name": "KEPT", "subjects": ["kept"]})
        await js.append("kept", b"1")
    server.kill()
    with EmbeddedServer(tmp_path).start(port=port, sync_interval="always") as server:
        assert server.url.endswith(f":{port}")
        async with await Connection.open(server.url, name="test") as connection:
            assert (await JetStream(connection).stream_info("KEPT")).state.messages == 1


def test_second_server_on_a_store_is_refused_with_the_holders_pid(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path).start(), pytest.raises(StoreLockedError, match=str(os.getpid())) as caught:
        EmbeddedServer(tmp_path).start()
    assert "\n" not in str(caught.value)
    EmbeddedServer(tmp_path).start().stop()


def test_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "a").start() as first:
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(ServerStartError, match="address already in use") as caught:
            EmbeddedServer(tmp_path / "b").start(port=port)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("binary", "words"), [("/nowhere/nats-server", "CAS_NATS_SERVER"), ("/bin/ls", "no nats-server")]
)
def test_unusable_binary_is_named(tmp_path: Path, binary: str, words: str) -> None:
    with pytest.raises(ServerStartError, match=words):
        EmbeddedServer(tmp_path, binary=binary).start()


def test_wrong_sync_interval_is_said_in_the_servers_words(tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match="invalid duration"):
        EmbeddedServer(tmp_path).start(sync_interval="sometimes")


def test_stop_ends_a_frozen_server(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path).start()
    os.kill(server.pid, signal.SIGSTOP)
    server.stop(timeout_s=0.2)
    assert not is_alive(server.pid)
    server.stop()


def test_server_outlives_the_thread_but_not_the_process_that_started_it(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _START_AND_TELL, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid, url = parent.stdout.readline().split()
        assert is_alive(int(pid)), "the thread that started it has ended by now"
        parent.kill()
        assert gone_within(int(pid), 2.0)
    # The store is free again, although its holder never let it go.
    EmbeddedServer(tmp_path).start(port=int(url.rpartition(":")[2])).stop()
