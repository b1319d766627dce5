"""``docs/parity.md``: complete, current, and about APIs and tests that exist and run (issue 6, item 8)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity import FEATURES, PAGE, api_fault, page, test_fault

# As issue 6 lists them.
NAMES = [
    "execute-task",
    "stream-task",
    "cancel-task",
    "progress-callbacks",
    "circuit-breaker",
    "retry",
    "message-bus",
    "state-persistence",
    "agent-state-persistence",
    "get-agent-state",
    "update-agent-state",
    "reset-agent-state",
    "event-logging",
    "metrics-collection",
    "log-persistence",
    "observability-methods",
    "agent-status-db",
    "register-agent",
    "deregister-agent",
    "shutdown",
]


def test_every_feature_has_its_row() -> None:
    assert [feature.name for feature in FEATURES] == NAMES
    assert all(feature.apis and feature.tests for feature in FEATURES)


def test_the_page_is_what_the_table_makes() -> None:
    assert PAGE.read_text("utf-8") == page(), "run scripts/parity"


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_what_a_row_names_exists_and_runs(feature) -> None:
    faults = [*map(api_fault, feature.apis), *map(test_fault, feature.tests)]
    assert [fault for fault in faults if fault] == []


@pytest.mark.parametrize(
    "api",
    [
        "cas_events:Client.no_such",
        "cas_events.nothing:Client",
        "cas no-such",
        "cas agents no",
        "cas_nothing",
        "cas",
    ],
)
def test_an_api_that_does_not_exist_is_a_fault(api: str) -> None:
    assert api_fault(api) is not None


BAD = [
    ("", "there is no such test"),
    ("@pytest.mark.skip\ndef test_it(): pass", "it may be skipped"),
    ("@pytest.mark.skipif(True, reason='')\nasync def test_it(): pass", "it may be skipped"),
    (
        "@pytest.mark.parametrize('n', [pytest.param(1, marks=pytest.mark.xfail)])\ndef test_it(n): pass",
        "skipped",
    ),
    ("from pytest import mark\n@mark.xfail\ndef test_it(): pass", "it may be skipped"),
    ("def test_it():\n    pytest.skip('later')", "it may be skipped"),
    ("pytestmark = [pytest.mark.skip]\ndef test_it(): pass", "it may be skipped"),
    ("pytest.importorskip('x')\ndef test_it(): pass", "it may be skipped"),
    ("@pytest.fixture\ndef server(): pytest.skip('no')\ndef test_it(server): pass", "it may be skipped"),
]


@pytest.mark.parametrize(("text", "fault"), BAD)
def test_a_test_that_does_not_exist_or_may_be_skipped_is_a_fault(
    tmp_path: Path, text: str, fault: str
) -> None:
    (tmp_path / "test_sample.py").write_text(text)
    assert fault in (test_fault("test_sample.py::test_it", tmp_path) or "")
    assert "no such file" in (test_fault("other.py::test_it", tmp_path) or "")


def test_a_test_that_runs_is_none(tmp_path: Path) -> None:
    sample = "def test_it(): pass\n@pytest.mark.skip\ndef test_other(): pass"
    (tmp_path / "test_sample.py").write_text(sample)
    assert test_fault("test_sample.py::test_it", tmp_path) is None
