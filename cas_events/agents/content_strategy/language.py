"""What a text is about and how hard it is to read: keywords by yake, reading ease by textstat.

Both libraries take a while to load, so they are imported where they are used; the callers are in threads. The bounds
are there because both are quadratic in places. textstat's module-level functions share one language between all
threads: an instance of its own is used instead.
"""

# ruff: noqa: RUF001 - letters and marks of several languages

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence

from cas_events.agents.content_strategy.brief import Readability
from cas_events.agents.content_strategy.markdown import count_words, sentences
from cas_events.errors import ToolsMissingError

TEXT_CHARS_MAX = 60_000

# The most frequent words: a text holds many of its own language's and few of any other's.
_FREQUENT = {
    "en": "the of and to in is that it for as with was on be by are this not from or",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als",
    "fr": "de la le et les des en un du une que est pour qui dans par plus pas au sur",
    "es": "de la que el en y a los del se las por un para con no una su al es",
    "it": "di e il la che è per un in una sono del della non con si da le dei nel",
    "nl": "de van het een en in is dat op te zijn met voor niet aan er om ook als dan",
    "pl": "w i na z do się nie jest to że o jak po od za dla przez przy tym co",
    "pt": "de a o que e do da em um para com não uma os no se na por mais as",
    "ru": "и в не на я быть он с что а по это она этот к но они мы весь который",
}
_FREQUENT_WORDS = {language: frozenset(words.split()) for language, words in _FREQUENT.items()}
_WITHOUT_FORMULA = frozenset({"", "pt"})
_WORD = re.compile(r"\w+")


def require_tools() -> None:
    """Make sure that the libraries are there before any work starts.

    Raises:
        ToolsMissingError: at least one is not installed.
    """
    missing = [name for name in ("yake", "textstat") if importlib.util.find_spec(name) is None]
    if missing:
        raise ToolsMissingError(missing, extra="demo")


def detect_language(text: str) -> str:
    """Two letters, or nothing when the text is too short or in a language that is not in the table."""
    words = [word.lower() for word in _WORD.findall(text[:TEXT_CHARS_MAX])]
    hits = {language: sum(word in known for word in words) for language, known in _FREQUENT_WORDS.items()}
    best = max(hits, key=lambda language: hits[language])
    return best if hits[best] >= max(2, len(words) // 20) else ""


def extract_keywords(text: str, language: str, *, count: int) -> tuple[str, ...]:
    """The words and pairs of words that the text is about, the best first; each stem once."""
    from yake import KeywordExtractor  # type: ignore[import-untyped]  # noqa: PLC0415 - see above

    extractor = KeywordExtractor(lan=language or "en", n=2, top=count * 3)
    found = [str(keyword) for keyword, _ in extractor.extract_keywords(text[:TEXT_CHARS_MAX])]
    kept: list[str] = []
    # Pairs first: "NATS server" says more than "server".
    for keyword in sorted(found, key=lambda keyword: " " not in keyword):
        if len(keyword) > 2 and not any(_stems(keyword) <= _stems(other) for other in kept):
            kept.append(keyword)
    return tuple(sorted(kept, key=found.index)[:count])


def _stems(keyword: str) -> set[str]:
    """Its words without the ending of a plural."""
    return {word.removesuffix("s") for word in keyword.lower().split()}


def measure(text: str, language: str) -> Readability:
    """How hard the text is to read."""
    text = text[:TEXT_CHARS_MAX]
    count, words = len(sentences([text])), count_words(text)
    return Readability(
        language=language,
        ease=_ease(text, language) if words else None,
        sentences=count,
        words_per_sentence=round(words / count, 1) if count else 0.0,
    )


def _ease(text: str, language: str) -> float | None:
    from textstat.textstat import textstatistics  # type: ignore[import-untyped]  # noqa: PLC0415 - see above

    if language in _WITHOUT_FORMULA:
        return None
    scale = textstatistics()
    scale.set_lang(language)
    return round(float(scale.flesch_reading_ease(text)), 1)


def pick_sentences(texts: Sequence[str], keywords: Sequence[str], *, count: int) -> tuple[str, ...]:
    """The sentences that hold most of the keywords, early ones before late ones, in the text's order."""
    candidates = [text for text in texts if 5 <= count_words(text) <= 60][:2_000]
    wanted = [keyword.lower() for keyword in keywords]
    rank = {
        index: (-sum(keyword in text.lower() for keyword in wanted), index)
        for index, text in enumerate(candidates)
    }
    best = sorted(sorted(rank, key=lambda index: rank[index])[:count])
    return tuple(candidates[index][:400] for index in best)
