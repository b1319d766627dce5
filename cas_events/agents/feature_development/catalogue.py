"""What a rule means in Python: a table from sentences to steps, with the readings that a sentence allows.

A step is an expression of the value so far (``{v}``), or a guard that ends the function early. Where a sentence can be
meant in more than one way its readings are listed, the literal one first: which one was meant is for the examples to
say, and for the developer to find out when they fail. Pure; text of a rule enters code only as a literal or as the
name of a parameter or function that was checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

Names = frozenset[str]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do with the value.

    Attributes:
        expression: what becomes of ``{v}``; of a guard, the condition under which it acts.
        then: of a guard, the statement to run.
        imports: modules that the expression needs.
        uses: another function of the specification that it calls.
    """

    expression: str
    then: str = ""
    imports: tuple[str, ...] = ()
    uses: str = ""


Readings = tuple[Step, ...]
_Build = Callable[[re.Match[str], Names], Readings | None]

_QUOTED = r"[\"“'](?P<{}>[^\"”']*)[\"”']"
_X, _Y = _QUOTED.format("x"), _QUOTED.format("y")
_N = r"`?(?P<n>-?\d+(?:\.\d+)?|[a-z_]\w*)`?"


def _simple(*expressions: str, imports: tuple[str, ...] = ()) -> _Build:
    """Readings that need nothing but the value, and the sentence's ``x`` and ``y`` as literals."""

    def build(match: re.Match[str], _names: Names) -> Readings:
        words = {name: repr(text) for name, text in match.groupdict().items() if text is not None}
        # The placeholder of the value survives for later.
        return tuple(
            Step(expression=expression.format(v="{v}", **{"x": "''", "y": "''", **words}), imports=imports)
            for expression in expressions
        )

    return build


def _counted(*expressions: str) -> _Build:
    """Readings with a number, or a parameter that holds one; no reading when it is neither."""

    def build(match: re.Match[str], names: Names) -> Readings | None:
        number = match["n"]
        if not re.match(r"-?\d", number) and number not in names:
            return None
        return tuple(Step(expression=expression.format(v="{v}", n=number)) for expression in expressions)

    return build


def _applied(expression: str) -> _Build:
    def build(match: re.Match[str], names: Names) -> Readings | None:
        name = match["n"]
        step = Step(expression=expression.format(v="{v}", n=name), uses=name)
        return (step,) if f"{name}()" in names else None

    return build


_CONDITIONS = {
    "empty": "not {v}",
    "blank": "not {v}.strip()",
    "negative": "{v} < 0",
    "zero": "{v} == 0",
    "not a text": "not isinstance({v}, str)",
    "not text": "not isinstance({v}, str)",
    "not a string": "not isinstance({v}, str)",
    "not a number": "not isinstance({v}, int | float)",
    "not a list": "not isinstance({v}, list)",
    "none": "{v} is None",
}
_CONDITION = "|".join(map(re.escape, sorted(_CONDITIONS, key=len, reverse=True)))


def _guard(match: re.Match[str], _names: Names) -> Readings:
    condition = _CONDITIONS[match["condition"].lower()]
    if match.groupdict().get("error"):
        then = f"raise {match['error']}({'{v} is ' + match['condition'].lower()!r})"
    else:
        then = f"return {match['value']}"
    return (Step(expression=condition, then=then),)


_SLUG_IMPORT = ("re",)
_TABLE: Sequence[tuple[str, _Build]] = (
    (
        rf"raise (?:an? )?`?(?P<error>[A-Z]\w*Error)`? (?:if|when) (?:it is |the \w+ is )?(?P<condition>{_CONDITION})",
        _guard,
    ),
    (
        rf"return `?(?P<value>-?\d+(?:\.\d+)?|None|True|False|\[\]|\{{\}}|\"\"|'')`? (?:if|when) (?:it is |the \w+ is )?(?P<condition>{_CONDITION})",
        _guard,
    ),
    (r"(?:convert |change |turn )?(?:it )?(?:in)?to lower ?case|lower ?case", _simple("{v}.lower()")),
    (r"(?:convert |change |turn )?(?:it )?(?:in)?to upper ?case|upper ?case", _simple("{v}.upper()")),
    (r"(?:convert |change |turn )?(?:it )?(?:in)?to title ?case|title ?case", _simple("{v}.title()")),
    (rf"(?:strip|trim) {_X}(?: (?:from|at) .*)?", _simple("{v}.strip({x})")),
    (r"(?:strip|trim)(?: (?:white ?space|blanks))?(?: .*)?", _simple("{v}.strip()")),
    (
        rf"replace (?:everything|all|anything) (?:but|except|other than) letters and digits (?:with|by) {_X}",
        _simple(
            "re.sub(r'[^A-Za-z0-9]', {x}, {v})",
            "re.sub(r'[^A-Za-z0-9]+', {x}, {v})",
            r"re.sub(r'[\W_]+', {x}, {v})",
            imports=_SLUG_IMPORT,
        ),
    ),
    (rf"replace {_X} (?:with|by) {_Y}", _simple("{v}.replace({x}, {y})")),
    (rf"remove {_X}", _simple("{v}.replace({x}, '')")),
    (
        r"(?:remove|drop) accents",
        _simple(
            "''.join(c for c in unicodedata.normalize('NFKD', {v}) if not unicodedata.combining(c))",
            imports=("unicodedata",),
        ),
    ),
    (r"(?:remove|drop) digits", _simple(r"re.sub(r'\d', '', {v})", imports=("re",))),
    (r"(?:remove|drop) punctuation", _simple(r"re.sub(r'[^\w\s]', '', {v})", imports=("re",))),
    (r"collapse white ?space", _simple("' '.join({v}.split())")),
    (
        r"split (?:it )?into words",
        _simple("{v}.split(' ')", "{v}.split()", r"re.findall(r'\w+', {v})", imports=("re",)),
    ),
    (r"split (?:it )?into lines", _simple("{v}.splitlines()")),
    (
        rf"split (?:it )?(?:at|on|by) {_X}",
        _simple(
            "{v}.split({x})",
            "[part.strip() for part in {v}.split({x})]",
            "[part.strip() for part in {v}.split({x}) if part.strip()]",
        ),
    ),
    (rf"join (?:them |the \w+ )?(?:with|by) {_X}", _simple("{x}.join({v})")),
    (r"(?:remove|drop) empty (?:items|words|lines|parts)", _simple("[item for item in {v} if item]")),
    (r"(?:remove|drop) duplicates(?: .*)?", _simple("list(dict.fromkeys({v}))")),
    (r"sort (?:it |them |the \w+ )?(?:in )?descending(?: order)?", _simple("sorted({v}, reverse=True)")),
    (r"sort(?: it| them| the \w+)?(?: ascending)?", _simple("sorted({v})")),
    (r"reverse(?: it| them| the \w+)?", _simple("{v}[::-1]")),
    (
        r"take the first letter of each (?:word|item)",
        _simple("[item[0] for item in {v}]", "[item[0] for item in {v} if item]"),
    ),
    (rf"(?:cut (?:it )?to|keep (?:only )?the first) {_N}(?: \w+)?", _counted("{v}[:{n}]")),
    (rf"keep (?:only )?the last {_N}(?: \w+)?", _counted("{v}[-{n}:]")),
    (rf"keep (?:only )?(?:the )?\w+ above {_N}", _counted("[item for item in {v} if item > {n}]")),
    (rf"keep (?:only )?(?:the )?\w+ below {_N}", _counted("[item for item in {v} if item < {n}]")),
    (
        rf"keep (?:only )?(?:the )?\w+ longer than {_N}(?: \w+)?",
        _counted("[item for item in {v} if len(item) > {n}]"),
    ),
    (
        rf"keep (?:only )?(?:the )?\w+ shorter than {_N}(?: \w+)?",
        _counted("[item for item in {v} if len(item) < {n}]"),
    ),
    (r"count (?:each|every) \w+", _simple("dict(Counter({v}))", imports=("collections.Counter",))),
    (r"count the words", _simple("len({v}.split(' '))", "len({v}.split())", "len({v})")),
    (r"count (?:the \w+|them)", _simple("len({v})")),
    (r"(?:add up|sum)(?: the \w+| them)?(?: up)?", _simple("sum({v})")),
    (r"(?:take|compute|calculate|return) the (?:average|mean)(?: of .*)?", _simple("sum({v}) / len({v})")),
    (
        r"(?:take|compute|calculate|return) the median(?: of .*)?",
        _simple("statistics.median({v})", imports=("statistics",)),
    ),
    (r"(?:take|find|return) the (?:largest|maximum)(?: .*)?", _simple("max({v})")),
    (r"(?:take|find|return) the (?:smallest|minimum)(?: .*)?", _simple("min({v})")),
    (rf"round (?:it )?to {_N}(?: (?:decimal )?(?:digits|places))?", _counted("round({v}, {n})")),
    (rf"multiply (?:it )?by {_N}", _counted("{v} * {n}")),
    (rf"divide (?:it )?by {_N}", _counted("{v} / {n}")),
    (rf"add {_N}", _counted("{v} + {n}")),
    (rf"subtract {_N}", _counted("{v} - {n}")),
    (rf"apply {_N} to (?:each|every) \w+", _applied("[{n}(item) for item in {v}]")),
    (rf"apply {_N}", _applied("{n}({v})")),
)
_COMPILED = [(re.compile(pattern, re.IGNORECASE), build) for pattern, build in _TABLE]


def read_rule(rule: str, names: Names) -> Readings:
    """What a rule may mean, the literal reading first; nothing when it is not understood.

    Args:
        rule: the sentence.
        names: what it may speak of: parameters such as ``limit``, functions such as ``slugify()``.
    """
    sentence = rule.strip().rstrip(".").strip()
    for pattern, build in _COMPILED:
        match = pattern.fullmatch(sentence)
        readings = build(match, names) if match else None
        if readings:
            return readings
    return ()
