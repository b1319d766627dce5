"""The sample agents with a chat model: fakes of LangChain in process, and a provider on loopback for a real runner.

Goal: a model's answer is used when it validates and left alone when not; a key is nowhere; a cancel closes the request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from cas_events import Client, current_task
from cas_events.agents import model as models
from cas_events.agents.content_strategy.graph import build_content_strategy
from cas_events.agents.feature_development.graph import build_feature_development
from cas_events.agents.security_audit.graph import build_security_audit
from cas_events.errors import InvalidCommandError, ModelFailedError, ModelRefusedError
from cas_events.jetstream.api import JetStream
from cas_events.wire.subjects import Names
from tests.harness.chat_stub import Answer, ChatStub
from tests.harness.processes import Process, until_served
from tests.harness.wait import until

KEY = "sk-" + "verysecretkey"
TEXT = "# Bread\n\nFlour and water make bread. Wait a day.\n"

BRIEF = {"topic": "Sourdough", "audience": "bakers", "message": "Wait.", "tone": "dry", "keywords": ["dough"]}
PLAN = {
    "outline": [{"title": "Start", "points": []}, {"title": "End", "points": ["Bake."]}],
    "headlines": ["One", "Two", "Three"],
    "channels": [{"channel": "blog", "format": "post", "headline": "One", "day": 0}],
    "draft": "We bake. It is good. You can do it too.",
}


class Thing(msgspec.Struct, frozen=True):
    """An answer of the tests."""

    name: str


def fake(*answers: Any) -> GenericFakeChatModel:
    texts = [answer if isinstance(answer, str) else json.dumps(answer) for answer in answers]
    return GenericFakeChatModel(messages=iter([AIMessage(text) for text in texts]))


@pytest.fixture(autouse=True)
def _no_model_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAS_MODEL", raising=False)


async def ask(answer: Any, **options: Any) -> Thing | None:
    return await models.consult(current_task(), "Name it.", Thing, {}, model=fake(answer), **options)


@pytest.mark.parametrize(
    "answer",
    ['{"name": "x"}', '```json\n{"name": "x"}\n```', 'Here you are: {"name": "x"} Is that so?'],
    ids=["plain", "fenced", "in words"],
)
async def test_an_answer_that_fits_is_used(answer: str) -> None:
    assert await ask(answer) == Thing("x")


@pytest.mark.parametrize("answer", ["", "I cannot.", '{"name": 1}', '{"nam', '{"name": "x"', "x" * 300_000])
async def test_an_answer_that_does_not_fit_is_left_alone(
    answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await ask(answer or " ") is None
    assert "of no use" in caplog.text
    assert "I cannot" not in caplog.text


async def test_without_a_model_there_is_no_answer() -> None:
    assert await models.consult(current_task(), "Name it.", Thing, {}) is None


@pytest.mark.parametrize("name", ["gpt", "openai:", ":x", "nobody:x"])
async def test_a_model_that_cannot_be_is_a_clear_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAS_MODEL", name)
    with pytest.raises(InvalidCommandError, match="CAS_MODEL"):
        await models.consult(current_task(), "Name it.", Thing, {})


async def test_content_is_planned_by_the_model_where_its_answer_fits() -> None:
    graph = build_content_strategy(fake(BRIEF, PLAN))
    answer = await graph.ainvoke({"text": TEXT, "auto_approve": True})
    assert answer["strategy"]["brief"]["topic"] == "Sourdough"
    assert answer["strategy"]["by"] == "model"
    graph = build_content_strategy(fake({"topic": 1}, {"outline": []}))
    answer = await graph.ainvoke({"text": TEXT, "auto_approve": True})
    assert answer["strategy"]["brief"]["topic"] == "Bread"
    assert answer["strategy"]["by"] == "rules"


PROSE = "I would like a function that doubles a number, please."
SPEC = {
    "title": "Doubling",
    "module": "doubling",
    "functions": [
        {
            "name": "double",
            "signature": "double(number: int) -> int",
            "rules": ["Twice the number."],
            "examples": [{"call": "double(2)", "gives": "4"}],
        }
    ],
}
WRONG = '"""Doubling."""\n\n\ndef double(number: int) -> int:\n    """Double it."""\n    return number + 1\n'
RIGHT = WRONG.replace("number + 1", "number * 2")


async def test_free_prose_becomes_code_and_findings_go_back_to_the_model() -> None:
    model = fake(SPEC, {"source": WRONG}, {"source": RIGHT}, {"comments": ["What of 0?"]})
    answer = await build_feature_development(model).ainvoke({"text": PROSE})
    assert answer["verdict"]["accepted"] is True
    assert answer["verdict"]["comments"] == ["What of 0?"]
    assert answer["rounds"] == 1
    assert "number * 2" in answer["files"]["doubling.py"]


async def test_source_that_reaches_outside_is_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    evil = f"open({str(trap)!r}, 'w')\n{RIGHT}"
    model = fake(SPEC, {"source": evil}, {"source": evil})
    answer = await build_feature_development(model).ainvoke({"text": PROSE, "max_rounds": 1})
    assert answer["verdict"]["accepted"] is False
    assert not trap.exists()


async def test_an_audit_gets_advice_and_the_model_no_code(tmp_path: Path) -> None:
    (tmp_path / "weak.py").write_text(
        "import subprocess\nsubprocess.call('ls ' + name, shell=True)  # my_own_words\n"
    )
    advice = {"summary": "One call needs care.", "next_steps": ["Drop the shell."]}
    stub = fake(advice)
    answer = await build_security_audit(stub).ainvoke({"path": str(tmp_path)})
    assert answer["advice"] == advice
    without = await build_security_audit(fake("no")).ainvoke({"path": str(tmp_path)})
    assert without["advice"] is None
    assert without["remediations"] == answer["remediations"]


@pytest.fixture
def stub() -> Iterator[ChatStub]:
    server = ChatStub(lambda _body: "{}")
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def worker(cas: Client, stub: ChatStub, url: str, deployment: str) -> AsyncIterator[None]:
    await until(lambda: stub.is_up, what="the chat server")
    process = Process(
        ["-m", "cas_events.cli", "worker", "cas_events.agents.samples:runner"],
        CAS_NATS_URL=url,
        CAS_DEPLOYMENT=deployment,
        CAS_MODEL="openai:stub",
        OPENAI_API_KEY=KEY,
        OPENAI_BASE_URL=stub.url,
    )
    try:
        await until_served(cas, "content-strategy")
        yield
    finally:
        process.end()


async def test_a_real_runner_asks_a_real_server_and_tells_nobody_the_key(
    cas: Client, js: JetStream, stub: ChatStub, nats_url: str, deployment: str
) -> None:
    async with asyncio.timeout(100), worker(cas, stub, nats_url, deployment):
        stub.answer = lambda body: json.dumps(PLAN if "marketer" in str(body["messages"][0]) else BRIEF)
        request = {"text": TEXT, "auto_approve": True}
        planned = await cas.execute_task("content-strategy", request)
        assert planned.status == "completed", planned.error
        assert planned.output["strategy"]["by"] == "model"
        assert all(body["stream"] for body in stub.requests)
        assert set(stub.keys) == {f"Bearer {KEY}"}

        stub.answer = lambda _body: 401
        asked = len(stub.requests)
        refused = await cas.execute_task("content-strategy", request)
        assert refused.status == "failed"
        assert refused.error["type"] == ModelRefusedError.__name__
        assert "openai:stub" in refused.error["message"]
        assert len(stub.requests) == asked + 1, "a wrong key is not tried again"

        names = Names(deployment)
        for stream in (names.commands, names.events, names.output):
            state = (await js.stream_info(stream)).state
            for seq in range(state.first_seq, state.last_seq + 1):
                message = await js.message(stream, seq)
                assert message is None or KEY.encode() not in message.data


async def test_a_cancel_closes_the_request_upstream(
    cas: Client, stub: ChatStub, nats_url: str, deployment: str
) -> None:
    stub.answer = _never_ending
    async with asyncio.timeout(100), worker(cas, stub, nats_url, deployment):
        task = await cas.submit_task("content-strategy", {"text": TEXT, "auto_approve": True})
        await until(lambda: stub.open == 1, timeout_s=60, what="the model is asked")
        await task.cancel("enough", wait=True)
        await until(lambda: stub.closed == 1, timeout_s=10, what="the request is closed")
        assert (await task.result()).status == "cancelled"
        assert stub.open == 0


def _never_ending(_body: dict[str, Any]) -> Answer:
    return None


async def test_a_provider_that_is_down_is_an_error_that_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    class Down(GenericFakeChatModel):
        async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
            raise ConnectionError(f"no route with {KEY}")
            yield

    model = Down(messages=iter([]))
    with pytest.raises(ModelFailedError, match="ConnectionError") as failed:
        await models.consult(current_task(), "Name it.", Thing, {}, model=model)
    assert not isinstance(failed.value, ModelRefusedError)
    assert KEY not in str(failed.value)
