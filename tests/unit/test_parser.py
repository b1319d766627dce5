"""The parser against a stream of operations that is cut anywhere: what goes in comes out, once and in order."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_events.errors import WireError
from cas_events.jetstream.messages import Message
from cas_events.jetstream.parser import Parser


class Recorder:
    """A sink and a handler that write down what they get."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []
        self.parser = Parser({b"c1": self.on_message, b"c2": self.on_message}, self)

    def on_message(self, message: Message) -> None:
        self.seen.append(("message", message.subject, message.reply, message.data, message.header))

    def on_ping(self) -> None:
        self.seen.append(("ping",))

    def on_pong(self) -> None:
        self.seen.append(("pong",))

    def on_info(self, line: bytes) -> None:
        self.seen.append(("info", line))

    def on_error(self, text: str) -> None:
        self.seen.append(("error", text))

    def on_foreign(self, sid: bytes, subject: bytes, reply: bytes, data: bytes, header: bytes) -> None:
        self.seen.append(("foreign", sid, subject, reply, data, header))


def encoded(operation: tuple[object, ...]) -> bytes:
    """The bytes of one operation, and what the recorder should see."""
    match operation:
        case ("message", str() as subject, str() as reply, bytes() as data, bytes() as header):
            middle = f"{subject} c1 {reply} ".replace("  ", " ").encode()
            if header:
                return b"HMSG %b%d %d\r\n%b%b\r\n" % (
                    middle,
                    len(header),
                    len(header) + len(data),
                    header,
                    data,
                )
            return b"MSG %b%d\r\n%b\r\n" % (middle, len(data), data)
        case ("foreign", bytes() as sid, bytes() as subject, bytes() as reply, bytes() as data, b""):
            return b"MSG %b %b %b%d\r\n%b\r\n" % (
                subject,
                sid,
                reply + b" " if reply else b"",
                len(data),
                data,
            )
        case ("info", bytes() as line):
            return b"INFO%b\r\n" % line
        case ("error", str() as text):
            return f"-ERR '{text}'\r\n".encode()
        case (str() as word,):
            return word.upper().encode() + b"\r\n"
    raise AssertionError(operation)


names = st.from_regex(r"[A-Za-z0-9_$.-]{1,30}", fullmatch=True)
payloads = st.binary(max_size=200) | st.just(b"\r\nMSG c1 1\r\n") | st.just(b"")
headers = st.just(b"") | st.binary(max_size=40).map(lambda text: b"NATS/1.0\r\nA: " + text + b"\r\n\r\n")
operations = st.one_of(
    st.tuples(st.just("message"), names, names | st.just(""), payloads, headers),
    st.tuples(
        st.just("foreign"),
        st.sampled_from([b"7", b"c9"]),
        names.map(str.encode),
        names.map(str.encode) | st.just(b""),
        payloads,
        st.just(b""),
    ),
    st.sampled_from([("ping",), ("pong",), ("info", b' {"a":1}'), ("error", "permissions violation for x")]),
)


@given(st.lists(operations, max_size=12), st.data())
def test_any_split_of_the_bytes_gives_the_same_operations(
    wanted: list[tuple[object, ...]], data: st.DataObject
) -> None:
    stream = b"".join(encoded(operation) for operation in wanted)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    recorder = Recorder()
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        recorder.parser.feed(stream[start:end])
    assert recorder.seen == wanted


def test_byte_by_byte_gives_the_same_operations() -> None:
    wanted = [
        ("message", "a.b", "", b"", b""),
        ("message", "a.b", "r", b"payload", b"NATS/1.0 503\r\n\r\n"),
        ("message", "a.b", "r", b"", b"NATS/1.0\r\nK: v\r\n\r\n"),
        ("ping",),
    ]
    recorder = Recorder()
    for byte in b"".join(encoded(operation) for operation in wanted):
        recorder.parser.feed(bytes([byte]))
    assert recorder.seen == wanted


def test_large_payload_in_many_chunks_is_joined_once() -> None:
    data = bytes(range(256)) * 40_000
    stream = b"MSG big c1 %d\r\n%b\r\nPONG\r\n" % (len(data), data)
    recorder = Recorder()
    for start in range(0, len(stream), 65_536):
        recorder.parser.feed(stream[start : start + 65_536])
    assert recorder.seen == [("message", "big", "", data, b""), ("pong",)]


def test_raising_handler_costs_its_own_message_only(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()

    def fail(message: Message) -> None:
        raise RuntimeError(message.subject)

    recorder.parser.handlers[b"c2"] = fail
    with caplog.at_level(logging.ERROR):
        recorder.parser.feed(b"MSG bad c2 2\r\nhi\r\nMSG good c1 2\r\nhi\r\n")
    assert recorder.seen == [("message", "good", "", b"hi", b"")]
    assert "b'bad'" in caplog.text


def test_handler_may_drop_itself_while_it_is_called() -> None:
    recorder = Recorder()
    recorder.parser.handlers[b"c2"] = lambda _: recorder.parser.handlers.pop(b"c2")
    recorder.parser.feed(b"MSG a c2 0\r\n\r\nMSG a c2 0\r\n\r\n")
    assert recorder.seen == [("foreign", b"c2", b"a", b"", b"", b"")]


@pytest.mark.parametrize(
    "stream",
    [
        b"HELLO\r\n",
        b"MSG a c1 many\r\n",
        b"MSG\r\n",
        b"HMSG a c1 x 3\r\nabc\r\n",
        b"\r\n",
        b"MSG " + b"x" * (1 << 20) + b"x",
    ],
)
def test_what_is_no_protocol_ends_the_connection(stream: bytes) -> None:
    with pytest.raises(WireError):
        Recorder().parser.feed(stream)
