"""The server itself: version, limits, durability, clock, who may reach it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cas_events.cli.checkup.check import Check, Level, ratio_level, size
from cas_events.jetstream.diagnosis import Clock, Diagnosis

AREA = "server"

VERSION_MIN = (2, 12)
PAYLOAD_MIN_BYTES = 1024 * 1024
CLOCK_WARNING_S = 0.5
CLOCK_PROBLEM_S = 5.0  # the default cancel grace: an owner that is this late by our clock is robbed of it
DISK_WARNING_BYTES = 2 * 1024**3
DISK_PROBLEM_BYTES = 256 * 1024**2

# What a server before a version lacks, and what that costs here (release notes of nats-server; ADR-31, 50, 51).
_LACKS = (
    ((2, 10), "compression and consumers with several filters: streams and consumers cannot be made"),
    ((2, 11), "batched direct gets, by which a task's history is read, and pausing of consumers"),
    ((2, 12), "atomic batches (`allow_atomic`) and message schedules, by which a task waits without a place"),
)
_ALWAYS_IS_WHOLE_SINCE = (2, 15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """What is known of an embedded server from its folder.

    Attributes:
        store_dir: its folder.
        sync_interval: of its configuration; empty if that does not say.
        free_bytes: left in the file system of the folder.
        total_bytes: size of that file system.
    """

    store_dir: Path
    sync_interval: str
    free_bytes: int
    total_bytes: int


def version_of(text: str) -> tuple[int, int]:
    """Major and minor version; (0, 0) of anything else."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def server_checks(found: Diagnosis, embedded: Embedded | None) -> Iterator[Check]:
    """Everything about the server."""
    yield _version(found.version)
    yield _jetstream(found)
    yield _payload(found.max_payload_bytes)
    yield _reach(found)
    yield _sync(found, embedded)
    if found.clock is not None:
        yield _clock(found.clock)
    yield from _account(found)
    if embedded is not None:
        yield _disk(embedded)


def _version(text: str) -> Check:
    version = version_of(text)
    if version >= VERSION_MIN:
        return Check(area=AREA, name="version", level="ok", said=f"nats-server {text}")
    lacks = "; ".join(what for since, what in _LACKS if version < since)
    return Check(
        area=AREA,
        name="version",
        level="problem",
        said=f"nats-server {text or 'of unknown version'} lacks {lacks}",
        advice="install nats-server 2.12 or newer",
        breaks=(1, 3, 4, 6),
    )


def _jetstream(found: Diagnosis) -> Check:
    if found.account is None:
        return Check(
            area=AREA,
            name="JetStream",
            level="problem",
            said=f"does not answer: {found.jetstream_error}",
            advice="switch it on for this account (`nats-server -js`), or wait for its leader",
            breaks=(1, 2, 3, 4, 5, 6, 7, 8, 9),
        )
    used = found.account
    return Check(
        area=AREA,
        name="JetStream",
        level="ok",
        said=f"{used.get('streams', 0)} streams and {used.get('consumers', 0)} consumers in this account",
    )


def _payload(limit_bytes: int) -> Check:
    if limit_bytes >= PAYLOAD_MIN_BYTES:
        return Check(area=AREA, name="max_payload", level="ok", said=size(limit_bytes))
    return Check(
        area=AREA,
        name="max_payload",
        level="problem",
        said=f"{size(limit_bytes)}: an event with several members of up to 256 KiB each does not fit",
        advice="set max_payload to 1MB, the server's default, or more",
        breaks=(1, 8),
    )


def _reach(found: Diagnosis) -> Check:
    where = found.host or "an address that it does not tell"
    if is_loopback(found.host):
        return Check(area=AREA, name="reach", level="ok", said=f"listens on {where} only")
    if not found.has_auth:
        return Check(
            area=AREA,
            name="reach",
            level="problem",
            said=f"listens on {where} and asks nobody who they are",
            advice="set a token, users or NKeys, or let it listen on 127.0.0.1",
            breaks=(10,),
        )
    only_clients = {10: "routes, gateways, leaf nodes and the monitoring port are not visible to a client"}
    if not found.has_tls:
        return Check(
            area=AREA,
            name="reach",
            level="warning",
            said=f"listens on {where} with authentication, but does not ask for TLS",
            advice="secrets and inputs travel in the clear; set `tls`, unless the network is your own",
            conditions=only_clients,
        )
    return Check(
        area=AREA,
        name="reach",
        level="ok",
        said=f"listens on {where} with authentication and TLS",
        conditions=only_clients,
    )


def is_loopback(host: str) -> bool:
    """Whether an address of listening is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _sync(found: Diagnosis, embedded: Embedded | None) -> Check:
    name, interval = "sync_interval", embedded.sync_interval if embedded else ""
    if not interval:
        return Check(
            area=AREA,
            name=name,
            level="note",
            said="not visible to a client; nats-server's default is 2 minutes",
            advice="set `sync_interval: always` where a power cut must not take what was acknowledged",
            conditions={1: "a power cut may take what was written since the last sync"},
        )
    if interval != "always":
        return Check(
            area=AREA,
            name=name,
            level="note",
            said=f"{interval}, from the embedded server's configuration",
            advice="`cas up --sync-interval always` waits for the disk before each answer",
            conditions={1: f"a power cut may take what was written in the last {interval}"},
        )
    if version_of(found.version) < _ALWAYS_IS_WHOLE_SINCE:
        return Check(
            area=AREA,
            name=name,
            level="warning",
            said="always, but before 2.15 some writes were acknowledged without it",
            advice="install nats-server 2.15 or newer",
            conditions={1: "a power cut may take what the server did not sync"},
        )
    said = "always: written to the disk before each answer"
    return Check(area=AREA, name=name, level="ok", said=said)


def _clock(clock: Clock) -> Check:
    off_s = max(0.0, abs(clock.ahead_s) - clock.error_s)
    level: Level = "ok"
    if off_s >= CLOCK_WARNING_S:
        level = "problem" if off_s >= CLOCK_PROBLEM_S else "warning"
    ahead = "ahead of" if clock.ahead_s >= 0 else "behind"
    return Check(
        area=AREA,
        name="clock",
        level=level,
        said=f"the server's is {abs(clock.ahead_s) * 1e3:.1f} ms {ahead} this machine's (± {clock.error_s * 1e3:.1f} ms)",
        advice="" if level == "ok" else "let NTP set the clocks of this machine and of the server",
        breaks=(),
        conditions={}
        if level == "ok"
        else {
            4: "delays before a retry are off by that much",
            5: "so is the grace of a cancelled task's owner",
        },
    )


def _account(found: Diagnosis) -> Iterator[Check]:
    """What the account may store: of the account itself, or of each of its tiers."""
    account = found.account or {}
    tiers = account.get("tiers") or {"": account}
    for tier, used in tiers.items():
        limit = int(used.get("limits", {}).get("max_storage", -1))
        name = f"account storage {tier}".rstrip()
        if limit <= 0:
            said = f"{size(used.get('storage', 0))} used, no limit that a client can see"
            yield Check(area=AREA, name=name, level="ok", said=said)
            continue
        ratio = used.get("storage", 0) / limit
        yield storage_check(AREA, name, ratio, f"{size(used['storage'])} of {size(limit)} used")


def storage_check(area: str, name: str, ratio: float, said: str) -> Check:
    """A storage with a limit, by how full it is."""
    level = ratio_level(ratio)
    full = "from 90 % on runners start nothing and store only the lifecycle"
    return Check(
        area=area,
        name=name,
        level=level,
        said=f"{said} ({ratio:.0%})",
        advice="" if level == "ok" else f"raise the limit: {full}",
        conditions={1: f"tasks wait: {full}", 8: "telemetry is dropped and counted"}
        if level == "problem"
        else {},
    )


def _disk(embedded: Embedded) -> Check:
    free = embedded.free_bytes
    level: Level = "ok"
    if free < DISK_WARNING_BYTES:
        level = "problem" if free < DISK_PROBLEM_BYTES else "warning"
    return Check(
        area=AREA,
        name="disk",
        level=level,
        said=f"{size(free)} of {size(embedded.total_bytes)} free where the embedded server stores",
        advice="" if level == "ok" else "make room, or move CAS_HOME: a full disk stops every write",
        conditions={1: "the disk is nearly full"} if level == "problem" else {},
    )
