"""The state of agents (issue 6, item 2): from clients, from tasks, from any NATS client, and in the tables."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cas_events import Client, StateConflictError, TaskContext, UnknownAgentError, current_task
from cas_events.agent_states import AgentState
from cas_events.errors import (
    InvalidNameError,
    InvalidStateError,
    NotJsonError,
    PayloadTooLargeError,
    WrongLastSequenceError,
)
from cas_events.jetstream.api import JetStream
from cas_events.runner import agent_events
from cas_events.wire.claims import is_claim
from tests.harness.cas import Answer, Cas
from tests.harness.own_runner import running
from tests.harness.processes import settings
from tests.integration.test_projection_process import projecting

AGENT = "keeper"


@pytest.fixture
async def known(cas: Client) -> Client:
    """A client whose log knows the agent, as any runner of it would have said."""
    session = cas._session
    await agent_events.append(
        session.js,
        session.names,
        "cas.agent.registered",
        agent_id=AGENT,
        source="cas/runner/test",
        members={"version": "1", "limits": {"max_attempts": 3}, "on_crash": "retry"},
    )
    return cas


async def changes(cas: Client, key: str | None = None) -> list[AgentState]:
    return [change async for change in cas.agent_state_history(AGENT, key)]


async def test_patches_merge_whole_states_replace_and_a_reset_counts_on(known: Client) -> None:
    assert (await known.get_agent_state(AGENT)).revision == 0
    await known.update_agent_state(AGENT, {"seen": 1, "by": {"a": 1, "b": 2}})
    merged = await known.update_agent_state(AGENT, {"seen": 2, "by": {"a": None}})
    assert (merged.state, merged.revision) == ({"seen": 2, "by": {"b": 2}}, 2)
    assert await known.get_agent_state(AGENT) == merged
    whole = await known.update_agent_state(AGENT, {"new": None}, whole=True)
    assert (whole.state, whole.revision) == ({"new": None}, 3)
    reset = await known.reset_agent_state(AGENT)
    assert (reset.state, reset.revision, reset.is_reset) == ({}, 4, True)
    again = await known.update_agent_state(AGENT, {"x": 1})
    assert again.revision == 5
    assert [change.revision for change in await changes(known)] == [1, 2, 3, 4, 5]
    assert (await changes(known))[-1] == again
    for change in await changes(known):
        assert await known.get_agent_state(AGENT, as_of=change.seq) == change
    first = (await changes(known))[0]
    assert (await known.get_agent_state(AGENT, as_of=first.seq - 1)).revision == 0


async def test_keys_are_states_of_their_own(known: Client) -> None:
    await known.update_agent_state(AGENT, {"of": "agent"})
    await known.update_agent_state(AGENT, {"of": "c-1"}, "c-1")
    await known.update_agent_state(AGENT, {"n": 2}, "c-1")
    assert (await known.get_agent_state(AGENT)).state == {"of": "agent"}
    of_key = await known.get_agent_state(AGENT, "c-1")
    assert (of_key.state, of_key.revision, of_key.key) == ({"of": "c-1", "n": 2}, 2, "c-1")
    assert len(await changes(known, "c-1")) == 2


async def test_a_conflict_says_both_revisions_and_stores_nothing(known: Client) -> None:
    await known.update_agent_state(AGENT, {"n": 1}, expected_revision=0)
    await known.update_agent_state(AGENT, {"n": 2}, expected_revision=1)
    with pytest.raises(StateConflictError, match="revision 2, not at the expected 1") as caught:
        await known.update_agent_state(AGENT, {"n": 3}, expected_revision=1)
    assert (caught.value.expected_revision, caught.value.revision) == (1, 2)
    with pytest.raises(StateConflictError):
        await known.reset_agent_state(AGENT, expected_revision=7)
    assert (await known.get_agent_state(AGENT)).state == {"n": 2}


async def test_a_hundred_concurrent_updaters_lose_no_update(
    known: Client, nats_server, deployment: str
) -> None:
    """From ten connections; each adds a member of its own, so that a lost update is a missing member."""
    clients = [Client(settings=settings(nats_server.url, deployment)) for _ in range(10)]
    for client in clients:
        await client.__aenter__()
    try:
        made = await asyncio.gather(
            *(clients[n % 10].update_agent_state(AGENT, {f"u{n}": n}) for n in range(100))
        )
    finally:
        for client in clients:
            await client.__aexit__(None, None, None)
    assert sorted(state.revision for state in made) == list(range(1, 101))
    final = await known.get_agent_state(AGENT)
    assert final.state == {f"u{n}": n for n in range(100)}
    assert final.revision == 100


async def test_of_a_hundred_with_the_same_expectation_one_wins(known: Client) -> None:
    tries = (known.update_agent_state(AGENT, {"winner": n}, expected_revision=0) for n in range(100))
    results = await asyncio.gather(*tries, return_exceptions=True)
    won = [result for result in results if isinstance(result, AgentState)]
    assert len(won) == 1
    assert all(isinstance(r, StateConflictError) and r.revision == 1 for r in results if r is not won[0])
    assert len(await changes(known)) == 1


async def test_any_nats_client_reads_it_with_one_direct_get(
    known: Client, connection, deployment: str
) -> None:
    await known.update_agent_state(AGENT, {"seen": 3}, "c-1")
    subject = f"$JS.API.DIRECT.GET.{deployment.upper()}_EVENTS.{deployment}.evt.state.{AGENT}.c-1"
    answer = await connection.request(subject, timeout_s=5)
    event = json.loads(answer.data)
    assert event["type"] == "cas.state.updated"
    assert event["data"] == {"state": {"seen": 3}, "patch": {"seen": 3}, "revision": 1}


async def test_a_large_state_travels_by_claim_check(known: Client) -> None:
    await known.update_agent_state(AGENT, {"text": "x" * 300_000})
    small = await known.update_agent_state(AGENT, {"n": 1})
    assert (await known.get_agent_state(AGENT)).state == small.state == {"text": "x" * 300_000, "n": 1}
    js, names = known._session.js, known._session.names
    stored = await js.last_message(names.events, names.state(AGENT))
    assert stored is not None
    assert len(stored.data) < 2_000
    assert is_claim(json.loads(stored.data)["data"]["state"])


@pytest.mark.parametrize(
    ("patch", "options", "error", "field"),
    [
        (["no", "object"], {}, InvalidStateError, "patch"),
        ({"a": {"b": float("nan")}}, {}, NotJsonError, r"patch\.a\.b"),
        ({"a": object()}, {}, NotJsonError, r"patch\.a"),
        ({"$ref": "0" * 64, "bytes": 1, "sha256": "0" * 64}, {}, InvalidStateError, "state"),
        ({"a": 1}, {"expected_revision": -1}, InvalidStateError, "expected_revision"),
        ({"a": 1}, {"expected_revision": True}, InvalidStateError, "expected_revision"),
        ({"a": 1}, {"key": "a.b"}, InvalidNameError, "key"),
        ({"a": 1}, {"key": ""}, InvalidNameError, "key"),
        ({"a": "x" * (64 * 1024 * 1024 + 1)}, {}, PayloadTooLargeError, "the state"),
    ],
    ids=["list", "nan", "object", "claim", "negative", "bool", "key", "empty-key", "too-large"],
)
async def test_bad_changes_are_refused_by_name_and_change_nothing(
    known: Client, patch: Any, options: dict, error: type[Exception], field: str
) -> None:
    before = await known.last_seq()
    with pytest.raises(error, match=field):
        await known.update_agent_state(AGENT, patch, **options)
    assert await known.last_seq() == before


async def test_an_unknown_agent_is_refused_and_nothing_is_stored(cas: Client) -> None:
    for work in (
        cas.get_agent_state("nobody"),
        cas.update_agent_state("nobody", {"a": 1}),
        cas.reset_agent_state("nobody"),
        anext(aiter(cas.agent_state_history("nobody"))),
    ):
        with pytest.raises(UnknownAgentError, match="'nobody'"):
            await work
    assert await cas.last_seq() == 0


async def test_what_is_no_state_on_its_subject_stops_nobody(known: Client) -> None:
    session = known._session
    await known.update_agent_state(AGENT, {"n": 1})
    await session.js.append(session.names.state(AGENT), b"garbage")
    assert (await known.get_agent_state(AGENT)).state == {"n": 1}
    assert (await known.update_agent_state(AGENT, {"m": 2})).revision == 2
    assert [change.state for change in await changes(known)] == [{"n": 1}, {"n": 1, "m": 2}]


async def test_an_append_whose_answer_was_lost_is_settled_by_evidence(known: Client) -> None:
    """The bytes are stored, the answer is not heard: the change counts once."""
    states = known._states
    heard: list[int] = []

    class Deaf(JetStream):
        async def append(self, subject: str, payload: bytes, **options: Any) -> Any:
            ack = await super().append(subject, payload, **options)
            if not heard:
                heard.append(ack.seq)
                raise WrongLastSequenceError("heard late", code=400, err_code=10164)
            return ack

    states._js = Deaf(known._session.connection)
    changed = await states.update(AGENT, {"n": 1})
    assert (changed.seq, changed.revision) == (heard[0], 1)
    assert len(await changes(known)) == 1


async def test_tasks_share_the_state_of_their_agent_from_loop_and_threads(cas: Client, make_runner) -> None:
    runner = make_runner()

    @runner.agent("counter")
    async def counter(ctx: TaskContext, input: dict) -> dict:
        if input.get("thread"):
            await asyncio.to_thread(lambda: asyncio.run(ctx.state.update({f"t{input['n']}": True})))
        else:
            await current_task().state.update({f"t{input['n']}": True})
        await ctx.state.update({"last": input["n"]}, "other", whole=True)
        return {"revision": (await ctx.state.get()).revision}

    @runner.agent("resetting")
    async def resetting(ctx: TaskContext, _input: dict) -> dict:
        await ctx.state.update({"a": 1})
        await ctx.state.reset()
        return (await ctx.state.get()).state

    async with running(cas, runner):
        tasks = (cas.execute_task("counter", {"n": n, "thread": n % 4 == 0}) for n in range(12))
        results = await asyncio.gather(*tasks)
        assert {result.status for result in results} == {"completed"}
        state = await cas.get_agent_state("counter")
        assert state.state == {f"t{n}": True for n in range(12)}
        assert state.source.startswith("cas/runner/")
        assert (await cas.get_agent_state("counter", "other")).revision == 12
        done = await cas.execute_task("resetting", {})
        assert done.output == {}
        assert (await cas.get_agent_state("resetting")).revision == 2
    events = [event async for event in cas.replay(agent="counter", type="cas.state.updated")]
    assert all((event.causation_id or "").startswith(cas._session.names.commands) for event in events)


async def test_outside_a_task_the_state_is_a_stand_in() -> None:
    assert (await current_task().state.update({"a": 1, "b": None})).state == {"a": 1}
    assert (await current_task().state.get()).revision == 0


async def test_the_tables_their_past_and_the_command_say_what_the_log_says(
    known: Client, nats_url: str, deployment: str, tmp_path: Path
) -> None:
    first = await known.update_agent_state(AGENT, {"n": 1})
    await known.update_agent_state(AGENT, {"of": "c-1"}, "c-1")
    await known.reset_agent_state(AGENT)
    last = await known.update_agent_state(AGENT, {"n": 3})
    rows = "SELECT key, revision, state FROM cas_agent_state ORDER BY key"
    async with projecting(nats_url, deployment, tmp_path):
        assert await known.sql(rows, wait_for=last.seq) == [
            {"key": "", "revision": 3, "state": {"n": 3}},
            {"key": "c-1", "revision": 1, "state": {"of": "c-1"}},
        ]
        assert await known.sql(rows, as_of=first.seq) == [{"key": "", "revision": 1, "state": {"n": 1}}]
    cas = Cas({"CAS_NATS_URL": nats_url, "CAS_DEPLOYMENT": deployment, "CAS_HOME": str(tmp_path)})

    def command(*arguments: str) -> Answer:
        return cas("state", *arguments)

    shown = await asyncio.to_thread(command, AGENT, "--json")
    assert shown.json["state"] == {"n": 3}
    old = await asyncio.to_thread(command, AGENT, "--as-of", str(first.seq), "--json")
    assert (old.json["revision"], old.json["state"]) == (1, {"n": 1})
    past = await asyncio.to_thread(command, AGENT, "--history", "--json")
    assert [change["revision"] for change in past.json] == [1, 2, 3]
    people = await asyncio.to_thread(command, AGENT, "c-1")
    assert "revision 1" in people.out
    assert '"of": "c-1"' in people.out
    nobody = await asyncio.to_thread(command, "nobody")
    assert nobody.code == 1
    assert "'nobody'" in nobody.error
