"""Redaction (issue 6, item 3): no secret passes, nothing else is lost, and the fast way is never wrong.

Secrets are drawn in all their forms and put into anything: the properties are about the whole, not about examples.
"""

from __future__ import annotations

import json
import string
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cas_events.domain.redaction import BUILT_IN, DEFAULT, DEPTH_MAX, Redaction
from cas_events.domain.secret_patterns import is_card_number
from cas_events.wire.redacted import redacted_json

ALNUM = string.ascii_letters + string.digits
WORDS = st.text(string.ascii_lowercase + " .,;()", max_size=30)
# With a digit, which the words around it do not have.
VALUES = st.text(ALNUM + "-_!$%", min_size=12, max_size=40).map("Z9{}".format)


def of(alphabet: str, least: int, most: int) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=least, max_size=most)


def luhn(digits: str) -> str:
    """The digits with the check digit that makes a card number of them."""
    return next(digits + last for last in string.digits if checks(digits + last))


def checks(digits: str) -> bool:
    """Luhn's rule, as the standard's text has it."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


@st.composite
def cards(draw: st.DrawFn) -> str:
    prefix, length = draw(
        st.sampled_from([("4", 16), ("4", 13), ("51", 16), ("2720", 16), ("37", 15), ("6011", 16)])
    )
    rest = length - len(prefix) - 1
    digits = luhn(prefix + draw(of(string.digits, rest, rest)))
    between = draw(st.sampled_from(["", " ", "-"]))
    return between.join(digits[at : at + 4] for at in range(0, length, 4))


@st.composite
def jwts(draw: st.DrawFn) -> str:
    return "eyJ" + ".".join(draw(of(ALNUM + "-_", 8, 20)) for _ in range(3))


@st.composite
def blocks(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["PRIVATE KEY", "RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "USER NKEY SEED"]))
    return f"-----BEGIN {kind}-----\n{draw(of(ALNUM + '+/=', 20, 60))}\n-----END {kind}-----"


KEYS = st.one_of(
    of(ALNUM, 20, 40).map("sk-proj-{}".format),
    of(ALNUM, 36, 36).map("ghp_{}".format),
    of(ALNUM, 40, 40).map("github_pat_{}".format),
    of(string.ascii_uppercase + string.digits, 16, 16).map("AKIA{}".format),
    of(string.digits, 10, 20).map("xoxb-{}".format),
    of(ALNUM, 35, 35).map("AIza{}".format),
    of(ALNUM, 24, 24).map("sk_live_{}".format),
    of(ALNUM, 34, 34).map("hf_{}".format),
)
# Secrets that are known by their form, wherever they stand.
FORMS = st.one_of(KEYS, cards(), jwts(), blocks())
# Texts around a secret: what must not be there any more, and the text.
TOLD = st.one_of(
    FORMS.map(lambda secret: (secret, secret)),
    of(ALNUM + "._~+/-", 24, 40).map("Z9{}".format).map(lambda secret: (secret, f"Bearer {secret}")),
    VALUES.map(lambda secret: (secret, f"Authorization: Basic {secret}")),
    VALUES.map(lambda secret: (secret, f"nats://ada:{secret}@db.example:4222")),
    VALUES.map(lambda secret: (secret, f"https://{secret}@db.example/a?b=c")),
    VALUES.map(lambda secret: (secret, f"password={secret}")),
    VALUES.map(lambda secret: (secret, f"DB_PASSWORD = '{secret} {secret}'")),
    VALUES.map(lambda secret: (secret, json.dumps({"apiKey": secret, "n": 1}))),
    VALUES.map(lambda secret: (secret, repr({"client_secret": secret}))),
    VALUES.map(lambda secret: (secret, f"https://api.example/a?access_token={secret}&n=1")),
)
SECRET_NAMES = st.sampled_from(
    ["password", "Password", "db_password", "apiKey", "X-API-Key", "API_KEY", "clientSecret", "access_token",
     "Authorization", "Set-Cookie", "aws_secret_access_key", "privateKey", "cvv", "user.passwd", "token2"]
)  # fmt: skip
PLAIN_NAMES = st.sampled_from(
    ["source", "tokens", "task_id", "keyword", "author", "n", "prompt_tokens", "passed"]
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-10_000, 10_000), WORDS, TOLD.map(lambda told: told[1])
)
VALUES_OF_JSON = st.recursive(
    SCALARS,
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.dictionaries(st.one_of(PLAIN_NAMES, SECRET_NAMES, WORDS), children, max_size=3),
    ),
    max_leaves=8,
)


@given(before=WORDS, told=TOLD, after=WORDS)
@example(before="", told=("4111 1111 1111 1111", "4111 1111 1111 1111 12/27"), after="")
@example(before="order 12", told=("4111111111111111", "4111111111111111"), after="3 items")
def test_no_secret_passes_in_a_text(before: str, told: tuple[str, str], after: str) -> None:
    secret, text = told
    redacted = DEFAULT.text(f"{before} {text} {after}")
    assert secret not in redacted
    assert "[redacted" in redacted


@given(
    name=SECRET_NAMES,
    secret=st.one_of(VALUES, st.integers(1, 9_999), st.lists(VALUES, min_size=1, max_size=3)),
)
def test_fields_of_a_telling_name_are_masked_however_deep(name: str, secret: Any) -> None:
    value = {"a": [{"b": {name: secret}}, 1]}
    assert DEFAULT.value(value) == {"a": [{"b": {name: "[redacted]"}}, 1]}
    assert value == {"a": [{"b": {name: secret}}, 1]}


@given(value=VALUES_OF_JSON)
def test_twice_is_once(value: Any) -> None:
    once = DEFAULT.value(value)
    assert DEFAULT.value(once) == once


@given(value=VALUES_OF_JSON)
def test_the_fast_way_is_never_wrong(value: Any) -> None:
    encoded = msgspec.json.encode(value)
    assert json.loads(redacted_json(DEFAULT, encoded)) == DEFAULT.value(value)


@given(text=st.text(max_size=200))
def test_any_text_is_redacted_once_and_for_all(text: str) -> None:
    once = DEFAULT.text(text)
    assert DEFAULT.text(once) == once


@given(text=st.text(string.ascii_lowercase + string.digits + " .,-/()_", max_size=80).filter(lambda text: not any(
    word in text for word in ("passw", "passphrase", "passcode", "pwd", "secret", "key", "token", "authorization",
                              "cookie", "credential", "card", "cvv", "cvc", "k-", "k_", "bearer", "hf_", "npm_", "pypi",
                              "lsv2", "gh", "glpat", "xox", "xapp")) and sum(map(str.isdigit, text)) < 13))  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert DEFAULT.text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "task-0123456789012345678901 is done",
        "019a9f1c-8a3e-7c45-9a52-6a1d4f0b2c77",
        "at 1732300000123456789 ns, 2026-11-22 18:41:41",
        "prompt_tokens=1723 key=a keyword: none",
        "see https://example.com/a?b=c and mail ada@example.com",
        "ssh://git@github.com/a/b",
        "4111111111111112 fails its check",
        "the bearer of bad news",
    ],
)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert DEFAULT.text(text) == text


def test_empty_and_boolean_fields_say_nothing() -> None:
    value = {"password": None, "has_token": True, "secret": "", "tokens": 17}
    assert DEFAULT.value(value) == value


@given(digits=of(string.digits, 12, 18))
def test_card_numbers_have_an_issuer_and_a_check_digit(digits: str) -> None:
    number = luhn(digits)
    assert not is_card_number("1" + number[1:])
    if is_card_number(number):
        assert checks(number)
        assert not is_card_number(number[:-1] + str((int(number[-1]) + 1) % 10))


def test_a_number_is_a_card_number_too() -> None:
    assert DEFAULT.value({"paid": [4111111111111111, 4111111111111112]}) == {
        "paid": ["[redacted:card_number]", 4111111111111112]
    }


def test_names_and_patterns_of_ones_own() -> None:
    own = Redaction(names=["customer_email", "straße"], patterns={"badge": r"B-\d+"})
    value = {
        "customerEmail": "a@b",
        "X-Customer-Email": "a@b",
        "email": "a@b",
        "Straße": "x",
        "who": "B-17 and B-18",
    }
    assert own.value(value) == {
        "customerEmail": "[redacted]",
        "X-Customer-Email": "[redacted]",
        "email": "a@b",
        "Straße": "[redacted]",
        "who": "[redacted:badge] and [redacted:badge]",
    }
    assert own.text("customer-email: a@b") == "customer-email: [redacted]"


@given(value=VALUES_OF_JSON)
def test_everything_can_be_switched_off(value: Any) -> None:
    off = Redaction(without=BUILT_IN)
    assert off.value(value) == value
    assert redacted_json(off, msgspec.json.encode(value)) == msgspec.json.encode(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("card_number", "4111 1111 1111 1111"),
        ("api_key", "sk-proj-abcdefghijklmnop1234"),
        ("jwt", "eyJhbGciOi.eyJzdWIiOi.c2ln"),
        ("bearer", "Bearer abcdefgh12345678"),
        ("url_password", "nats://ada:lovelace@db"),
        ("private_key", "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----"),
        ("assignment", "password=hunter2"),
    ],
)
def test_each_pattern_is_switched_off_by_its_name(name: str, text: str) -> None:
    assert DEFAULT.text(text) != text
    assert Redaction(without=[name]).text(text) == text


def test_a_field_is_switched_off_by_its_name() -> None:
    value = {"token": "next", "password": "x"}
    assert Redaction(without=["token"]).value(value) == {"token": "next", "password": "[redacted]"}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"names": ["--"]}, "'--' has no letter or digit"),
        ({"without": ["cards"]}, "'cards' is none of access_key, api_key, assignment"),
        ({"patterns": {"badge": "B-("}}, "pattern 'badge' .* 'B-\\(' is no regular expression"),
        ({"patterns": {"badge": "B*"}}, "matches an empty text"),
        ({"patterns": {"My badge": "B"}}, "'My badge' is no name"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Redaction(**options)


def test_one_string_is_no_list_of_names() -> None:
    with pytest.raises(TypeError, match="give a list of names"):
        Redaction(names="password")


def test_what_is_nested_too_deep_is_masked_unseen() -> None:
    value: Any = "secret"
    for _ in range(DEPTH_MAX + 5):
        value = [value]
    assert "secret" not in json.dumps(DEFAULT.value(value))


# Texts that a careless pattern would take minutes for; nothing here is timed, the test's own bound would end it.
@pytest.mark.parametrize(
    "text",
    [
        "eyJ-" * 16_000,
        "eyJaaaa." * 8_000,
        "-----BEGIN PRIVATE KEY-----" * 2_400,
        "-----BEGIN " + "A " * 32_000,
        "sk-" * 21_000,
        "password=" * 7_000,
        "password='" * 6_500,
        "bearer " * 9_000,
        "a://" * 16_000,
        "nats://a:" * 7_000,
        "1 " * 32_000,
        "4 1-" * 16_000 + "x",
        "4111-1111-1111-1111 " * 3_200,
    ],
)
@pytest.mark.timeout(120)
def test_hostile_texts_take_no_more_than_linear_time(text: str) -> None:
    once = DEFAULT.text(text)
    assert DEFAULT.text(once) == once
