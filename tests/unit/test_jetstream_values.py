"""The pure parts of the connection layer: headers, URLs, acks, answers, comparisons."""

from __future__ import annotations

import pytest

from cas_events.errors import (
    InvalidHeaderError,
    NotFoundError,
    RefusedError,
    ServerFeatureError,
    StreamFullError,
    WireError,
    WrongLastSequenceError,
)
from cas_events.jetstream.ack import delivery, nak, term
from cas_events.jetstream.answers import ApiError, decode_ack, refusal, time_ns
from cas_events.jetstream.links import Client, supports_fast_link
from cas_events.jetstream.messages import Message, build_header, header_value, status_code
from cas_events.jetstream.stock_link import header_block, header_pairs
from cas_events.jetstream.topology import check_server, differences, stream_specs
from cas_events.jetstream.urls import credentials, split_servers, without_credentials


def test_header_built_is_read_back() -> None:
    block = build_header({"Nats-Rollup": "sub", "Cas-Submit": "ä b"})
    assert block == "NATS/1.0\r\nNats-Rollup: sub\r\nCas-Submit: ä b\r\n\r\n".encode()
    assert header_value(block, "Cas-Submit") == "ä b"
    assert header_value(block, "cas-submit") is None
    assert header_value(block, "Submit") is None
    assert build_header([("A", "1"), ("A", "2")]).count(b"A: ") == 2


@pytest.mark.parametrize("pair", [("A", "1\r\nB: 2"), ("A\n", "1"), ("A:", "1"), ("", "1"), ("A B", "1")])
def test_header_that_breaks_out_of_its_line_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(InvalidHeaderError):
        build_header([pair])


@pytest.mark.parametrize(
    ("header", "status", "words"),
    [
        (b"NATS/1.0 503\r\n\r\n", 503, ""),
        (b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 5\r\n\r\n", 408, "Request Timeout"),
        (b"NATS/1.0\r\nA: 100\r\n\r\n", 0, ""),
        (b"", 0, ""),
    ],
)
def test_status_line_is_read(header: bytes, status: int, words: str) -> None:
    message = Message("s", "", b"", header)
    assert (message.status, message.description) == (status, words)
    assert status_code(header) == status


def test_stock_header_survives_the_way_through_nats_py() -> None:
    block = build_header({"A": "1", "B": "2"})
    assert header_block(header_pairs(block)) == block
    assert header_pairs(b"") is None
    status = header_block({"Status": "503", "Description": "No Responders", "X": "y"})
    assert Message("s", "", b"", status).status == 503
    assert header_value(status, "X") == "y"


def test_urls_are_shown_without_credentials() -> None:
    url = "nats://user:p%40ss@one:4222, tls://two:4222,token@three:4222"
    assert split_servers(url) == ["nats://user:p%40ss@one:4222", "tls://two:4222", "token@three:4222"]
    assert without_credentials(url) == "nats://one:4222,tls://two:4222,three:4222"
    assert credentials(url) == {"user": "user", "password": "p@ss"}
    assert credentials("tok%2Fen@three:4222") == {"token": "tok/en"}
    assert credentials("nats://one:4222") == {}


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.CAS_COMMANDS.agent-a.2.17.5.1795351362110231261.9",
        "$JS.ACK.hub.ACCHASH.CAS_COMMANDS.agent-a.2.17.5.1795351362110231261.9",
        "$JS.ACK.hub.ACCHASH.CAS_COMMANDS.agent-a.2.17.5.1795351362110231261.9.rAnDoM",
    ],
)
def test_ack_subject_of_both_versions_says_the_same(reply: str) -> None:
    found = delivery(Message("cas.cmd.execute.a.t", reply, b"{}"))
    assert (found.stream, found.consumer, found.delivered, found.seq) == ("CAS_COMMANDS", "agent-a", 2, 17)
    assert (found.time_ns, found.pending, found.reply) == (1795351362110231261, 9, reply)
    assert found.stored().seq == 17


def test_ack_payloads() -> None:
    assert nak() == b"-NAK"
    assert nak(1.5) == b'-NAK {"delay": 1500000000}'
    assert term("bad") == b"+TERM bad"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (10071, WrongLastSequenceError),
        (10164, WrongLastSequenceError),
        (10077, StreamFullError),
        (10047, StreamFullError),
        (10059, NotFoundError),
        (10014, NotFoundError),
        (10052, RefusedError),
    ],
)
def test_server_errors_are_told_apart_by_code(code: int, kind: type[RefusedError]) -> None:
    error = refusal(ApiError(code=400, err_code=code, description="whatever it says"))
    assert type(error) is kind
    assert (error.code, error.err_code, error.description) == (400, code, "whatever it says")


def test_ack_is_an_ack_or_an_error() -> None:
    assert decode_ack(b'{"stream":"S","seq":3,"duplicate":true}').duplicate
    with pytest.raises(WrongLastSequenceError):
        decode_ack(
            b'{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 1"},"stream":"S","seq":0}'
        )
    for foreign in (b"hello", b"[1]", b""):
        with pytest.raises(WireError):
            decode_ack(foreign)
    with pytest.raises(RefusedError):
        decode_ack(b"{}")


def test_time_keeps_its_nanoseconds() -> None:
    assert time_ns("2026-11-22T12:42:42.112150754Z") == 1795351362112150754
    assert time_ns("2026-11-22T12:42:42.1Z") == 1795351362100000000
    assert time_ns("2026-11-22T12:42:42Z") == 1795351362000000000


def test_differences_name_only_what_was_asked_for() -> None:
    wanted = {
        "subjects": ["a", "b"],
        "deny_purge": True,
        "republish": {"src": "a", "dest": "b"},
        "max_age": 0,
    }
    actual = {"subjects": ["b", "a"], "republish": {"src": "a", "dest": "c"}, "extra": 1}
    assert differences(wanted, actual) == ["deny_purge is False, not True", "republish.dest is 'c', not 'b'"]
    assert differences(wanted, {**wanted, "subjects": ["b", "a"]}) == []


def test_stream_names_are_the_deployments() -> None:
    names = [spec.name for spec in stream_specs("my-dep")]
    assert names == [
        f"MY-DEP_{kind}" for kind in ("COMMANDS", "EVENTS", "OUTPUT", "TIMERS", "CHECKPOINTS")
    ] + ["OBJ_MY-DEP_BLOBS"]


@pytest.mark.parametrize("version", ["2.11.9", "1.99.0", "", "v?"])
def test_old_server_is_refused(version: str) -> None:
    with pytest.raises(ServerFeatureError, match=r"2\.12"):
        check_server(version)


def test_new_server_is_taken() -> None:
    for version in ("2.12.0", "2.15.1", "2.15.0-dev", "3.0.0"):
        check_server(version)


def test_unconnected_client_has_no_fast_link() -> None:
    assert not supports_fast_link(Client())
