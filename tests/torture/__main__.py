"""`scripts/torture`: random faults from a seed over a small fleet, the promises checked afterwards.

With `--counts` the fault tests at their full counts, file by file. Exit code 0 only if there were faults, tasks and no
violation, and no test failed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shlex
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.torture.report import Case, page_of, text_of
from tests.torture.run import Outcome, torture

CASE_TIMEOUT_S = 1800
DEFAULT_MINUTES = 5.0


def main() -> int:
    options = _options()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("tests.torture").setLevel(logging.INFO)
    logging.getLogger("cas_events.jetstream").setLevel(logging.ERROR)  # Lost connections are the point.
    os.environ["LOG"] = "ERROR"  # Of the runners.
    is_only_counts = options.counts is not None and options.minutes is None
    minutes = 0.0 if is_only_counts else DEFAULT_MINUTES if options.minutes is None else options.minutes
    outcomes = [
        _run(options, minutes, is_cluster=is_cluster)
        for minutes, is_cluster in ((minutes, False), (options.cluster_minutes, True))
        if minutes > 0
    ]
    cases = [] if options.counts is None else _full_counts(options.counts or _fault_tests())
    if options.report:
        command = "scripts/torture " + shlex.join(sys.argv[1:])
        previous = options.report.read_text(encoding="utf-8") if options.report.exists() else ""
        options.report.write_text(page_of(outcomes, cases, command, previous=previous), encoding="utf-8")
    bad = [outcome for outcome in outcomes if outcome.violations or not (outcome.faults and outcome.tasks)]
    return 1 if bad or any(case.outcome != "passed" for case in cases) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/torture", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, help=f"on one server; {DEFAULT_MINUTES:g}, or none with --counts"
    )
    parser.add_argument(
        "--cluster-minutes", type=float, default=0.0, help="on three servers with three replicas"
    )
    parser.add_argument("--seed", type=int, default=1, help="of faults and workload")
    parser.add_argument("--runners", type=int, default=3)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument(
        "--counts",
        nargs="*",
        metavar="FILE",
        help="run the fault tests at their full counts: these files, or all of tests/faults",
    )
    parser.add_argument("--report", type=Path, help="the page to bring up to date, such as docs/torture.md")
    return parser.parse_args()


def _run(options: argparse.Namespace, minutes: float, *, is_cluster: bool) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="cas-torture-") as folder:
        outcome = asyncio.run(
            torture(
                Path(folder),
                minutes=minutes,
                seed=options.seed,
                runners=options.runners,
                clients=options.clients,
                is_cluster=is_cluster,
            )
        )
    sys.stdout.write(text_of(outcome) + "\n")
    sys.stdout.flush()
    return outcome


def _fault_tests() -> list[str]:
    return sorted(str(path) for path in Path("tests/faults").glob("test_*.py"))


def _full_counts(files: list[str]) -> list[Case]:
    """Run fault tests with TORTURE=1, file by file, in this repository's own pytest; tells of each file at its end."""
    cases: list[Case] = []
    for number, file in enumerate(files, 1):
        found = _run_file(file)
        cases += found
        failed = [case.name for case in found if case.outcome != "passed"]
        verdict = f"FAILED: {', '.join(failed)}" if failed else "passed"
        took_s = sum(case.took_s for case in found)
        sys.stdout.write(f"{number}/{len(files)} {file}: {len(found)} tests in {took_s:.0f} s, {verdict}\n")
        sys.stdout.flush()
    return cases


def _run_file(file: str) -> list[Case]:
    with tempfile.TemporaryDirectory(prefix="cas-torture-") as folder:
        results = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=native"]
        command += [f"--timeout={CASE_TIMEOUT_S}", f"--junitxml={results}", "-o", "junit_family=xunit1", file]
        # What pytest prints is for whoever looks into a failure.
        subprocess.run(command, env={**os.environ, "TORTURE": "1"}, stdout=sys.stderr, check=False)
        if not results.exists():
            return [Case(Path(file).stem, "pytest crashed", "error", 0.0)]
        return [_case(found) for found in ET.parse(results).iter("testcase")]


def _case(found: ET.Element) -> Case:
    measured = {str(of.get("name")): str(of.get("value")) for of in found.iter("property")}
    return Case(
        kind=str(found.get("classname")).rpartition(".")[2],
        name=str(found.get("name")),
        outcome=_outcome(found),
        took_s=float(found.get("time") or 0),
        cases=measured.pop("cases", ""),
        measured=measured,
    )


def _outcome(case: ET.Element) -> str:
    problems = [child.tag for child in case if child.tag in {"failure", "error", "skipped"}]
    return problems[0] if problems else "passed"


if __name__ == "__main__":
    sys.exit(main())
