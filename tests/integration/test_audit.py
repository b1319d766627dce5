"""Tamper evidence from the outside: what is signed, exported and verified, and every way to tamper with it.

Method: a real log, signed in several heads, exported once; Hypothesis then chooses what to change in the bundle and
where, and the fault must name that sequence. Proves issue 5, item 6.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import itertools
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.replay import synthetic
from cas_events.audit.bundle import export
from cas_events.audit.keys import FILE_NAME, SigningKey
from cas_events.audit.report import Report
from cas_events.audit.verify import verify_bundle
from cas_events.audit.writer import HeadWriter, Pace
from cas_events.errors import AuditError, BundleError
from cas_events.jetstream.api import JetStream
from cas_events.jetstream.connection import Connection
from cas_events.jetstream.topology import ensure_streams
from cas_events.wire.audit import decode_head, hash_message
from cas_events.wire.subjects import Names
from tests.harness.cas import Cas
from tests.harness.server import NatsServer
from tests.harness.wait import until_async
from tests.integration.test_projection_process import publish_everything

TIME = "2026-01-01T00:00:00Z"
numbers = itertools.count()


class Place:
    """A deployment whose log is signed."""

    def __init__(self, connection: Connection, deployment: str, home: Path) -> None:
        self.names = Names(deployment)
        self.connection = connection
        self.js = JetStream(connection)
        self.home = home
        self.events = synthetic(self.names)
        self.key = SigningKey.load_or_create(home)

    def writer(self, *, key: SigningKey | None = None, events: int = 20) -> HeadWriter:
        pace = Pace(events=events, interval_s=0.0)
        return HeadWriter(self.connection, self.names, key or self.key, source="cas/projector/p", pace=pace)

    async def grow(self, number: int) -> None:
        await ensure_streams(self.js, self.names.deployment)
        await publish_everything(self.connection, self.names, number, self.events)

    async def export(self, **options: Any) -> Path:
        path = self.home / f"{next(numbers)}.bundle"
        await export(self.connection, self.names, path, time=TIME, **options)
        return path

    async def verify(self, *, key: str = "", **options: Any) -> Report:
        return verify_bundle(await self.export(**options), key=key)


@pytest.fixture
def place(connection: Connection, deployment: str, tmp_path: Path) -> Place:
    return Place(connection, deployment, tmp_path)


@pytest.fixture(scope="module")
def lines(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A bundle: every line of it."""

    async def make() -> Path:
        async with await Connection.open(nats_server.url, name="test") as connection:
            place = Place(connection, "audited", tmp_path_factory.mktemp("audit"))
            for _ in range(2):
                await place.grow(70)
                await place.writer().sign_now()
            return await place.export()

    with gzip.open(asyncio.run(make())) as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundles")


def checked(lines: list[dict[str, Any]], folder: Path, *, key: str = "") -> Report:
    path = folder / "bundle"
    path.write_bytes(gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines), 1))
    return verify_bundle(path, key=key)


def places(lines: list[dict[str, Any]], type_: str) -> list[int]:
    return [at for at, line in enumerate(lines) if line["type"] == type_]


def named(report: Report) -> set[tuple[str, int, int, str]]:
    return {(fault.stream, fault.first, fault.last, fault.kind) for fault in report.faults}


def test_an_untouched_bundle_is_good_and_says_what_is_proved(lines, folder: Path) -> None:
    report = checked(lines, folder)
    assert report.faults == []
    assert report.heads == len(places(lines, "head")) > 4
    events = [line for line in lines if line.get("stream") == "AUDITED_EVENTS"]
    # Only the last head itself has nothing over it.
    assert report.proved["AUDITED_EVENTS"] == (1, events[-2]["seq"])
    assert report.unproved == {"AUDITED_EVENTS": 1, "AUDITED_COMMANDS": 0}


def signed(lines: list[dict[str, Any]]) -> list[int]:
    """Where the messages are that a head covers: all but the last, which is the last head."""
    return places(lines, "message")[:-1]


@given(st.data())
def test_an_altered_message_is_named(lines, folder: Path, data) -> None:
    at = data.draw(st.sampled_from(signed(lines)))
    field = data.draw(st.sampled_from(["payload", "subject", "time_ns", "header"]))
    line = dict(lines[at])
    if field == "time_ns":
        line[field] += data.draw(st.sampled_from([-1, 1]))
    elif field == "subject":
        line[field] += "x"
    else:
        line[field] = base64.b64encode(base64.b64decode(line[field]) + b"x").decode()
    report = checked([*lines[:at], line, *lines[at + 1 :]], folder)
    assert (line["stream"], line["seq"], line["seq"], "altered") in named(report)
    assert {fault.first for fault in report.faults} == {line["seq"]}


@given(st.data())
def test_a_dropped_message_is_named(lines, folder: Path, data) -> None:
    at = data.draw(st.sampled_from(places(lines, "message")))
    line = lines[at]
    end = {"type": "end", "messages": lines[-1]["messages"] - 1}  # Whoever tampers is careful.
    report = checked([*lines[:at], *lines[at + 1 : -1], end], folder)
    assert named(report) == {(line["stream"], line["seq"], line["seq"], "missing")}


def test_messages_in_another_order_are_named(lines, folder: Path) -> None:
    for at in signed(lines)[:-1:3]:
        first, second = lines[at], lines[at + 1]
        report = checked([*lines[:at], second, first, *lines[at + 2 :]], folder)
        if first["stream"] == second["stream"]:
            assert (first["stream"], first["seq"], first["seq"], "reordered") in named(report), at
            assert {fault.first for fault in report.faults} == {first["seq"]}
        else:  # The streams may come in any order.
            assert report.is_good


@given(st.data())
def test_an_inserted_message_is_named(lines, folder: Path, data) -> None:
    at = data.draw(st.sampled_from(signed(lines)))
    forged = {**lines[at], "payload": base64.b64encode(b"forged").decode()}
    stream, seq = forged["stream"], forged["seq"]
    if data.draw(st.booleans()):
        report = checked([*lines[: at + 1], forged, *lines[at + 1 :]], folder)
        assert (stream, seq, seq, "inserted") in named(report)
        return
    # With all that follows in its stream numbered anew.
    shifted = [
        {**line, "seq": line["seq"] + 1} if line.get("stream") == stream else line for line in lines[at:]
    ]
    report = checked([*lines[:at], forged, *shifted], folder)
    assert min(fault.first for fault in report.faults if fault.stream == stream) == seq


@given(st.data())
def test_a_truncated_stream_is_named_even_if_the_first_line_agrees(lines, folder: Path, data) -> None:
    stream = data.draw(st.sampled_from(["AUDITED_EVENTS", "AUDITED_COMMANDS"]))
    last = max(line["seq"] for line in lines if line.get("stream") == stream)
    cut = data.draw(st.integers(1, last - 1))
    kept = [line for line in lines if line.get("stream") != stream or line["seq"] < cut]
    report = checked(kept, folder)
    assert (stream, cut) in {
        (fault.stream, fault.first) for fault in report.faults if fault.kind == "missing"
    }
    start = dict(kept[0])
    start["streams"] = [[name, a, cut - 1 if name == stream else b] for name, a, b in start["streams"]]
    kept[0], kept[-1] = start, {"type": "end", "messages": len(places(kept, "message"))}
    report = checked(kept, folder)
    assert min(fault.first for fault in report.faults if fault.stream == stream) <= cut
    assert any(fault.stream == stream and fault.first <= cut <= fault.last for fault in report.faults)


@given(st.data())
def test_a_head_that_is_altered_or_taken_out_is_named(lines, folder: Path, data) -> None:
    at = data.draw(st.sampled_from(places(lines, "head")))
    line = lines[at]
    kind = data.draw(st.sampled_from(["root", "signature", "previous", "fingerprints", "out"]))
    if kind == "out":
        report = checked([*lines[:at], *lines[at + 1 :]], folder)
        assert ("AUDITED_EVENTS", line["seq"], line["seq"], "head") in named(report)
        return
    event = json.loads(base64.b64decode(line["payload"]))
    head = event["data"]
    if kind == "signature":
        head["signature"] = "00" * 64
    elif kind == "previous":
        head["previous"] = {"seq": 1, "sha256": "00" * 32}
    elif kind == "root":
        head["streams"][1]["root"] = "00" * 32
    else:
        raw = base64.b64decode(head["streams"][1]["fingerprints"])
        head["streams"][1]["fingerprints"] = base64.b64encode(bytes(len(raw))).decode()
    changed = {**line, "payload": base64.b64encode(json.dumps(event).encode()).decode()}
    report = checked([*lines[:at], changed, *lines[at + 1 :]], folder)
    assert ("AUDITED_EVENTS", line["seq"], line["seq"], "head") in named(report)


@given(st.integers(1, 400))
def test_a_file_that_breaks_off_is_no_good_bundle(lines, folder: Path, missing: int) -> None:
    path = folder / "cut"
    whole = gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines), 1)
    path.write_bytes(whole[:-missing])
    with suppress(BundleError):
        assert not verify_bundle(path).is_good


def test_all_signed_anew_with_another_key_needs_the_pin_to_be_seen(lines, folder: Path) -> None:
    assert checked(lines, folder, key=lines[0]["public_keys"][0]).is_good
    report = checked(lines, folder, key="ab" * 32)
    assert "no head of this key" in str(report.faults[0])
    assert report.ignored_heads == len(places(lines, "head"))


def test_a_part_is_proved_from_the_first_head_in_it(lines, folder: Path) -> None:
    seqs = [line["seq"] for line in lines if line.get("stream") == "AUDITED_EVENTS"]
    part = [line for line in lines if line.get("stream") != "AUDITED_EVENTS" or line["seq"] >= 30]
    start = {**part[0], "is_part": True}
    start["streams"] = [[n, 30 if n == "AUDITED_EVENTS" else a, b] for n, a, b in start["streams"]]
    part[0], part[-1] = start, {"type": "end", "messages": len(places(part, "message"))}
    report = checked(part, folder)
    assert report.faults == []
    proved = report.proved["AUDITED_EVENTS"]
    assert proved is not None
    assert 30 < proved[0] < 60
    assert proved[1] == seqs[-2]
    at = next(
        n for n, line in enumerate(part) if (line.get("stream"), line.get("seq")) == ("AUDITED_EVENTS", 80)
    )
    part[at] = {**part[at], "subject": "x"}
    assert named(checked(part, folder)) == {("AUDITED_EVENTS", 80, 80, "altered")}


def test_the_bytes_of_a_leaf_are_as_the_documentation_says() -> None:
    from hashlib import sha256  # noqa: PLC0415

    expected = sha256(
        b"\x00cas-audit-leaf/1\nCAS_EVENTS\n"
        + bytes([0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 1, 0])
        + b"\x00\x00\x00\x01s\x00\x00\x00\x02hh\x00\x00\x00\x03ddd"
    )
    assert hash_message("CAS_EVENTS", 7, "s", 256, b"hh", b"ddd") == expected.digest()


# --- over the live log


async def test_heads_are_made_only_when_something_else_is_new(place: Place) -> None:
    await place.grow(50)
    writer = place.writer()
    assert await writer.sign_now() is not None
    assert await writer.sign_now() is None
    assert await place.writer().sign_now() is None  # Nor by the next process.
    other = place.writer(key=SigningKey.load_or_create(place.home / "other"))
    assert await other.sign_now() is not None  # It has signed nothing yet.
    for _ in range(3):
        assert await writer.sign_now() is None
        assert await other.sign_now() is None


async def test_two_projectors_with_two_keys_make_one_chain_and_are_told_apart(place: Place) -> None:
    other = SigningKey.load_or_create(place.home / "other")
    writers = [place.writer(events=10), place.writer(key=other, events=15)]
    for _ in range(3):
        await place.grow(40)
        await asyncio.gather(*(writer.sign_now() for writer in writers))
    report = await place.verify()
    assert report.faults == []
    assert report.public_keys == sorted([place.key.public_key, other.public_key])
    for key in (place.key, other):
        report = await place.verify(key=key.public_key)
        assert report.faults == []
        assert report.public_keys == [key.public_key]
        assert report.ignored_heads > 0


async def test_a_new_key_signs_the_log_from_its_beginning(place: Place) -> None:
    await place.grow(40)
    await place.writer().sign_now()
    (place.home / FILE_NAME).rename(place.home / "old.pem")
    new = SigningKey.load_or_create(place.home)
    assert new.public_key != place.key.public_key
    await place.grow(10)
    await place.writer(key=new).sign_now()
    report = await place.verify(key=new.public_key)
    assert report.faults == []
    proved = report.proved[place.names.events]
    assert proved is not None
    assert proved[0] == 1


async def test_what_anybody_puts_in_the_heads_place_spoils_neither_signing_nor_the_check(
    place: Place,
) -> None:
    await place.grow(20)
    await place.writer().sign_now()
    head = await place.js.last_message(place.names.events, place.names.audit_head)
    assert head is not None
    event = json.loads(head.data)
    event["data"]["signature"] = "00" * 64
    broken = json.loads(head.data)
    broken["data"]["streams"][1]["fingerprints"] = "no base64"
    key = place.key.public_key
    for payload in (b"junk", json.dumps(event).encode(), json.dumps(broken).encode()):
        await place.js.append(place.names.audit_head, payload)
    # Nothing has signed these yet: what bears the key may be what became of a head, what does not is nobody's.
    for pinned in ("", key):
        report = await place.verify(key=pinned)
        assert {fault.first for fault in report.faults} == {head.seq + 2, head.seq + 3}
        assert report.ignored_heads == 1
    await place.grow(20)
    await place.writer().sign_now()
    for pinned in ("", key):
        report = await place.verify(key=pinned)
        assert report.faults == []
        assert report.ignored_heads == 3
        assert report.heads >= 2
        proved = report.proved[place.names.events]
        assert proved is not None
        assert proved[0] == 1
        assert proved[1] > head.seq + 3


async def test_a_log_written_anew_on_another_server_is_not_the_log(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The same subjects, payloads and heads; one event says something else."""
    await place.grow(40)
    await place.writer().sign_now()
    with gzip.open(await place.export()) as file:
        stored = [line for line in map(json.loads, file) if line["type"] == "message"]
    server = NatsServer(tmp_path_factory.mktemp("other"))
    server.start()
    try:
        async with await Connection.open(server.url, name="test") as connection:
            copy = Place(connection, place.names.deployment, place.home)
            await ensure_streams(copy.js, copy.names.deployment)
            for line in stored:
                payload = base64.b64decode(line["payload"])
                if line["seq"] == 12:
                    payload += b" "
                await copy.js.append(line["subject"], payload)
            report = await copy.verify(key=place.key.public_key)
            assert any(
                fault.stream == place.names.events and fault.first <= 12 <= fault.last
                for fault in report.faults
            )
    finally:
        server.kill()


async def test_a_log_that_ends_before_what_was_signed_is_not_signed_again(place: Place) -> None:
    await place.grow(30)
    await place.writer().sign_now()
    head = await place.js.last_message(place.names.events, place.names.audit_head)
    assert head is not None
    await place.js.delete_stream(place.names.commands)
    await ensure_streams(place.js, place.names.deployment)
    with pytest.raises(AuditError, match="messages are gone"):
        await place.writer().sign_now()


# --- the command line and the process


@pytest.fixture
def cas(nats_url: str, deployment: str, tmp_path: Path) -> Cas:
    return Cas({"CAS_NATS_URL": nats_url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(tmp_path)})


async def test_a_projector_that_is_killed_between_heads_goes_on_from_its_newest(
    place: Place, cas: Cas, tmp_path: Path
) -> None:
    await place.grow(30)

    async def heads() -> list[int]:
        count = (await place.js.direct_batch(place.names.events, place.names.audit_head))[0]
        return [message.seq for message in count]

    seen: list[int] = []
    for _ in range(2):
        with cas.process("projector", "--audit-every", "25", "--audit-within", "0.2") as process:
            wanted = len(seen) + 1
            await until_async(lambda wanted=wanted: _at_least(heads, wanted), timeout_s=20.0)
            await place.grow(7)
            Cas.kill(process.pid)
        seen = await heads()
    await place.writer().sign_now()
    answer = await asyncio.to_thread(cas, "audit", "verify", "--key", place.key.public_key, "--json")
    assert answer.code == 0, answer
    assert set(answer.json["unproved"].values()) <= {0, 1}
    newest = await place.js.last_message(place.names.events, place.names.audit_head)
    assert newest is not None
    assert decode_head(newest.data, "").streams[1].since > 25  # Not from the beginning.


async def _at_least(ask, number: int) -> bool:
    return len(await ask()) >= number


async def test_the_commands_from_key_to_verdict(place: Place, cas: Cas, tmp_path: Path) -> None:
    await place.grow(30)
    await place.writer().sign_now()
    key = (await asyncio.to_thread(cas, "audit", "key")).out.strip()
    assert key == place.key.public_key
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600
    bundle = str(tmp_path / "b")
    answer = await asyncio.to_thread(cas, "audit", "export", bundle, "--json")
    assert (answer.code, answer.json["public_keys"]) == (0, [key])
    assert (await asyncio.to_thread(cas, "audit", "export", bundle)).code == 1  # Never over another.
    offline = Cas({"CAS_NATS_URL": "nats://127.0.0.1:1", "CAS_HOME": str(tmp_path / "nowhere")})
    answer = await asyncio.to_thread(offline, "audit", "verify", bundle)
    assert answer.code == 0
    assert "only as trustworthy as" in answer.err
    assert (await asyncio.to_thread(offline, "audit", "verify", bundle, "--key", "x")).code == 1
    assert (await asyncio.to_thread(offline, "audit", "verify", str(tmp_path / "none"))).code == 2
    with gzip.open(bundle) as file:
        text = file.read().replace(b'"time_ns":1', b'"time_ns":2', 1)
    Path(bundle).write_bytes(gzip.compress(text))
    answer = await asyncio.to_thread(offline, "audit", "verify", bundle, "--key", key)
    assert answer.code == 1
    assert f"{place.names.commands} 1 altered" in answer.error


async def test_one_message_is_proved_without_the_rest(place: Place, cas: Cas, tmp_path: Path) -> None:
    for _ in range(2):
        await place.grow(30)
        await place.writer().sign_now()
    last = (await place.js.stream_info(place.names.events)).state.last_seq
    offline = Cas({"CAS_NATS_URL": "nats://127.0.0.1:1", "CAS_HOME": str(tmp_path / "nowhere")})
    for seq, options in ((1, []), (23, []), (last - 2, []), (40, ["--commands"])):
        file = tmp_path / f"{seq}.json"
        answer = await asyncio.to_thread(cas, "audit", "prove", str(seq), str(file), *options)
        assert answer.code == 0, answer
        key = place.key.public_key
        assert (await asyncio.to_thread(offline, "audit", "verify", str(file), "--key", key)).code == 0
        assert (await asyncio.to_thread(offline, "audit", "verify", str(file), "--key", "ab" * 32)).code == 1
        proof = json.loads(file.read_bytes())
        proof["message"]["payload"] = base64.b64encode(b"forged").decode()
        file.write_text(json.dumps(proof))
        answer = await asyncio.to_thread(offline, "audit", "verify", str(file), "--key", key)
        assert answer.code == 1
        assert f" {seq} altered" in answer.error
    answer = await asyncio.to_thread(cas, "audit", "prove", str(last), str(tmp_path / "x"))
    assert "no head is over" in answer.error


def test_without_the_library_there_is_one_clear_line(cas: Cas, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for arguments in (["audit", "key"], ["projector", "--audit-every", "10"]):
        answer = cas(*arguments)
        assert answer.code == 1
        assert "cas-events[audit]" in answer.error
