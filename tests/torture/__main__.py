"""`scripts/torture`: random faults from a seed over a small fleet, the promises checked afterwards.

Exit code 0 only if there were faults, tasks and no violation.
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


def main() -> int:
    options = _options()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("tests.torture").setLevel(logging.INFO)
    logging.getLogger("cas_events.jetstream").setLevel(logging.ERROR)  # Lost connections are the point.
    os.environ["LOG"] = "ERROR"  # Of the runners.
    outcomes = [
        _run(options, minutes, is_cluster=is_cluster)
        for minutes, is_cluster in ((options.minutes, False), (options.cluster_minutes, True))
        if minutes > 0
    ]
    cases = _full_counts(options.counts) if options.counts else []
    if options.report:
        command = "scripts/torture " + shlex.join(sys.argv[1:])
        previous = options.report.read_text(encoding="utf-8") if options.report.exists() else ""
        options.report.write_text(page_of(outcomes, cases, command, previous=previous), encoding="utf-8")
    bad = [outcome for outcome in outcomes if outcome.violations or not (outcome.faults and outcome.tasks)]
    return 1 if bad or any(case.outcome != "passed" for case in cases) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="on one server; 0 for none")
    parser.add_argument(
        "--cluster-minutes", type=float, default=0.0, help="on three servers with three replicas"
    )
    parser.add_argument("--seed", type=int, default=1, help="of faults and workload")
    parser.add_argument("--runners", type=int, default=3)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument(
        "--counts", nargs="*", metavar="TEST", help="also run these fault tests at their full counts"
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


def _full_counts(tests: list[str]) -> list[Case]:
    """Run fault tests with TORTURE=1, in this repository's own pytest."""
    with tempfile.TemporaryDirectory(prefix="cas-torture-") as folder:
        results = Path(folder) / "results.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            f"--timeout={CASE_TIMEOUT_S}",
            f"--junitxml={results}",
            *tests,
        ]
        subprocess.run(command, env={**os.environ, "TORTURE": "1"}, check=False)
        found = ET.parse(results).iter("testcase")
        return [
            Case(
                f"{case.get('classname')}.{case.get('name')}",
                _outcome(case),
                float(case.get("time") or 0),
                {str(of.get("name")): str(of.get("value")) for of in case.iter("property")},
            )
            for case in found
        ]


def _outcome(case: ET.Element) -> str:
    problems = [child.tag for child in case if child.tag in {"failure", "error", "skipped"}]
    return problems[0] if problems else "passed"


if __name__ == "__main__":
    sys.exit(main())
