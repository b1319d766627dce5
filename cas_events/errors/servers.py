"""Everything that has to do with the NATS server; told apart by its codes, never by text."""

from __future__ import annotations

from cas_events.errors.root import CasEventsError


class ServerError(CasEventsError):
    """Root of everything that has to do with the NATS server."""


class ServerUnreachableError(ServerError):
    """No NATS server answers at the URL."""

    def __init__(self, url: str, problem: str = "") -> None:
        detail = f" ({problem})" if problem else ""
        super().__init__(
            f"no NATS server answers at {url}{detail}; start one with `cas up`, or set CAS_NATS_URL"
        )
        self.url = url


class ServerNotConfiguredError(ServerError):
    """No URL is set and no embedded server runs."""

    def __init__(self, home: str) -> None:
        super().__init__(
            f"no NATS server is known: CAS_NATS_URL is not set and none runs under {home}; run `cas up`"
        )
        self.home = home


class ServerStartError(ServerError):
    """The embedded server did not come up."""


class StoreLockedError(ServerStartError):
    """Another process runs a server on the store folder."""

    def __init__(self, store_dir: str, pid: int) -> None:
        super().__init__(
            f"a server already runs on {store_dir} (process {pid}); stop it, or choose another folder by CAS_HOME"
        )
        self.store_dir = store_dir
        self.pid = pid


class NotConnectedError(ServerError):
    """The connection is down at this moment; nothing was sent."""


class StreamUnavailableError(NotConnectedError):
    """Nobody took an append or API request: the stream is missing or has no leader now. Surely not stored; retry."""

    def __init__(self, subject: str) -> None:
        super().__init__(
            f"no stream takes {subject} at this moment: it does not exist, or is electing a leader"
        )
        self.subject = subject


class ConnectionLostError(ServerError):
    """The connection went down, or no answer came in time: what was sent may or may not have been stored."""


class NoRespondersError(ServerError):
    """Nobody listens on the subject of a request."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"nobody answers on {subject}")
        self.subject = subject


class RefusedError(ServerError):
    """The server refused an append or an API request.

    Attributes:
        code: JetStream's HTTP-like status, 400 or 503 for example.
        err_code: JetStream's own error code, 10071 for example.
    """

    def __init__(self, description: str, *, code: int, err_code: int) -> None:
        super().__init__(f"{description} (code {code}, err_code {err_code})")
        self.code = code
        self.err_code = err_code
        self.description = description


class WrongLastSequenceError(RefusedError):
    """10071 or 10164: the subject's last sequence is not the expected one, or a write of it is in flight."""


class StreamFullError(RefusedError):
    """A limit is reached: 10077 (messages per subject, messages or bytes of the stream), or one of the account or server."""


class NotFoundError(RefusedError):
    """10059 no such stream, 10014 no such consumer, 10037 no such message."""


class TopologyMismatchError(ServerError):
    """A stream or consumer exists with settings that differ from PROTOCOL section 1."""

    def __init__(self, name: str, differences: list[str]) -> None:
        super().__init__(
            f"{name} exists with other settings: {'; '.join(differences)}; change it by hand or use another deployment"
        )
        self.name = name
        self.differences = differences


class StreamRewoundError(ServerError):
    """A stream ends before a place that was read already: it was restored from an older copy, or made anew."""

    def __init__(self, stream: str, *, last_seq: int, next_seq: int) -> None:
        super().__init__(
            f"stream {stream} ends at {last_seq}, but reading was to go on at {next_seq}: this is another or an older log; "
            f"rebuild what was made from it"
        )
        self.stream = stream
        self.last_seq = last_seq
        self.next_seq = next_seq


class ServerFeatureError(ServerError):
    """The server is too old or lacks JetStream."""
