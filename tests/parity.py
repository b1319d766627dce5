"""Feature by feature, what people move over from, the API that gives it here, and the tests that prove it.

``python -m tests.parity`` writes ``docs/parity.md`` from this table; ``tests/tidy/test_parity.py`` fails when the page is
not what it would write, when an API does not exist, and when a test does not exist or is one that may be skipped.
Features have the names under which the runtimes list them that people come from.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "parity.md"

_SKIPS = {"skip", "skipif", "skipIf", "skipUnless", "xfail", "importorskip", "skipTest"}


@dataclass(frozen=True)
class Feature:
    """One row.

    Attributes:
        name: as it is usually called.
        apis: what gives it: ``module:Name.attribute``, a command such as ``cas run``, or a table such as ``cas_tasks``.
        tests: what proves it: ``folder/file.py::test``, below ``tests/``.
    """

    name: str
    apis: tuple[str, ...]
    tests: tuple[str, ...]


FEATURES = (
    Feature(
        "execute-task",
        ("cas_events:Client.execute_task", "cas_events:Client.submit_task", "cas run"),
        (
            "integration/test_tasks.py::test_execute_a_function",
            "integration/test_tasks.py::test_execute_a_graph",
            "integration/test_tasks.py::test_a_task_id_is_good_for_one_task",
            "acceptance/test_cli_commands.py::test_run_shows_logs_progress_and_the_output",
        ),
    ),
    Feature(
        "stream-task",
        ("cas_events:Client.stream_task", "cas_events:Task.events", "cas_events:Client.follow", "cas tail"),
        (
            "integration/test_tasks.py::test_stream_a_function",
            "integration/test_tasks.py::test_events_are_pushed_while_the_task_runs",
            "integration/test_tasks.py::test_a_late_follower_sees_what_a_live_one_saw",
            "integration/test_tasks.py::test_a_dropped_stream_leaves_nothing_behind_and_the_task_goes_on",
        ),
    ),
    Feature(
        "cancel-task",
        (
            "cas_events:Client.cancel_task",
            "cas_events:Task.cancel",
            "cas_events:TaskContext.is_cancelled",
            "cas cancel",
        ),
        (
            "integration/test_tasks.py::test_cancel_in_the_middle",
            "integration/test_tasks.py::test_cancel_before_a_runner_comes",
            "integration/test_tasks.py::test_cancel_reaches_the_agents_code",
            "faults/test_cancel.py::test_a_cancel_while_no_runner_is_up_is_kept",
        ),
    ),
    Feature(
        "progress-callbacks",
        ("cas_events:TaskContext.progress", "cas_events:TaskContext.log", "cas_events:current_task"),
        (
            "integration/test_tasks.py::test_stream_a_graph_with_its_agents_progress",
            "integration/test_graphs_events.py::test_every_kind_of_code_has_the_tasks_handle",
            "acceptance/test_cli_commands.py::test_run_shows_logs_progress_and_the_output",
        ),
    ),
    Feature(
        "circuit-breaker",
        ("cas_events.domain.breaker:BreakerPolicy", "cas_events:Runner.agent", "cas_agents"),
        (
            "integration/test_bounds.py::test_an_open_breaker_keeps_tasks_waiting_and_closes_after_a_probe",
            "integration/test_bounds.py::test_a_breaker_survives_its_runners",
            "integration/test_agent_control.py::test_an_open_breaker_neither_ends_an_operators_pause_nor_is_ended_by_its_resume",
        ),
    ),
    Feature(
        "retry",
        (
            "cas_events:RetryPolicy",
            "cas_events:NonRetryableError",
            "cas_events:Client.retry_task",
            "cas retry",
        ),
        (
            "integration/test_tasks.py::test_errors_are_retried_up_to_the_bound",
            "integration/test_retry.py::test_a_dead_letter_is_retried_by_hand",
            "faults/test_crash.py::test_a_killed_runners_tasks_go_on_in_time",
        ),
    ),
    Feature(
        "message-bus",
        ("cas_events:Client.follow", "cas_events:Client.replay", "cas tail", "cas replay"),
        (
            "integration/test_follow_log.py::test_stored_and_live_join_without_gap_or_duplicate",
            "integration/test_follow_log.py::test_five_hundred_followers_cost_no_consumer",
            "acceptance/test_javascript_client.py::test_task_is_started_followed_and_replayed",
        ),
    ),
    Feature(
        "state-persistence",
        ("cas_events:JetStreamSaver", "cas_events:JetStreamStore"),
        (
            "integration/test_checkpoints.py::test_two_processes_on_a_thread_do_not_fork_it",
            "faults/test_graph_crash.py::test_kill_9_in_a_parallel_step_does_not_run_the_finished_sibling_again",
        ),
    ),
    Feature(
        "agent-state-persistence",
        (
            "cas_events.runner.state:StateOfAgent",
            "cas_events:Client.agent_state_history",
            "cas_agent_state",
            "cas state",
        ),
        (
            "integration/test_agent_state.py::test_tasks_share_the_state_of_their_agent_from_loop_and_threads",
            "integration/test_agent_state.py::test_the_tables_their_past_and_the_command_say_what_the_log_says",
            "integration/test_agent_state.py::test_a_large_state_travels_by_claim_check",
        ),
    ),
    Feature(
        "get-agent-state",
        ("cas_events:Client.get_agent_state", "cas state"),
        (
            "integration/test_agent_state.py::test_keys_are_states_of_their_own",
            "integration/test_agent_state.py::test_any_nats_client_reads_it_with_one_direct_get",
        ),
    ),
    Feature(
        "update-agent-state",
        ("cas_events:Client.update_agent_state",),
        (
            "integration/test_agent_state.py::test_patches_merge_whole_states_replace_and_a_reset_counts_on",
            "integration/test_agent_state.py::test_a_hundred_concurrent_updaters_lose_no_update",
            "integration/test_agent_state.py::test_a_conflict_says_both_revisions_and_stores_nothing",
        ),
    ),
    Feature(
        "reset-agent-state",
        ("cas_events:Client.reset_agent_state",),
        ("integration/test_agent_state.py::test_patches_merge_whole_states_replace_and_a_reset_counts_on",),
    ),
    Feature(
        "event-logging",
        ("cas_events:Client.replay", "cas_agent_events", "cas replay"),
        (
            "integration/test_projection_tables.py::test_tables_have_the_columns_of_the_design",
            "integration/test_replay.py::test_by_agent_type_and_sequences",
            "acceptance/test_cli_commands.py::test_replay_is_the_stored_log",
        ),
    ),
    Feature(
        "metrics-collection",
        ("cas_events.settings:MetricsAddress", "cas_agent_metrics", "cas worker", "cas projector"),
        (
            "integration/test_metrics.py::test_tasks_are_counted_by_how_they_went",
            "integration/test_metrics.py::test_a_projector_tells_how_far_it_is",
            "unit/test_observe.py::test_the_dashboard_asks_only_for_metrics_that_exist",
            "integration/test_views.py::test_agent_metrics",
        ),
    ),
    Feature(
        "log-persistence",
        ("cas_events:TaskContext.log", "cas_agent_logs", "cas logs"),
        (
            "integration/test_logs.py::test_stdlib_loggers_speak_for_the_task_from_everywhere",
            "integration/test_logs.py::test_no_secret_is_stored",
            "integration/test_logs.py::test_a_flood_is_cut_and_counted",
            "acceptance/test_cli_commands.py::test_logs_that_a_regular_expression_finds",
        ),
    ),
    Feature(
        "observability-methods",
        (
            "cas_events.observe.tracing:enable_tracing",
            "cas_events:Client.sql",
            "cas_task_timeline",
            "cas tree",
            "cas doctor",
        ),
        (
            "integration/test_tracing.py::test_one_trace_from_submit_to_terminal_event",
            "integration/test_metrics.py::test_the_port_says_that_it_is_ready_and_what_there_is",
            "integration/test_views.py::test_task_timeline",
        ),
    ),
    Feature(
        "agent-status-db",
        ("cas_events:Client.agents", "cas_events:Client.runners", "cas_agents", "cas agents"),
        (
            "integration/test_fleet.py::test_a_killed_runner_is_gone_within_three_beats_and_leaves_no_word",
            "integration/test_fleet.py::test_what_runs_and_waits_is_counted_and_beats_come_unasked",
            "integration/test_fleet.py::test_nats_tools_find_the_runner_with_its_agents",
            "integration/test_projection_tables.py::test_agents_show_the_latest_facts",
        ),
    ),
    Feature(
        "register-agent",
        (
            "cas_events:Runner.agent",
            "cas_events:Runner.register",
            "cas_events:Runner.register_agent",
            "cas_events:Client.register_agent",
            "cas agents register",
        ),
        (
            "integration/test_agent_registration.py::test_a_live_runner_serves_an_agent_more",
            "integration/test_agent_registration.py::test_other_code_takes_over_after_a_deregistration_and_what_runs_ends_as_it_began",
            "integration/test_agent_registration.py::test_what_cannot_be_registered_changes_nothing",
        ),
    ),
    Feature(
        "deregister-agent",
        ("cas_events:Runner.deregister_agent", "cas_events:Client.deregister_agent", "cas agents deregister"),
        (
            "integration/test_agent_registration.py::test_it_is_drained_on_every_runner_new_tasks_wait_and_restarts_change_nothing",
            "integration/test_agent_registration.py::test_new_tasks_are_refused_and_what_has_begun_is_brought_to_its_end",
            "integration/test_agent_registration.py::test_a_crash_in_the_middle_of_draining_costs_a_try_and_no_task",
        ),
    ),
    Feature(
        "shutdown",
        ("cas_events:Runner.stop", "cas_events:Client.__aexit__"),
        (
            "faults/test_shutdown.py::test_sigterm_under_load_hands_everything_over",
            "faults/test_shutdown.py::test_code_that_ignores_the_end_is_left_behind_and_its_task_handed_over",
            "acceptance/test_cli_commands.py::test_worker_hands_over_and_ends",
        ),
    ),
)

_INTRODUCTION = """\
# Feature parity

What people know from the runtime that they move over from, the API that gives it here, and the tests that prove it. Made by
`scripts/parity` from `tests/parity.py`; a test fails when a name on this page does not exist, or a test on it may be skipped.

| feature | by | proved by |
|---|---|---|
"""


def page(features: tuple[Feature, ...] = FEATURES) -> str:
    """The page."""
    rows = [
        f"| {feature.name} | {_joined(map(_shown, feature.apis))} | {_joined(map(_linked, feature.tests))} |"
        for feature in features
    ]
    return _INTRODUCTION + "\n".join(rows) + "\n"


def _joined(parts: map[str]) -> str:
    return "<br>".join(parts)


def _shown(api: str) -> str:
    module, _, name = api.rpartition(":")
    return f"`{name}`" if module in {"", "cas_events"} else f"`{module}.{name}`"


def _linked(test: str) -> str:
    path, _, name = test.partition("::")
    return f"[`{name}`](../tests/{path})"


# --- whether it is so ------------------------------------------------------------------------------------------------


def api_fault(api: str) -> str | None:
    """What is wrong with an API of the table, if anything."""
    if ":" in api:
        return _name_fault(api)
    return _command_fault(api) if " " in api else _table_fault(api)


def _name_fault(api: str) -> str | None:
    module, _, path = api.partition(":")
    try:
        found = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as problem:
        return f"{api}: {problem}"
    return None


def _command_fault(api: str) -> str | None:
    from typer.main import get_command  # noqa: PLC0415 - only who checks the page needs the command line

    from cas_events.cli.app import app  # noqa: PLC0415

    found = get_command(app)
    for name in api.split()[1:]:
        if name not in getattr(found, "commands", {}):
            return f"{api}: there is no such command"
        found = found.commands[name]  # type: ignore[attr-defined]
    return None


def _table_fault(api: str) -> str | None:
    files = [*(ROOT / "projections" / "sql").glob("*.sql")]
    made = re.compile(rf"^(?:CREATE TABLE IF NOT EXISTS|-- name:) {re.escape(api)}\b", re.MULTILINE)
    if any(made.search(file.read_text("utf-8")) for file in files):
        return None
    return f"{api}: there is no such table or view"


def test_fault(test: str, root: Path = ROOT / "tests") -> str | None:
    """What is wrong with a test of the table, if anything: it does not exist, or it may be skipped."""
    path, _, name = test.partition("::")
    if not (root / path).is_file():
        return f"{test}: there is no such file"
    tree = _parsed(root / path)
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name
    ]
    if not found:
        return f"{test}: there is no such test"
    # Of the module all that is no other test counts, too: its marks, its fixtures, what it does when it is imported.
    around = [node for node in tree.body if not getattr(node, "name", "").lower().startswith("test")]
    if any(_skips(node) for node in (*found, *around)):
        return f"{test}: it may be skipped"
    return None


test_fault.__test__ = False  # type: ignore[attr-defined]


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _skips(node: ast.AST) -> bool:
    """Whether a test, its marks included, names one of pytest's ways not to run or not to count."""
    return any(
        (isinstance(part, ast.Attribute) and part.attr in _SKIPS)
        or (isinstance(part, ast.Name) and part.id in _SKIPS)
        for part in ast.walk(node)
    )


if __name__ == "__main__":
    faults = [
        fault for f in FEATURES for fault in (*map(api_fault, f.apis), *map(test_fault, f.tests)) if fault
    ]
    if faults:
        sys.exit("\n".join(faults))
    PAGE.write_text(page(), "utf-8")
