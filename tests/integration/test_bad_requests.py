"""What operators and programs ask for wrongly: an error that names the field, and nothing changed (issue 6, Bad input).

Wrong cron expressions are in `test_schedules.py`, wrong commands on the wire in `test_bad_input.py`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cas_events import AgentUnavailableError, Client, RetryPolicy, Runner, UnknownAgentError
from cas_events.domain.breaker import BreakerPolicy
from cas_events.errors import CasEventsError, InvalidLimitError, InvalidSchemaError
from tests.harness.cas import Cas
from tests.harness.own_runner import noop, running


@pytest.fixture
async def served(cas: Client, make_runner) -> AsyncIterator[Client]:
    """A client of a deployment that serves the agent ``quiet`` with a state."""
    runner = make_runner()
    runner.agent("quiet")(noop)
    async with running(cas, runner):
        await cas.update_agent_state("quiet", {"n": 1})
        yield cas


@pytest.fixture
def command(nats_url: str, deployment: str, tmp_path: Path) -> Cas:
    return Cas({"CAS_NATS_URL": nats_url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(tmp_path)})


async def stored(cas: Client) -> tuple[int, int]:
    """How many commands and events there are; nobody signs the log here."""
    js, names = cas._session.js, cas._session.names
    commands, events = await js.stream_info(names.commands), await js.stream_info(names.events)
    return commands.state.last_seq, events.state.last_seq


# --- from Python -----------------------------------------------------------------------------------------------------


async def test_an_unknown_agent_is_named_wherever_it_is_asked_for(served: Client) -> None:
    before = await stored(served)
    with pytest.raises(AgentUnavailableError, match="'nobody', and none has ever announced it") as caught:
        await served.execute_task("nobody")
    assert caught.value.status is None
    for work in (
        served.register_agent("nobody"),
        served.deregister_agent("nobody"),
        served.pause_agent("nobody"),
        served.resume_agent("nobody"),
        served.set_agent("nobody", concurrency=1),
        served.get_agent_state("nobody"),
        served.update_agent_state("nobody", {}),
        served.reset_agent_state("nobody"),
    ):
        with pytest.raises(UnknownAgentError, match="'nobody'"):
            await work
    assert await stored(served) == before


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"lease_s": -1}, "lease_s"),
        ({"lease_s": math.nan}, "lease_s"),
        ({"grace_s": -0.1}, "grace_s"),
        ({"places": 0}, "places"),
        ({"places": -3}, "places"),
        ({"places": 1.5}, "places"),
        ({"stall_s": 0}, "stall_s"),
        ({"stall_s": "5"}, "stall_s"),
    ],
)
def test_a_runners_limits(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidLimitError, match=rf"^{field} is ") as caught:
        Runner(**options)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"timeout_s": -1}, "timeout_s"),
        ({"timeout_s": "5"}, "timeout_s"),
        ({"idle_timeout_s": 0}, "idle_timeout_s"),
        ({"queue_timeout_s": -2.5}, "queue_timeout_s"),
        ({"interrupt_timeout_s": math.nan}, "interrupt_timeout_s"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": None}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
        ({"recursion_limit": -1}, "recursion_limit"),
        ({"max_queued": -1}, "max_queued"),
        ({"rate": "-1/s"}, "rate"),
        ({"concurrency_per_key": -1}, "concurrency_per_key"),
    ],
)
def test_an_agents_limits(options: dict[str, Any], field: str) -> None:
    runner = Runner()
    with pytest.raises(ValueError, match=field):
        runner.agent("quiet", **options)(noop)
    assert runner.agent_ids == ()


@pytest.mark.parametrize(
    ("policy", "options", "field"),
    [
        (RetryPolicy, {"base_s": -1}, "base_s"),
        (RetryPolicy, {"cap_s": -1}, "cap_s"),
        (RetryPolicy, {"factor": 0.5}, "factor"),
        (BreakerPolicy, {"open_s": -1}, "open_s"),
        (BreakerPolicy, {"failure_rate": -0.5}, "failure_rate"),
    ],
)
def test_a_policys_limits(policy: Any, options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}"):
        policy(**options)


@pytest.mark.parametrize(
    "schema", [{"type": "no type"}, {"properties": []}, {"required": "path"}, "a text", 17, True]
)
async def test_a_schema_that_is_none(make_runner, schema: Any) -> None:
    runner = make_runner()
    with pytest.raises(InvalidSchemaError, match=r"^schema of agent 'quiet'") as caught:
        runner.agent("quiet", schema=schema)(noop)
    assert (caught.value.field, caught.value.agent_id) == ("schema", "quiet")
    assert isinstance(caught.value, CasEventsError)
    assert runner.agent_ids == ()


# --- on the command line ---------------------------------------------------------------------------------------------


async def test_commands_name_what_is_wrong_and_change_nothing(served: Client, command: Cas) -> None:
    before = await stored(served)
    for arguments, words in (
        (("run", "nobody"), "'nobody'"),
        (("state", "nobody"), "'nobody'"),
        (("state", "nobody", "--merge", "{}"), "'nobody'"),
        (("agents", "set", "nobody", "--concurrency", "1"), "'nobody'"),
        (("agents", "set", "quiet", "--concurrency", "-1"), "concurrency"),
        (("agents", "set", "quiet", "--lease-s", "-1"), "lease_s"),
        (("run", "quiet", "--timeout", "-1"), "--timeout"),
        (("state", "quiet", "--merge", "[1]"), "--merge"),
        (("state", "quiet", "--merge", "{"), "--merge"),
        (("state", "quiet", "--set", "text"), "--set"),
        (("state", "quiet", "--merge", "{}", "--expect", "7"), "revision 1, not at the expected 7"),
        (("state", "quiet", "--merge", "{}", "--reset"), "--merge"),
        (("state", "quiet", "--expect", "1"), "--expect"),
    ):
        answer = await asyncio.to_thread(command, *arguments)
        assert answer.code != 0, arguments
        assert words in answer.error, arguments
    assert await stored(served) == before
    assert (await served.get_agent_state("quiet")).state == {"n": 1}


async def test_a_worker_with_a_wrong_agent_says_which_option(command: Cas, tmp_path: Path) -> None:
    for option, field in (("schema={'type': 'no type'}", "schema"), ("timeout_s=-1", "timeout_s")):
        module = tmp_path / f"wrong_{field}.py"
        module.write_text(
            "from cas_events import Runner\nrunner = Runner()\n"
            f"@runner.agent('wrong', {option})\nasync def wrong(ctx, input): return {{}}\n"
        )
        answer = await asyncio.to_thread(command, "worker", f"{module}:runner")
        assert answer.code != 0
        assert f"{field} of agent 'wrong'" in answer.error


async def test_an_operator_changes_a_state(served: Client, command: Cas) -> None:
    merged = await asyncio.to_thread(command, "state", "quiet", "--merge", '{"m": 2, "n": null}', "--json")
    assert (merged.json["state"], merged.json["revision"]) == ({"m": 2}, 2)
    told = await asyncio.to_thread(command, "state", "quiet", "--set", '{"k": 3}', "--expect", "2", "--json")
    assert told.json["state"] == {"k": 3}
    emptied = await asyncio.to_thread(command, "state", "quiet", "--reset", "--json")
    assert (emptied.json["state"], emptied.json["revision"]) == ({}, 4)
    changed = await asyncio.to_thread(command, "agents", "set", "quiet", "--lease-s", "5")
    assert "restart them" in changed.err
