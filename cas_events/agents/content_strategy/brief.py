"""The JSON-able values that the agents of the workflow exchange and return, all of them bounded.

`ContentInput` is what a task is asked, `Analysis` what the analyst found in the text, `Brief` what a person approves,
`Strategy` what the workflow answers.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

KEYWORDS_MAX = 12
SECTIONS_MAX = 40
PROBLEMS_MAX = 50

Line = Annotated[str, msgspec.Meta(max_length=300)]
ShortText = Annotated[str, msgspec.Meta(max_length=4_000)]


class ContentInput(msgspec.Struct, frozen=True, kw_only=True):
    """What to work on: a path or a text.

    Attributes:
        path: Markdown file, or a folder of them; relative ones are taken from the runner's working directory.
        text: the Markdown itself.
        query: the same; a word that many callers use.
        audience: who it is for; found out where there is none.
        auto_approve: go on without asking a person.
        max_files: files of a folder beyond it are counted, not read.
        max_rounds: how often a draft that is hard to read is written anew.
        target_ease: the reading ease (0 to 100) that a draft should reach.
    """

    path: str = ""
    text: Annotated[str, msgspec.Meta(max_length=1_000_000)] = ""
    query: Annotated[str, msgspec.Meta(max_length=1_000_000)] = ""
    audience: Line = ""
    auto_approve: bool = False
    max_files: Annotated[int, msgspec.Meta(ge=1, le=5_000)] = 500
    max_rounds: Annotated[int, msgspec.Meta(ge=0, le=5)] = 2
    target_ease: Annotated[float, msgspec.Meta(ge=0, le=100)] = 60.0


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A heading and what stands below it, up to the next one.

    Attributes:
        level: 1 to 6; 0 for text before the first heading.
        title: empty at level 0.
        words: of prose, code not counted.
        lead: its first sentence.
    """

    level: int
    title: str
    words: int
    lead: str = ""


class Readability(msgspec.Struct, frozen=True, kw_only=True):
    """How hard a text is to read.

    Attributes:
        language: two letters; empty when it was not recognised.
        ease: Flesch reading ease for that language, about 0 (hard) to 100, odd texts lie outside; None where there is
            no formula.
        sentences: how many there are.
        words_per_sentence: on average.
    """

    language: str
    ease: float | None
    sentences: int
    words_per_sentence: float


class Analysis(msgspec.Struct, frozen=True, kw_only=True):
    """What the analyst found.

    Attributes:
        path: what was read, in printable form; empty for a text in the input.
        files: how many files were read.
        skipped: files that were not, by reason.
        problems: the first of the files that could not be read.
        links: how many, by kind: ``external``, ``internal``.
        code: code blocks by language.
        keywords: the best first.
        key_sentences: those that hold most of the keywords, in the order of the text.
    """

    path: str
    files: int
    skipped: dict[str, int]
    problems: tuple[str, ...]
    title: str
    words: int
    sections: tuple[Section, ...]
    links: dict[str, int]
    code: dict[str, int]
    keywords: tuple[str, ...]
    key_sentences: tuple[str, ...]
    readability: Readability


class Brief(msgspec.Struct, frozen=True, kw_only=True):
    """What the content is to achieve; a person approves it.

    Attributes:
        message: the one sentence that should stay with the reader.
        notes: what the person who approved it added.
    """

    topic: Line
    audience: Line
    message: Annotated[str, msgspec.Meta(max_length=600)]
    tone: Line
    keywords: Annotated[tuple[Line, ...], msgspec.Meta(max_length=KEYWORDS_MAX)]
    language: Annotated[str, msgspec.Meta(max_length=8)] = ""
    target_ease: float = 60.0
    notes: ShortText = ""


class Chapter(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the outline."""

    title: Line
    points: Annotated[tuple[Line, ...], msgspec.Meta(max_length=8)]


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """Where the content goes, in which form, how many days after the start."""

    channel: Line
    format: Line
    headline: Line
    day: Annotated[int, msgspec.Meta(ge=0, le=365)]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The marketer's work: what a model is asked for, too."""

    outline: Annotated[tuple[Chapter, ...], msgspec.Meta(min_length=2, max_length=12)]
    headlines: Annotated[tuple[Line, ...], msgspec.Meta(min_length=3, max_length=12)]
    channels: Annotated[tuple[Channel, ...], msgspec.Meta(min_length=1, max_length=10)]
    draft: Annotated[str, msgspec.Meta(min_length=1, max_length=4_000)]


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A text that is to be read easily."""

    text: Annotated[str, msgspec.Meta(min_length=1, max_length=4_000)]


class Strategy(msgspec.Struct, frozen=True, kw_only=True):
    """The workflow's answer.

    Attributes:
        status: ``declined`` when the brief was, and then there is nothing else.
        rounds: how often the draft was written anew.
        ease: the draft's reading ease after each round, the first version's first.
        by: ``model`` or ``rules``.
    """

    status: Literal["planned", "declined"]
    brief: Brief
    plan: Plan | None = None
    rounds: int = 0
    ease: tuple[float | None, ...] = ()
    by: Literal["model", "rules"] = "rules"
