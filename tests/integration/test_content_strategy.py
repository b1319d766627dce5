"""The content-strategy graph in process: real files, LangGraph's own checkpointer, a person's answers.

Goal: any Markdown gives a strategy, what is none fails clearly, and the one question is answered in all its ways.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import is_invalid_resume
from langgraph.types import Command

from cas_events.agents.content_strategy.graph import build_content_strategy
from cas_events.errors import InvalidCommandError, PathNotFoundError

HARD = (
    "# Interoperability\n\nNotwithstanding considerable organisational heterogeneity, interoperability necessitates "
    "comprehensive standardisation; consequently, numerous institutions facilitate collaborative methodology, and "
    "subsequently participants demonstrate sufficient understanding (as documented elsewhere) of the implementation.\n"
)
CONFIG: Any = {"configurable": {"thread_id": "1"}}


async def run(request: dict[str, Any]) -> dict[str, Any]:
    return dict(await build_content_strategy().ainvoke({"auto_approve": True, **request}))  # type: ignore[typeddict-item]


class Conversation:
    """A run that is asked and answered."""

    def __init__(self) -> None:
        self.graph = build_content_strategy().copy(update={"checkpointer": InMemorySaver()})

    async def ask(self, request: dict[str, Any]) -> Any:
        [question] = (await self.graph.ainvoke(request, CONFIG))["__interrupt__"]
        return question

    async def answer(self, question: Any, value: Any) -> dict[str, Any]:
        return dict(await self.graph.ainvoke(Command(resume={question.id: value}), CONFIG))


async def test_a_file_becomes_a_strategy(tmp_path: Path) -> None:
    (tmp_path / "bread.md").write_text(
        "# Bread\n\nFlour and water make bread. Wait a day.\n\n## Oven\n\nBake it.\n"
    )
    answer = await run({"path": str(tmp_path / "bread.md")})
    assert answer["analysis"]["title"] == "Bread"
    plan = answer["strategy"]["plan"]
    assert [chapter["title"] for chapter in plan["outline"]] == ["Why Bread", "Oven", "Next step"]
    assert "Flour and water make bread." in plan["draft"]


async def test_a_folder_of_500_files_with_odd_ones_among_them(tmp_path: Path) -> None:
    for number in range(500):
        (tmp_path / f"page{number}.md").write_text(f"# Page {number}\n\nThis is page {number} of the book.\n")
    (tmp_path / "binary.md").write_bytes(b"\0\1\2" * 100)
    (tmp_path / "huge.md").write_text("word " * 400_000)
    (tmp_path / "code.py").write_text("# not read\n")
    answer = await run({"path": str(tmp_path), "max_files": 490})
    assert answer["analysis"]["files"] == 490
    assert answer["analysis"]["skipped"]["over_limit"] == 10
    assert {"binary"} <= set(answer["analysis"]["skipped"])
    assert answer["analysis"]["problems"] == ["huge.md: too_large"]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "no words"),
        (b"\0\1\2\3", "binary"),
        (b"word " * 400_000, "too large"),
        (b"```\ncode\n```\n", "no words"),
    ],
    ids=["empty", "binary", "huge", "only code"],
)
async def test_what_has_no_words_fails_with_the_reason(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "x.md").write_bytes(content)
    with pytest.raises(InvalidCommandError, match=word):
        await run({"path": str(tmp_path / "x.md")})


async def test_a_missing_path_and_a_missing_input_fail_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(PathNotFoundError, match="gone"):
        await run({"path": str(tmp_path / "gone.md")})
    with pytest.raises(InvalidCommandError, match='"path" or "text"'):
        await run({})


@pytest.mark.parametrize(
    "text",
    [
        "No heading, only a few words.",
        "你好世界。这是一个测试。",
        "# Brot\n\nDer Teig muss ruhen, und das ist für die Kruste nicht zu umgehen. Die Hefe ist in dem Mehl.",
        "**bold**",
        "[link](x)",
    ],
)
async def test_any_words_in_any_language_are_enough(text: str) -> None:
    answer = await run({"text": text})
    assert answer["strategy"]["status"] == "planned"


async def test_a_draft_that_is_hard_to_read_is_written_anew_in_bounds() -> None:
    answer = await run({"text": HARD, "max_rounds": 3, "target_ease": 90})
    strategy = answer["strategy"]
    assert 1 <= strategy["rounds"] <= 3
    assert strategy["ease"] == sorted(strategy["ease"])
    assert strategy["ease"][-1] > strategy["ease"][0]
    untouched = await run({"text": HARD, "max_rounds": 0, "target_ease": 90})
    assert untouched["strategy"]["rounds"] == 0


async def test_the_approved_brief_is_planned() -> None:
    run = Conversation()
    question = await run.ask({"text": HARD})
    assert question.value["brief"]["topic"] == "Interoperability"
    assert question.response_schema["required"] == ["approve"]
    answer = await run.answer(question, {"approve": True})
    assert answer["strategy"]["status"] == "planned"


async def test_notes_revise_the_brief() -> None:
    run = Conversation()
    question = await run.ask({"text": HARD})
    answer = await run.answer(question, {"approve": False, "notes": "audience: school classes"})
    assert answer["strategy"]["brief"]["audience"] == "school classes"
    assert answer["strategy"]["plan"]["outline"][-1]["points"] == ["what school classes can try today"]


async def test_a_declined_brief_ends_the_work() -> None:
    run = Conversation()
    question = await run.ask({"text": HARD})
    answer = await run.answer(question, {"approve": False})
    assert answer["strategy"]["status"] == "declined"
    assert answer["strategy"]["plan"] is None


async def test_an_answer_that_is_none_can_be_given_again() -> None:
    run = Conversation()
    question = await run.ask({"text": HARD})
    with pytest.raises(Exception, match="approve") as refused:
        await run.answer(question, {"yes": 1})
    assert is_invalid_resume(refused.value)
    answer = await run.answer(question, {"approve": True})
    assert answer["strategy"]["status"] == "planned"
