"""The official suite of LangGraph's checkpointers, whole, and a graph that uses the saver.

Goal: whatever LangGraph expects of a checkpointer holds. Method: `langgraph-checkpoint-conformance` on a real server,
every capability asked for by name, since a capability that is not found would only be reported as absent.
"""

from __future__ import annotations

from langgraph.checkpoint.conformance import checkpointer_test, validate

from cas_events import JetStreamSaver
from tests.harness.processes import settings

TESTS = {
    "put": 17,
    "put_writes": 10,
    "get_tuple": 10,
    "list": 16,
    "delete_thread": 5,
    "copy_thread": 8,
    "delete_for_runs": 7,
    "prune": 8,
}


async def test_the_official_suite_passes_whole(nats_url: str, deployment: str) -> None:
    @checkpointer_test(name="JetStreamSaver")
    async def saver():
        async with JetStreamSaver(settings=settings(nats_url, deployment)) as saver:
            yield saver

    report = await validate(saver, capabilities=set(TESTS))
    failures = [failure for result in report.results.values() for failure in result.failures]
    assert failures == []
    assert {name: report.results[name].tests_passed for name in TESTS} == TESTS
    assert report.passed_all()
