"""`/metrics`, `/healthz` and `/readyz` of one process, by prometheus-client's own server, in threads of its own.

Without a host it listens on loopback only (promise 10): there is no authentication. A request has `REQUEST_S` to be
read and cannot keep the process alive.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client.exposition import ThreadingWSGIServer

from cas_events.errors import MetricsAddressError
from cas_events.observe.health import Health
from cas_events.settings import MetricsAddress

_log = logging.getLogger(__name__)

REQUEST_S = 5.0
REQUESTS_MAX = 16  # at once; who only connects holds one for `REQUEST_S`
_POLL_S = 0.05
_CLOSE_S = 2.0

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Endpoint:
    """The HTTP server of one process.

    Args:
        address: where it listens; port 0 takes a free one.
        metrics: the application behind `/metrics`.
        health: behind the other two.

    Raises:
        MetricsAddressError: the address is in use, or is none of this machine.
    """

    def __init__(self, address: MetricsAddress, metrics: Application, health: Health) -> None:
        self._metrics = metrics
        self._questions = {"/healthz": health.alive, "/readyz": health.ready}
        server_class = _Server6 if ":" in address.host else _Server
        try:
            self._server: WSGIServer = make_server(
                address.host, address.port, self._answer, server_class, handler_class=_Handler
            )
        except (OSError, OverflowError) as error:
            raise MetricsAddressError(str(address), f"{error}; choose another --metrics-port") from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="cas-metrics", daemon=True
        )
        self._thread.start()
        if not address.is_loopback:
            _log.warning("metrics are served on %s to whoever reaches it, without authentication", address)
        _log.info("metrics on %s", self.url)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._server.server_address[:2]
        shown = f"[{host!s}]" if ":" in str(host) else str(host)
        return f"http://{shown}:{port}"

    async def close(self) -> None:
        """Listen no more. Idempotent."""
        closing = threading.Thread(target=self._close, name="cas-metrics-close", daemon=True)
        closing.start()
        deadline_s = time.monotonic() + _CLOSE_S
        while closing.is_alive() and time.monotonic() < deadline_s:  # noqa: ASYNC110 - a thread tells nobody of its end
            await asyncio.sleep(_POLL_S / 5)

    def _close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = request.get("PATH_INFO", "/")
        if path in self._questions:
            problem = self._questions[path]()
            body = {"status": "failed", "reason": problem} if problem else {"status": "ok"}
            return _say(start_response, "503 Service Unavailable" if problem else "200 OK", body)
        if path in ("/metrics", "/"):
            return self._metrics(request, start_response)
        return _say(start_response, "404 Not Found", {"paths": ["/metrics", *self._questions]})


def _say(start_response: Callable[..., Any], status: str, body: dict[str, Any]) -> Iterable[bytes]:
    payload = json.dumps(body).encode() + b"\n"
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(payload)))]
    start_response(status, [*headers, ("Cache-Control", "no-store")])
    return [payload]


class _Server(ThreadingWSGIServer):
    """Answers so many at once and no more, and says what goes wrong with one of them in the log, not on stderr."""

    request_queue_size = 4 * REQUESTS_MAX

    def __init__(self, *args: Any, **options: Any) -> None:
        self._places = threading.BoundedSemaphore(REQUESTS_MAX)
        super().__init__(*args, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or close the connection at once if there are too many."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, in the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One request failed: whoever asked has gone, for example."""
        del request
        _log.debug("a request from %s failed", client_address, exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    """Logs no requests and waits for none of them for ever."""

    timeout = REQUEST_S

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a scrape is no news."""
