"""The `analyst` agent: from Markdown to an analysis and the brief that a person is asked to approve.

Reads files in threads, which look after every file whether the task still wants them; writes nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cas_events.agents import model as models
from cas_events.agents.content_strategy import language, markdown
from cas_events.agents.content_strategy.brief import (
    KEYWORDS_MAX,
    PROBLEMS_MAX,
    SECTIONS_MAX,
    Analysis,
    Brief,
    ContentInput,
)
from cas_events.agents.progress import Progress
from cas_events.agents.tree import Tree, list_tree, read_text, resolve_root, shown_path
from cas_events.agents.values import read_input, to_json_value
from cas_events.errors import InvalidCommandError
from cas_events.runner.context import TaskContext

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

SUFFIXES = (".md", ".markdown", ".mdx", ".txt", ".rst")
PROSE_CHARS_MAX = 4_000_000  # of a whole folder; more is counted as skipped
KEY_SENTENCES = 6

_EASY, _HARD = 70.0, 40.0


async def analyst(ctx: TaskContext, input: Mapping[str, Any]) -> dict[str, Any]:
    """Analyse ``{"path": "README.md"}`` or ``{"text": "…"}`` and propose a brief.

    Returns:
        ``analysis`` and ``brief`` as JSON values; the `marketer` agent takes them as they are.

    Raises:
        PathNotFoundError: there is nothing at the path.
        InvalidCommandError: the input has a wrong shape, or there are no words in what it names.
        ToolsMissingError: the extra ``demo`` is not installed.
    """
    request = read_input(ContentInput, input)
    analysis = await analyse(ctx, request, ctx.progress)
    brief = await propose_brief(ctx, request, analysis)
    return {**input, "analysis": to_json_value(analysis), "brief": to_json_value(brief)}


async def analyse(ctx: TaskContext, request: ContentInput, progress: Progress) -> Analysis:
    """What the text is made of, what it is about, how hard it is to read."""
    language.require_tools()
    await progress(0.0, "reading")
    tree, structure = await _read(ctx, request, progress)
    if not structure.words:
        raise InvalidCommandError(f"there are no words to work on in {_what(request, tree)}", field="input")
    ctx.log.info(
        "text read", files=max(1, len(tree.files)), words=structure.words, skipped=dict(tree.skipped)
    )
    await progress(0.6, f"{structure.words} words in {len(structure.sections)} sections")
    analysis = await asyncio.to_thread(_describe, request, tree, structure)
    ctx.log.info(
        "keywords found",
        keywords=list(analysis.keywords),
        language=analysis.readability.language or "unknown",
    )
    await ctx.output({"analysis": to_json_value(analysis)})
    await progress(1.0, f"reading ease {analysis.readability.ease}, {len(analysis.keywords)} keywords")
    return analysis


async def _read(
    ctx: TaskContext, request: ContentInput, progress: Progress
) -> tuple[Tree, markdown.Structure]:
    text = request.text or request.query
    if bool(request.path) == bool(text):
        raise InvalidCommandError('give either "path" or "text"', field="input")
    if text:
        return Tree(root=""), await asyncio.to_thread(markdown.parse, text)
    tree = await _list(request)
    whole, characters = markdown.Structure(), 0
    for number, file in enumerate(tree.files, start=1):
        if characters > PROSE_CHARS_MAX:
            tree.skipped["over_limit"] += len(tree.files) - number + 1
            break
        whole.add(await asyncio.to_thread(_parse_file, file.path))
        characters += file.size_bytes
        await progress(0.6 * number / len(tree.files), f"{number} of {len(tree.files)} files read")
    for problem in tree.problems[:PROBLEMS_MAX]:
        ctx.log.warning("not readable", file=problem.file, problem=problem.problem)
    return tree, whole


async def _list(request: ContentInput) -> Tree:
    """The Markdown files at the path, listed in a thread that ends when the task does."""
    stop = threading.Event()
    try:
        root = await asyncio.to_thread(resolve_root, request.path)
        return await asyncio.to_thread(
            list_tree, root, files_max=request.max_files, stop=stop, suffixes=SUFFIXES
        )
    finally:
        stop.set()


def _parse_file(path: str) -> markdown.Structure:
    return markdown.parse(read_text(path))


def _what(request: ContentInput, tree: Tree) -> str:
    """What had no words, and why, for an error."""
    if not request.path:
        return "the text"
    reasons = [*tree.skipped, *(problem.problem.replace("_", " ") for problem in tree.problems[:3])]
    return f"{shown_path(request.path)!r} ({', '.join(reasons) or f'{len(tree.files)} files'})"


def _describe(request: ContentInput, tree: Tree, structure: markdown.Structure) -> Analysis:
    """Keywords and readability; CPU-bound, so in a thread."""
    text = "\n".join(structure.prose)
    found = language.detect_language(text)
    keywords = language.extract_keywords(text, found, count=KEYWORDS_MAX)
    key_sentences = language.pick_sentences(
        markdown.sentences(structure.prose), keywords, count=KEY_SENTENCES
    )
    return Analysis(
        path=shown_path(request.path),
        files=max(1, len(tree.files)),
        skipped=dict(sorted(tree.skipped.items())),
        problems=tuple(f"{problem.file}: {problem.problem}" for problem in tree.problems[:PROBLEMS_MAX]),
        title=structure.title or _title_of(request, keywords),
        words=structure.words,
        sections=tuple(structure.sections[:SECTIONS_MAX]),
        links=dict(sorted(structure.links.items())),
        code=dict(structure.code.most_common(10)),
        keywords=keywords,
        key_sentences=key_sentences,
        readability=language.measure(text, found),
    )


def _title_of(request: ContentInput, keywords: tuple[str, ...]) -> str:
    """A title for a text without headings."""
    return Path(request.path).stem if request.path else (keywords[0] if keywords else "the text")


async def propose_brief(
    ctx: TaskContext, request: ContentInput, analysis: Analysis, *, model: BaseChatModel | None = None
) -> Brief:
    """The model's brief where there is one, else that of the rules; what the caller fixed stays fixed."""
    offline = brief_from(request, analysis)
    prompt = models.read_prompt(__package__, "analyst")
    facts = {"analysis": to_json_value(analysis), "audience": request.audience}
    proposed = await models.consult(ctx, prompt, Brief, facts, model=model)
    if proposed is None:
        return offline
    fixed = {"language": offline.language, "target_ease": offline.target_ease, "notes": ""}
    audience = request.audience or proposed.audience
    return read_input(Brief, {**to_json_value(proposed), **fixed, "audience": audience})


def brief_from(request: ContentInput, analysis: Analysis) -> Brief:
    """A brief by rules: code blocks speak to developers, the first key sentence is the message."""
    ease = analysis.readability.ease
    tone = "plain and short" if ease is None or ease < _HARD else "warm" if ease > _EASY else "matter-of-fact"
    lead = next((section.lead for section in analysis.sections if section.lead), analysis.title)
    return Brief(
        topic=analysis.title[:300],
        audience=request.audience or ("developers" if sum(analysis.code.values()) else "interested readers"),
        message=(analysis.key_sentences[0] if analysis.key_sentences else lead)[:600],
        tone=tone,
        keywords=tuple(keyword[:300] for keyword in analysis.keywords),
        language=analysis.readability.language,
        target_ease=request.target_ease,
    )
