"""The pure parts of the security audit: order, merging, counting, remedies, parsers, diffs, inputs.

Method: values in, values out; the real tools run in tests/integration/test_security_audit.py.
"""

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cas_events.agents.security_audit.diffs import existing, split, within
from cas_events.agents.security_audit.findings import (
    SEVERITIES,
    TOOLS,
    Finding,
    finding_order,
    is_assert_in_test,
    merge,
    weakness_number,
)
from cas_events.agents.security_audit.remediation import remedy
from cas_events.agents.security_audit.report import (
    AuditInput,
    ProposedDiff,
    ScanReport,
)
from cas_events.agents.security_audit.scanners import (
    BANDIT,
    DETECT_SECRETS,
    RUFF,
    Scanner,
    require_tools,
    ruff_severity,
)
from cas_events.agents.security_audit.tally import Tally
from cas_events.agents.tree import (
    BATCH_CONTENT_BYTES,
    BATCH_FILES,
    BATCH_PATH_BYTES,
    FILE_BYTES_MAX,
    Problem,
    SourceFile,
    Tree,
    batches,
    list_tree,
    resolve_root,
    shown_path,
)
from cas_events.agents.values import read_input, to_json_value
from cas_events.errors import InvalidCommandError, PathNotFoundError, ToolsMissingError


def finding(
    file="a.py", line=1, tool="ruff", rule="S602", severity="high", *, secret=False, title="t"
) -> Finding:
    return Finding(file=file, line=line, tool=tool, rule=rule, title=title, severity=severity, secret=secret)


def source(path: str, *, size_bytes: int = 10, is_python: bool = True, root: str = "/r") -> SourceFile:
    shown = shown_path(os.path.relpath(path, root))
    return SourceFile(path=path, shown=shown, size_bytes=size_bytes, is_python=is_python)


findings = st.builds(
    finding,
    file=st.sampled_from(["a.py", "b.py", "c/d.py"]),
    line=st.integers(0, 5),
    tool=st.sampled_from(TOOLS),
    rule=st.sampled_from(["S602", "B602", "S105", "B105", "AWS Access Key"]),
    severity=st.sampled_from(SEVERITIES),
    secret=st.booleans(),
)


# --- findings ------------------------------------------------------------------------------------------------------


def test_merge_joins_the_same_weakness_of_two_tools() -> None:
    merged = merge(
        [finding(rule="S602"), finding(rule="B602", tool="bandit", title="longer", severity="low")]
    )
    assert len(merged) == 1
    assert merged[0].rules == ("B602", "S602")
    assert merged[0].tools == ("bandit", "ruff")
    assert merged[0].severity == "high"
    assert merged[0].title == "longer"


def test_merge_joins_all_secrets_of_a_line_and_nothing_else() -> None:
    merged = merge(
        [
            finding(rule="S105", severity="medium", secret=True),
            finding(rule="AWS Access Key", tool="detect-secrets", secret=True),
            finding(rule="S608", severity="medium"),
            finding(rule="S105", severity="medium", secret=True, line=2),
        ]
    )
    assert [(weakness.line, weakness.rules) for weakness in merged] == [
        (1, ("AWS Access Key", "S105")),
        (1, ("S608",)),
        (2, ("S105",)),
    ]


@given(st.lists(findings))
def test_merge_is_ordered_by_severity_and_ignores_arrival(values: list[Finding]) -> None:
    merged = merge(values)
    ranks = [SEVERITIES.index(weakness.severity) for weakness in merged]
    assert ranks == sorted(ranks)
    assert merged == merge(list(reversed(values)))
    assert {rule for weakness in merged for rule in weakness.rules} == {value.rule for value in values}


@pytest.mark.parametrize(
    ("rule", "number"), [("S602", 602), ("B105", 105), ("E501", 0), ("AWS Access Key", 0), ("S", 0), ("", 0)]
)
def test_weakness_number(rule: str, number: int) -> None:
    assert weakness_number(rule) == number


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("tests/unit/x.py", True),
        ("pkg/test/x.py", True),
        ("test_x.py", True),
        ("pkg/conftest.py", True),
        ("x_test.py", True),
        ("pkg/contest.py", False),
        ("latest/x.py", False),
    ],
)
def test_asserts_in_test_code_are_told_apart(file: str, expected: bool) -> None:
    assert is_assert_in_test(finding(file=file, rule="B101", tool="bandit")) is expected
    assert not is_assert_in_test(finding(file=file, rule="B602", tool="bandit"))


def test_every_rule_of_the_tools_has_a_remedy_and_a_grade() -> None:
    for number in range(101, 800):
        rule = f"S{number}"
        assert ruff_severity(rule) in SEVERITIES
        assert remedy(merge([finding(rule=rule)])[0])
    for kind in ("Private Key", "Secret Keyword", "A Kind That Comes Later"):
        assert remedy(merge([finding(rule=kind, tool="detect-secrets", secret=True)])[0])


def test_the_most_telling_kind_decides_the_remedy_of_a_secret() -> None:
    together = merge(
        [
            finding(rule="Secret Keyword", tool="detect-secrets", secret=True),
            finding(rule="Private Key", tool="detect-secrets", secret=True),
        ]
    )
    assert remedy(together[0]).startswith("Treat the key as leaked")


# --- parsers -------------------------------------------------------------------------------------------------------


def test_bandit_messages_and_code_do_not_pass_the_parser() -> None:
    document = {
        "errors": [{"filename": "/r/b.py", "reason": "syntax error while parsing AST from file"}],
        "results": [
            {
                "code": "1 password = 'hunter2'\n",
                "filename": "/r/a.py",
                "issue_severity": "LOW",
                "issue_text": "Possible hardcoded password: 'hunter2'",
                "line_number": 1,
                "more_info": "https://x/b105_hardcoded_password_string.html",
                "test_id": "B105",
                "test_name": "hardcoded_password_string",
            }
        ],
    }
    scan = BANDIT.parse("/r", [source("/r/a.py"), source("/r/b.py")], document)
    assert "hunter2" not in repr(scan)
    assert scan.findings == [
        finding(
            rule="B105",
            tool="bandit",
            severity="medium",
            secret=True,
            title="hardcoded password string",
        )
    ]
    assert scan.problems == [Problem(file="b.py", problem="syntax", tool="bandit")]


def test_detect_secrets_hashes_do_not_pass_the_parser() -> None:
    item = {"type": "Private Key", "filename": "/r/k.pem", "hashed_secret": "be4fc488", "line_number": 3}
    scan = DETECT_SECRETS.parse("/r", [source("/r/k.pem", is_python=False)], {"results": {"k.pem": [item]}})
    assert "be4fc488" not in repr(scan)
    assert [(value.file, value.line, value.rule, value.severity) for value in scan.findings] == [
        ("k.pem", 3, "Private Key", "high")
    ]


def test_ruff_syntax_errors_are_problems_without_their_message() -> None:
    item = {
        "code": "invalid-syntax",
        "filename": "/r/a.py",
        "location": {"row": 7},
        "message": "Got unexpected token hunter2",
        "name": "invalid-syntax",
    }
    scan = RUFF.parse("/r", [source("/r/a.py")], [item])
    assert scan.findings == []
    assert scan.problems == [Problem(file="a.py", problem="syntax", tool="ruff", line=7)]


def test_detect_secrets_never_verifies_over_the_network() -> None:
    assert "--no-verify" in DETECT_SECRETS.args("/r", [source("/r/a.py")])


@pytest.mark.parametrize("scanner", [RUFF, BANDIT, DETECT_SECRETS], ids=lambda scanner: scanner.name)
def test_file_names_come_after_the_end_of_options(scanner: Scanner) -> None:
    args = scanner.args("/r", [source("/r/-x.py"), source("/r/y.py")])
    assert args[args.index("--") + 1 :] == ["/r/-x.py", "/r/y.py"]


def test_missing_tools_are_named_with_the_extra() -> None:
    gone = Scanner(
        name="ruff", module="no_such_tool_here", python_only=True, args=RUFF.args, parse=RUFF.parse
    )
    with pytest.raises(
        ToolsMissingError, match=r"not installed: ruff; run `pip install 'cas-events\[demo\]'`"
    ):
        require_tools([gone])


# --- files ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(0, FILE_BYTES_MAX)), max_size=200))
@settings(max_examples=30, deadline=None)
def test_batches_keep_order_and_bounds(shapes: list[tuple[int, int]]) -> None:
    files = [source(f"/r/{'x' * length}", size_bytes=size) for length, size in shapes]
    cut = list(batches(files))
    assert [file for batch in cut for file in batch] == files
    for batch in cut:
        assert 1 <= len(batch) <= BATCH_FILES
        assert len(batch) == 1 or sum(len(file.path) + 1 for file in batch) <= BATCH_PATH_BYTES
        assert len(batch) == 1 or sum(file.size_bytes for file in batch) <= BATCH_CONTENT_BYTES


def test_listing_leaves_out_what_is_not_the_projects_own(tmp_path) -> None:
    for folder in (".git", "node_modules", "pkg/__pycache__", "env"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.py").write_text("assert 1\n")
    (tmp_path / "env" / "pyvenv.cfg").write_text("")
    (tmp_path / "pkg" / "a.py").write_text("assert 1\n")
    (tmp_path / "tool").write_text("#!/usr/bin/env python3\nassert 1\n")
    (tmp_path / "image.bin").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "big.txt").write_bytes(b"x" * (FILE_BYTES_MAX + 1))
    os.mkfifo(tmp_path / "pipe.py")
    tree = list_tree(tmp_path, files_max=100, stop=threading.Event())
    assert [(file.shown, file.is_python) for file in tree.files] == [("pkg/a.py", True), ("tool", True)]
    assert tree.skipped == {"folder": 4, "binary": 1, "special": 1}
    assert tree.problems == [Problem(file="big.txt", problem="too_large")]


def test_listing_follows_no_link(tmp_path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.py").write_text("assert 1\n")
    root = tmp_path / "root"
    root.mkdir()
    (root / "loop").symlink_to(root)
    (root / "out").symlink_to(outside)
    (root / "file.py").symlink_to(outside / "secret.py")
    (root / "dangling.py").symlink_to("nowhere")
    tree = list_tree(root, files_max=100, stop=threading.Event())
    assert tree.files == []
    assert tree.skipped == {"symlink": 4}


def test_listing_counts_what_is_over_the_limit_and_stops_when_told(tmp_path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.py").write_text("")
    tree = list_tree(tmp_path, files_max=2, stop=threading.Event())
    assert [file.shown for file in tree.files] == ["0.py", "1.py"]
    assert tree.skipped == {"over_limit": 3}
    stop = threading.Event()
    stop.set()
    assert list_tree(tmp_path, files_max=2, stop=stop).files == []


def test_a_file_that_fails_to_read_is_a_problem() -> None:
    # An I/O error for everybody, root included.
    tree = list_tree(resolve_root("/proc/self/mem"), files_max=1, stop=threading.Event())
    assert tree.problems == [Problem(file="mem", problem="unreadable")]


def test_files_and_folders_without_permission_are_problems() -> None:
    # Outside of pytest's folder, which is closed to the user that root becomes here.
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "locked.py").write_text("assert 1\n")
        (root / "locked.py").chmod(0)
        (root / "closed").mkdir(mode=0)
        with _without_privileges():
            tree = list_tree(root, files_max=1, stop=threading.Event())
    assert sorted(tree.problems) == [
        Problem(file="closed", problem="unreadable"),
        Problem(file="locked.py", problem="unreadable"),
    ]


@contextlib.contextmanager
def _without_privileges() -> Iterator[None]:
    identity = os.geteuid()
    if identity == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(identity)


@pytest.mark.parametrize("path", ["gone", "a.py/x", "loop", "nul\0byte", "x" * 5000])
def test_a_path_that_leads_nowhere_is_named(tmp_path, path: str) -> None:
    (tmp_path / "a.py").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(PathNotFoundError, match="cannot read"):
        resolve_root(f"{tmp_path}/{path}")
    assert issubclass(PathNotFoundError, FileNotFoundError)


def test_the_whole_file_system_is_refused() -> None:
    with pytest.raises(InvalidCommandError, match="whole file system"):
        resolve_root("/")


@given(st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name))
def test_shown_paths_are_printable_and_json_able(name: bytes) -> None:
    shown = shown_path(os.fsdecode(name))
    assert shown.isprintable()
    shown.encode()


# --- tally and report ----------------------------------------------------------------------------------------------


def _tree(*names: str) -> Tree:
    return Tree(root="/r", files=[source(f"/r/{name}") for name in names])


def _report(tally: Tally) -> ScanReport:
    return tally.report(path="/r", duration_s={"total": 1.0}, max_remediations=5)


@given(st.lists(st.lists(findings, max_size=10), max_size=6), st.integers(1, 8))
@settings(deadline=None)
def test_the_report_does_not_depend_on_the_order_of_batches(parts: list[list[Finding]], kept: int) -> None:
    reports = []
    for order in (parts, parts[::-1]):
        tally = Tally(_tree("a.py", "b.py", "c/d.py"), findings_max=kept)
        for part in order:
            tally.add_findings(part)
        reports.append(_report(tally))
    assert reports[0] == reports[1]
    everything = sorted((value for part in parts for value in part), key=finding_order)
    assert reports[0].findings == tuple(everything[:kept])
    assert reports[0].counts.total == len(everything)
    assert reports[0].findings_truncated == max(0, len(everything) - kept)


def test_files_with_a_secret_or_a_problem_get_no_diff() -> None:
    tally = Tally(_tree("clean.py", "plain.py", "secret.py", "broken.py", "od\nd.py"), findings_max=2)
    tally.add_findings([finding(file=file) for file in ("plain.py", "secret.py", "broken.py", "od\\nd.py")])
    tally.add_findings([finding(file="secret.py", rule="S105", secret=True, severity="low")])
    tally.add_problems([Problem(file="broken.py", problem="timeout", tool="detect-secrets")])
    report = _report(tally)
    assert report.diff_candidates == ("plain.py",)
    assert report.diffs_withheld == 1


def test_problems_are_told_once_and_broken_encoding_is_not_also_bad_syntax() -> None:
    tally = Tally(_tree("a.py", "b.py"), findings_max=2)
    first = tally.add_problems([Problem(file="a.py", problem="encoding")])
    again = tally.add_problems(
        [
            Problem(file="a.py", problem="syntax", tool="bandit"),
            Problem(file="b.py", problem="syntax", tool="ruff", line=2),
            Problem(file="b.py", problem="syntax", tool="bandit"),
        ]
    )
    assert [(value.file, value.problem, value.tool) for value in first + again] == [
        ("a.py", "encoding", ""),
        ("b.py", "syntax", "bandit"),
    ]
    assert _report(tally).problems == (*first, *again)


def test_a_report_survives_its_json_form() -> None:
    tally = Tally(_tree("a.py"), findings_max=2)
    tally.add_findings([finding()])
    report = _report(tally)
    assert read_input(ScanReport, to_json_value(report)) == report


@pytest.mark.parametrize(
    "value",
    [{}, {"path": 7}, {"path": ""}, {"path": ".", "max_files": 0}, {"path": ".", "max_findings": "many"}],
)
def test_input_of_a_wrong_shape_is_refused(value: dict) -> None:
    with pytest.raises(InvalidCommandError, match="input does not fit"):
        read_input(AuditInput, value)


# --- diffs ---------------------------------------------------------------------------------------------------------


def test_a_diff_is_split_at_the_headers_of_files() -> None:
    first = "@@ -1,2 +1,1 @@\n--- b.py\n-+++ b.py\n+c\n@@ -9 +8 @@\n-a\n+b"
    output = f"--- ../x/a.py\n+++ ../x/a.py\n{first}\n\n--- /y/b.py\n+++ /y/b.py\n@@ -1 +1 @@\n-a\n+b\n\n"
    assert split(output, folder="/r") == {"/x/a.py": f"{first}\n", "/y/b.py": "@@ -1 +1 @@\n-a\n+b\n"}
    assert split("", folder="/r") == {}


def test_diffs_are_bounded_whole() -> None:
    diffs = [ProposedDiff(file=str(number), diff="x" * size) for number, size in enumerate([50, 200, 60, 10])]
    assert [diff.file for diff in within(diffs, each_bytes=100, total_bytes=70)] == ["0", "3"]


def test_diffs_stay_below_the_root(tmp_path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.py").write_text("")
    (tmp_path / "b.py").write_text("")
    (root / "link.py").symlink_to(tmp_path / "b.py")
    names = ["a.py", "../b.py", "link.py", str(tmp_path / "b.py"), "gone.py", "nul\0.py"]
    assert existing(str(root), names) == ["a.py"]
