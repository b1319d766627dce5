"""Markdown as an analyst sees it: sections, links, code, prose. Pure; the parser is markdown-it.

What is no prose does not count as words: code, tables' rules, HTML, addresses, front matter.
"""

# ruff: noqa: RUF001 - letters and marks of several languages

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markdown_it import MarkdownIt
from markdown_it.token import Token

from cas_events.agents.content_strategy.brief import Section

_FRONT_MATTER = re.compile(r"\A---\s*\n.*?\n(?:---|\.\.\.)\s*(?:\n|\Z)", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|(?<=[。！？])|\n+")
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_IDEOGRAPH = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
LEAD_CHARS = 240


@dataclass(slots=True)
class Structure:
    """What one or several documents are made of."""

    sections: list[Section] = field(default_factory=list)
    links: Counter[str] = field(default_factory=Counter)
    code: Counter[str] = field(default_factory=Counter)
    prose: list[str] = field(default_factory=list)

    @property
    def words(self) -> int:
        """Words of prose."""
        return sum(map(count_words, self.prose))

    @property
    def title(self) -> str:
        """The first heading of the highest level; empty without headings."""
        headings = [section for section in self.sections if section.level]
        return min(headings, key=lambda section: section.level).title if headings else ""

    def add(self, other: Structure) -> None:
        """Append another document."""
        self.sections += other.sections
        self.links += other.links
        self.code += other.code
        self.prose += other.prose


def parse(text: str) -> Structure:
    """Take a Markdown document apart."""
    structure = Structure()
    level, title, below = 0, "", list[str]()
    tokens = MarkdownIt("commonmark").enable("table").parse(_FRONT_MATTER.sub("", text, count=1))
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type in {"fence", "code_block"}:
            structure.code[(token.info.split() or ["text"])[0].lower()[:20]] += 1
        elif token.type == "inline" and before is not None and before.type == "heading_open":
            _close(structure, level, title, below)
            level, title, below = int(before.tag[1]), _prose(token, structure)[:LEAD_CHARS], []
        elif token.type == "inline" and (paragraph := _prose(token, structure)):
            structure.prose.append(paragraph)
            if before is not None and before.type == "paragraph_open":  # A table's cells make no sentences.
                below.append(paragraph)
    _close(structure, level, title, below)
    return structure


def _close(structure: Structure, level: int, title: str, below: Sequence[str]) -> None:
    """End a section; text before the first heading is one where there is any."""
    if level or below:
        lead = next(iter(sentences(below)), "")[:LEAD_CHARS]
        words = sum(map(count_words, below))
        structure.sections.append(Section(level=level, title=title, words=words, lead=lead))


def _prose(token: Token, structure: Structure) -> str:
    """The words of an inline token; its links are counted."""
    words: list[str] = []
    for child in token.children or ():
        if child.type in {"text", "code_inline"}:
            words.append(child.content)
        elif child.type in {"softbreak", "hardbreak"}:
            words.append(" ")
        elif child.type == "link_open":
            address = str(child.attrGet("href") or "")
            structure.links["external" if "://" in address else "internal"] += 1
    return " ".join("".join(words).split())


def sentences(paragraphs: Iterable[str]) -> list[str]:
    """The sentences of some paragraphs, in order."""
    parts = (part.strip() for paragraph in paragraphs for part in _SENTENCE_END.split(paragraph))
    return [part for part in parts if part]


def count_words(text: str) -> int:
    """Words, also of a language that writes none apart: there every character counts as one."""
    ideographs = len(_IDEOGRAPH.findall(text))
    return ideographs + len(_WORD.findall(_IDEOGRAPH.sub(" ", text)))
