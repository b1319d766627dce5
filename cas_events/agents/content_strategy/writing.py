"""What a marketer writes without a model: outline, headlines, channels, a draft, and the draft made easier to read.

Pure and extractive: nothing is claimed that the analysed text does not say. The headlines' frames are English; for
another language they are left out and the text's own headings serve.
"""

# ruff: noqa: RUF001 - letters and marks of several languages

from __future__ import annotations

import re

from cas_events.agents.content_strategy.brief import Analysis, Brief, Channel, Chapter, Plan
from cas_events.agents.content_strategy.markdown import count_words, sentences

HEADLINE_CHARS = (20, 75)
DRAFT_SENTENCES = 4
CHAPTERS_MAX = 7

_FRAMES = (
    "{topic}: {keyword} without the guesswork",
    "What {audience} should know about {keyword}",
    "How {topic} deals with {keyword}",
    "{keyword} and {other}: a short guide to {topic}",
    "{topic} in five minutes: {keyword}, {other} and more",
)
_CHANNELS = (
    ("blog", "article of 800 to 1,200 words along the outline", 0),
    ("newsletter", "the draft, and a link to the article", 2),
    ("social media", "one key sentence a post, three posts", 3),
    ("talk or meetup", "the outline as ten slides, one chapter each", 14),
)
# (a joint of a long sentence, what the part before it ends with)
_JOINTS = (
    r"\s*;\s+",
    r"\s+[–—]\s+",
    r":\s+(?=\w+\s+\w+\s+\w+)",
    r",\s+(?:and|but|so|which|while|because|und|aber|mais|pero)\s+",
)
_ASIDE = re.compile(r"\s*\([^()]{3,}\)")
_PLAIN_WORDS = {
    "additionally": "also",
    "approximately": "about",
    "commence": "start",
    "consequently": "so",
    "demonstrate": "show",
    "facilitate": "help",
    "functionality": "features",
    "immediately": "at once",
    "implementation": "code",
    "in order to": "to",
    "methodology": "method",
    "nevertheless": "still",
    "numerous": "many",
    "prior to": "before",
    "requirement": "need",
    "subsequently": "then",
    "sufficient": "enough",
    "utilization": "use",
    "utilize": "use",
}
_HEAVY = re.compile(rf"\b({'|'.join(_PLAIN_WORDS)})(s?)\b", re.IGNORECASE)


def write_plan(analysis: Analysis, brief: Brief) -> Plan:
    """Everything at once, in its first version."""
    headlines = write_headlines(analysis, brief)
    return Plan(
        outline=write_outline(analysis, brief),
        headlines=headlines,
        channels=choose_channels(headlines),
        draft=write_draft(analysis, brief),
    )


def write_outline(analysis: Analysis, brief: Brief) -> tuple[Chapter, ...]:
    """The message, then the text's own larger sections, then what the reader can do."""
    own = [section for section in analysis.sections if section.title and section.title != analysis.title]
    largest = sorted(own, key=lambda section: -section.words)[:CHAPTERS_MAX]
    chapters = [Chapter(title=f"Why {brief.topic}"[:300], points=_points(brief.message, brief.notes))]
    chapters += [
        Chapter(title=section.title[:300], points=_points(section.lead))
        for section in own
        if section in largest
    ]
    examples = [f"{count} × {language}" for language, count in sorted(analysis.code.items())][:3]
    shown = (f"show working examples ({', '.join(examples)})",) if examples else ()
    return (*chapters, Chapter(title="Next step", points=(*shown, f"what {brief.audience} can try today")))


def _points(*texts: str) -> tuple[str, ...]:
    return tuple(text[:300] for text in texts if text)


def write_headlines(analysis: Analysis, brief: Brief) -> tuple[str, ...]:
    """Between three and ten of a readable length, no two alike."""
    candidates: list[str] = []
    if brief.language in {"", "en"}:
        keywords = [*brief.keywords, brief.topic]
        for index, frame in enumerate(_FRAMES):
            keyword, other = keywords[index % len(keywords)], keywords[(index + 1) % len(keywords)]
            candidates.append(
                frame.format(topic=brief.topic, keyword=keyword, other=other, audience=brief.audience)
            )
    candidates += [
        f"{brief.topic}: {section.title}"
        for section in analysis.sections
        if section.title not in {"", brief.topic}
    ]
    candidates += [f"{brief.topic}: {keyword}" for keyword in brief.keywords]
    low, high = HEADLINE_CHARS
    fitting = list(dict.fromkeys(_capital(text) for text in candidates if low <= len(text) <= high))
    spare = [*candidates, brief.message, *(f"{brief.topic[:60]} {number}" for number in (1, 2, 3))]
    fitting = list(dict.fromkeys([*fitting, *(_capital(text)[:high] for text in spare)]))[
        : max(3, len(fitting))
    ]
    return tuple(fitting[:10])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def choose_channels(headlines: tuple[str, ...]) -> tuple[Channel, ...]:
    """Each channel with a headline of its own, as far as they go."""
    return tuple(
        Channel(channel=name, format=form, headline=headlines[index % len(headlines)], day=day)
        for index, (name, form, day) in enumerate(_CHANNELS)
    )


def write_draft(analysis: Analysis, brief: Brief) -> str:
    """The message and the sentences that carry most of the keywords."""
    picked = [text for text in analysis.key_sentences if text != brief.message]
    return " ".join(_ended(text) for text in (brief.message, *picked[: DRAFT_SENTENCES - 1]) if text)[:4_000]


def simplify(text: str, *, words_max: int) -> str:
    """The same text with asides left out, plain words, and sentences cut where they are joined.

    Args:
        text: what to make easier.
        words_max: sentences up to so many words are left as they are.
    """
    text = _HEAVY.sub(_plain, _ASIDE.sub("", text))
    return " ".join(part for sentence in sentences([text]) for part in _cut(sentence, words_max))


def _plain(match: re.Match[str]) -> str:
    word = _PLAIN_WORDS[match[1].lower()]
    return word.capitalize() if match[1][0].isupper() else word


def _cut(sentence: str, words_max: int) -> list[str]:
    """A sentence as one or several, cut at its first joint for as long as it is too long."""
    if count_words(sentence) <= words_max:
        return [sentence]
    for joint in _JOINTS:
        for found in re.finditer(joint, sentence):
            before, after = sentence[: found.start()], sentence[found.end() :]
            if count_words(before) >= 3 and count_words(after) >= 3:
                return [*_cut(_ended(before), words_max), *_cut(_capital(after), words_max)]
    return [sentence]


def _ended(sentence: str) -> str:
    sentence = sentence.rstrip(" ,;:")
    return sentence if sentence.endswith((".", "!", "?", "。", "！", "？", "…")) else f"{sentence}."
