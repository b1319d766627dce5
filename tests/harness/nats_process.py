"""A real nats-server as an operator starts one: a process with a configuration file, and nothing of ours in between.

For tests of what outsiders see. It listens on a free port of loopback, keeps its store in the folder that it is
given, and ends with the `with` block.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

NATS_SERVER = os.environ.get("CAS_NATS_SERVER") or str(Path(sys.executable).parent / "nats-server")
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0


@contextmanager
def nats_process(
    folder: Path, *, config: str = "", environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Run a server with JetStream; yields its client port.

    Args:
        folder: for its configuration, log and store; may not be used twice.
        config: the configuration; by default JetStream on loopback, a free port, and a store in ``folder``.
        environment: of the process.
    """
    path, log = folder / "server.conf", folder / "server.log"
    path.write_text(config or loopback_config(folder), encoding="utf-8")
    command = [NATS_SERVER, "-c", str(path), "-l", str(log), "--ports_file_dir", str(folder)]
    with subprocess.Popen(command, env=environment) as process:
        try:
            yield _client_port(process, folder)
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)


def loopback_config(folder: Path) -> str:
    """JetStream on loopback and a free port."""
    return f"listen: 127.0.0.1:-1\njetstream {{ store_dir: {json.dumps(str(folder / 'store'))} }}\n"


def _client_port(process: subprocess.Popen[bytes], folder: Path) -> int:
    """The client port, once the server has written its ports file."""
    step_s = 0.02
    for _ in range(int(START_TIMEOUT_S / step_s)):
        for path in folder.glob("*.ports"):
            ports = json.loads(path.read_text() or "{}")
            if ports.get("nats"):
                return int(ports["nats"][0].rpartition(":")[2])
        try:
            code = process.wait(step_s)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"nats-server ended with {code}: {(folder / 'server.log').read_text()}")
    raise AssertionError(f"nats-server wrote no ports file within {START_TIMEOUT_S:g} s")
