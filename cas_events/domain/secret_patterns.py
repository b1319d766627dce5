"""What secrets look like in running text: keys, tokens, card numbers, passwords in URLs, and ``name=value`` pairs.

Pure. Each pattern has a name, by which it is switched off and which stands where the secret stood, and hints: literals
of which one is in every text that the pattern can match (lower-cased), so that most texts are never searched. Invariants:
a pattern leaves alone what a pattern has put there, and no pattern takes more than linear time, since the text may be
anybody's. A card number has the digits, the issuer's prefix and the check digit of one (ISO/IEC 7812).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

MASK = "[redacted]"
DIGITS = (
    b"0" * 13
)  # hint: so many digits, once `only_digits` has made them zeros and taken what may stand between
USER_INFO = b"://@"  # hint: both of its halves are there

_ZEROS = bytes.maketrans(b"0123456789", b"0000000000")


def only_digits(text: bytes) -> bytes:
    """The text as the hint `DIGITS` is looked for in it."""
    return text.translate(_ZEROS, b" -")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One kind of secret.

    Attributes:
        name: what it is called.
        search: finds it.
        replace: what stands there instead.
        hints: literals of which every text that it matches has one, lower-cased; empty for "may be anywhere".
    """

    name: str
    search: re.Pattern[str]
    replace: str | Callable[[re.Match[str]], str]
    hints: tuple[bytes, ...]


def mask(name: str) -> str:
    """What stands where a secret of this kind stood."""
    return f"[redacted:{name}]"


# --- keys and tokens that are known by their form ------------------------------------------------------------------------

_RUN = "(?<![A-Za-z0-9_-])"  # where a run of characters of keys begins: each run is looked at once
_KEYS = (
    r"sk-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic and others
    r"gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}",
    r"glpat-[A-Za-z0-9_-]{16,}",
    r"(?:AKIA|ASIA)[A-Z0-9]{16}",
    r"xox[a-z]-[A-Za-z0-9-]{8,}|xapp-[A-Za-z0-9-]{8,}",
    r"AIza[A-Za-z0-9_-]{30,}",
    r"[srp]k_(?:live|test)_[A-Za-z0-9]{8,}",
    r"hf_[A-Za-z0-9]{20,}",
    r"npm_[A-Za-z0-9]{20,}",
    r"pypi-[A-Za-z0-9_-]{40,}",
    r"lsv2_[a-z]{2}_[A-Za-z0-9_]{20,}",
)
_KEY_HINTS = (
    b"sk-",
    b"ghp_",
    b"gho_",
    b"ghu_",
    b"ghs_",
    b"ghr_",
    b"github_pat_",
    b"glpat-",
    b"akia",
    b"asia",
    b"xox",
    b"xapp-",
    b"aiza",
    b"k_live_",
    b"k_test_",
    b"hf_",
    b"npm_",
    b"pypi-",
    b"lsv2_",
)
_BLOCK = "[A-Z0-9 ]{0,40}(?:PRIVATE KEY(?: BLOCK)?|NKEY SEED)-----"
_USER_INFO = re.compile(
    r"(\b[a-z][a-z0-9+.-]{0,20}://[^\s/?#@:\"'<>\[]{0,256}:)[^\s/?\"'<>]{1,256}(?=@)"
    r"|(\b(?:nats|tls|wss?|https?)://)[^\s/?#@:\"'<>]{1,256}(?=@)",
    re.IGNORECASE | re.ASCII,
)

# --- card numbers ----------------------------------------------------------------------------------------------------------

_DIGIT_RUN = re.compile(r"(?<![0-9A-Za-z.])[0-9](?:[ -]?[0-9]){12,}(?!\.?[0-9A-Za-z])")
_DIGIT_GROUP = re.compile(r"[0-9]+")
_ISSUERS = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"  # Visa
    r"|(?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}"  # Mastercard
    r"|3[47][0-9]{13}"  # American Express
    r"|(?:6011|65[0-9]{2}|64[4-9][0-9])[0-9]{12}"  # Discover
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12}"  # JCB
    r"|3(?:0[0-5]|[689][0-9])[0-9]{11}"  # Diners Club
    r"|62[0-9]{14,17}"  # UnionPay
)
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def is_card_number(digits: str) -> bool:
    """Whether digits are an issuer's, of its length, with the right check digit (Luhn)."""
    if not _ISSUERS.fullmatch(digits):
        return False
    reverse = [int(digit) for digit in reversed(digits)]
    return (sum(reverse[::2]) + sum(_DOUBLED[digit] for digit in reverse[1::2])) % 10 == 0


def _without_cards(match: re.Match[str]) -> str:
    """A run of groups of digits, with each card number in it masked: groups before and behind it may be others'."""
    run = match[0]
    groups = list(_DIGIT_GROUP.finditer(run))
    parts, begin, first = [], 0, 0
    while first < len(groups):
        last = _last_group_of_card(groups, first)
        if last is not None:
            parts += [run[begin : groups[first].start()], mask("card_number")]
            begin, first = groups[last].end(), last
        first += 1
    return "".join(parts) + run[begin:]


def _last_group_of_card(groups: list[re.Match[str]], first: int) -> int | None:
    digits, found = "", None
    for place in range(first, len(groups)):
        digits += groups[place][0]
        if len(digits) > 19:
            break
        if is_card_number(digits):
            found = place
    return found


# --- the patterns ----------------------------------------------------------------------------------------------------------

KNOWN_FORMS = (
    Pattern(
        "private_key",
        re.compile(rf"-----BEGIN {_BLOCK}.*?(?:-----END {_BLOCK}|\Z)", re.DOTALL),
        mask("private_key"),
        (b"-----begin",),
    ),
    Pattern(
        "jwt",
        re.compile(rf"{_RUN}eyJ[A-Za-z0-9_-]{{4,}}\.[A-Za-z0-9_-]{{4,}}\.[A-Za-z0-9_-]*"),
        mask("jwt"),
        (b"eyj",),
    ),
    Pattern("api_key", re.compile(f"{_RUN}(?:{'|'.join(_KEYS)})"), mask("api_key"), _KEY_HINTS),
    Pattern(
        "bearer",
        re.compile(
            r"(\bbearer[ \t]{1,3})(?=[A-Za-z0-9._~+/=-]{0,64}[0-9]|[A-Za-z0-9._~+/=-]{24})[A-Za-z0-9._~+/=-]{8,}",
            re.IGNORECASE | re.ASCII,
        ),
        rf"\1{mask('bearer')}",
        (b"bearer",),
    ),
    Pattern(
        "url_password",
        _USER_INFO,
        lambda match: (match[1] or match[2]) + mask("url_password"),
        (USER_INFO,),
    ),
)
CARD_NUMBER = Pattern("card_number", _DIGIT_RUN, _without_cards, (DIGITS,))


def assignment(names: Iterable[str], hints: tuple[bytes, ...]) -> Pattern:
    """``password=…``, ``"api_key": "…"``, ``Authorization: Basic …``: what stands behind a name in running text.

    Args:
        names: each as words with a blank between them; in the text anything or nothing may stand there instead.
        hints: a literal of each name.
    """
    either = "|".join("[-_ ]?".join(map(re.escape, name.split())) for name in names)
    search = re.compile(
        rf"((?:{either})[0-9]{{0,3}}\\?[\"']?[ \t]{{0,3}}(?:=>?|:)[ \t]{{0,3}})(?!\[redacted[\]:])"
        r"([bru]?\\?\"[^\"\n]*\"?|[bru]?\\?'[^'\n]*'?"
        r"|(?:(?:basic|bearer|digest|negotiate|token)[ \t]{1,3})?[^\s\"',;&]+)",
        re.IGNORECASE | re.ASCII,
    )
    return Pattern("assignment", search, _assigned, hints)


def _assigned(match: re.Match[str]) -> str:
    value = match[2].lstrip("bruBRU\\")
    quote = value[:1] if value[:1] in {'"', "'"} else ""
    closing = quote if len(value) > 1 and value.endswith(quote) else ""
    return match[1] + quote + MASK + closing
