"""Server URLs: what may be shown of them, and the credentials inside. Pure."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit


def split_servers(url: str) -> list[str]:
    """The URLs of a comma-separated list."""
    return [part.strip() for part in url.split(",") if part.strip()]


def without_credentials(url: str) -> str:
    """The URL, or the list of them, as it may be shown."""
    return ",".join(_shown(server) for server in split_servers(url))


def _shown(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def credentials(url: str) -> dict[str, str]:
    """``user`` and ``password``, or ``token``, of the first URL that has them; empty if none has.

    Handed to the client as options they hold for servers that are found later, too.
    """
    for server in split_servers(url):
        parts = urlsplit(server if "://" in server else f"nats://{server}")
        if parts.username and parts.password is not None:
            return {"user": unquote(parts.username), "password": unquote(parts.password)}
        if parts.username:
            return {"token": unquote(parts.username)}
    return {}
