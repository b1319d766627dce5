"""The pure parts of the content-strategy workflow: Markdown, keywords, readability, writing, revising.

Goal: what the analyst counts is what stands in the text, and what the marketer writes comes from there.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cas_events.agents.content_strategy import language, markdown, writing
from cas_events.agents.content_strategy.analyst import brief_from
from cas_events.agents.content_strategy.brief import (
    Analysis,
    Brief,
    ContentInput,
    Plan,
    Readability,
    Section,
    Strategy,
)
from cas_events.agents.content_strategy.graph import revise
from cas_events.agents.content_strategy.marketer import wants_rewrite
from cas_events.agents.values import read_input, to_json_value

TEXT = """---
title: hidden
---
Before any heading.

# Bread

Flour and *water* make bread. Wait [a day](https://example.org), then see [below](#oven)!

| a | b |
|---|---|
| cell | cell |

```python
print("no prose")
```

## The oven

```
plain
```
"""


def test_a_document_is_taken_apart() -> None:
    structure = markdown.parse(TEXT)
    assert [(section.level, section.title) for section in structure.sections] == [
        (0, ""),
        (1, "Bread"),
        (2, "The oven"),
    ]
    assert structure.title == "Bread"
    assert structure.links == {"external": 1, "internal": 1}
    assert structure.code == {"python": 1, "text": 1}
    assert structure.sections[1].lead == "Flour and water make bread."
    assert structure.sections[1].words == 11
    assert "hidden" not in " ".join(structure.prose)
    assert structure.words == 3 + 11 + 4


@given(st.text(max_size=300))
def test_any_text_is_a_document(text: str) -> None:
    structure = markdown.parse(text)
    assert structure.words >= 0
    assert all(section.level in range(7) for section in structure.sections)


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), ("one two-three", 2), ("don't", 1), ("你好世界", 4), ("...", 0)]
)
def test_words_are_counted(text: str, count: int) -> None:
    assert markdown.count_words(text) == count


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat is on the mat and it is not for sale.", "en"),
        ("Der Hund und die Katze sind nicht auf dem Dach, das ist gut.", "de"),
        ("Le chat est sur la table et il ne veut pas que les souris passent.", "fr"),
        ("你好世界。这是一个测试。", ""),
        ("xyzzy", ""),
        ("", ""),
    ],
)
def test_languages_are_told_apart(text: str, expected: str) -> None:
    assert language.detect_language(text) == expected


def test_keywords_are_plain_strings_and_do_not_repeat_each_other() -> None:
    text = "The NATS server stores events. A NATS server sends events. Servers of NATS store every event."
    found = language.extract_keywords(text, "en", count=5)
    assert found
    assert all(type(keyword) is str for keyword in found)
    assert any("nats" in keyword.lower() for keyword in found)
    assert not {"server", "servers"} <= {keyword.lower() for keyword in found}


@pytest.mark.parametrize("text", ["", "a", "!!!", "你好世界。这是一个测试。"])
def test_hardly_any_text_is_measured_without_an_error(text: str) -> None:
    measured = language.measure(text, language.detect_language(text))
    assert measured.ease is None
    assert language.extract_keywords(text, "", count=3) in [(), ("你好世界。这是一个测试",)]


def test_easy_text_has_the_higher_ease() -> None:
    easy = language.measure("The cat sat. The dog ran. We all had fun.", "en").ease
    hard = language.measure(
        "Notwithstanding considerable organisational heterogeneity, interoperability necessitates standardisation.",
        "en",
    ).ease
    assert easy is not None
    assert hard is not None
    assert easy > hard


def analysis(**changed: object) -> Analysis:
    values = {
        "path": "bread.md",
        "files": 1,
        "skipped": {},
        "problems": (),
        "title": "Bread",
        "words": 100,
        "sections": (
            Section(level=1, title="Bread", words=20, lead="Bread is old."),
            Section(level=2, title="Flour", words=50, lead="Flour is ground grain."),
        ),
        "links": {},
        "code": {},
        "keywords": ("sourdough starter", "flour"),
        "key_sentences": ("Flour and water make bread.", "A sourdough starter needs a week."),
        "readability": Readability(language="en", ease=80.0, sentences=9, words_per_sentence=11.0),
    }
    return Analysis(**{**values, **changed})  # type: ignore[arg-type]


def test_a_brief_follows_from_the_analysis() -> None:
    brief = brief_from(ContentInput(text="x"), analysis())
    assert (brief.topic, brief.audience, brief.tone) == ("Bread", "interested readers", "warm")
    assert brief.message == "Flour and water make bread."
    assert brief_from(ContentInput(text="x"), analysis(code={"python": 2})).audience == "developers"
    assert brief_from(ContentInput(text="x", audience="bakers"), analysis()).audience == "bakers"


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"keywords": (), "key_sentences": (), "sections": ()},
        {"title": "x" * 250, "keywords": ("y" * 250,)},
        {"readability": Readability(language="zh", ease=None, sentences=1, words_per_sentence=1.0)},
    ],
)
def test_a_plan_is_always_a_valid_plan(changed: dict[str, object]) -> None:
    found = analysis(**changed)
    plan = writing.write_plan(found, brief_from(ContentInput(text="x"), found))
    assert read_input(Plan, to_json_value(plan)) == plan
    assert len(set(plan.headlines)) == len(plan.headlines)


def test_a_draft_is_made_easier() -> None:
    hard = (
        "Every task is an event in a log (which is kept on disk), and the runner utilizes the log to go on; "
        "numerous programs facilitate the subsequent analysis of it."
    )
    easy = writing.simplify(hard, words_max=12)
    assert len(markdown.sentences([easy])) > 1
    assert "utilize" not in easy
    assert "(" not in easy
    before, after = language.measure(hard, "en").ease, language.measure(easy, "en").ease
    assert before is not None
    assert after is not None
    assert after > before


@given(st.text(max_size=200), st.integers(3, 20))
def test_simplifying_ends_and_loses_no_sentence(text: str, words_max: int) -> None:
    assert (
        bool(writing.simplify(text, words_max=words_max)) == bool(markdown.sentences([text])) or "(" in text
    )


def strategy(*ease: float | None, target: float = 60.0) -> Strategy:
    found = analysis()
    brief = brief_from(ContentInput(text="x", target_ease=target), found)
    return Strategy(
        status="planned",
        brief=brief,
        plan=writing.write_plan(found, brief),
        rounds=len(ease) - 1,
        ease=ease,
    )


@pytest.mark.parametrize(
    ("ease", "rounds", "expected"),
    [
        ((50.0,), 2, True),
        ((70.0,), 2, False),
        ((None,), 2, False),
        ((50.0, 55.0), 2, True),
        ((50.0, 50.0), 2, False),
        ((50.0, 55.0, 58.0), 2, False),
        ((50.0,), 0, False),
    ],
)
def test_the_loop_goes_on_while_it_helps(ease: tuple[float | None, ...], rounds: int, expected: bool) -> None:
    assert wants_rewrite(strategy(*ease), rounds) is expected


def test_notes_change_what_they_name() -> None:
    brief = Brief(topic="Bread", audience="all", message="m", tone="warm", keywords=("flour",))
    revised = revise(brief, "Audience: bakers\ntone = dry\nno jokes")
    assert (revised.audience, revised.tone, revised.topic) == ("bakers", "dry", "Bread")
    assert revised.notes.endswith("no jokes")
