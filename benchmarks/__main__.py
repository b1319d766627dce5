"""The command behind `scripts/bench`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks import growth, machine
from benchmarks.figures import from_asking, from_observing, from_replay, from_rounds
from benchmarks.plan import MEASUREMENTS, QUICK, Sizes
from benchmarks.report import Report, markdown, table
from benchmarks.rounds import asking, observing, replay, run

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks.md"
ROUNDS = 7
QUICK_ROUNDS = 3
WIDTH = 132  # of what is no terminal


def main() -> int:
    """Run, show, and write what was asked for."""
    options = _options()
    if options.growth:
        print(json.dumps(asyncio.run(growth.measure(options.growth)), indent=2))
        return 0
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    if options.from_json:
        report = msgspec.json.decode(options.from_json.read_bytes(), type=Report)
    else:
        report = asyncio.run(_measure(options))
    console.print(table(report))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    if options.write_docs:
        DOCS.write_text(markdown(report), encoding="utf-8")
        console.print(f"wrote {DOCS}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure the runtime against a floor.")
    parser.add_argument(
        "--rounds", type=int, help=f"how often each side runs (default {ROUNDS}, quick {QUICK_ROUNDS})"
    )
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, help="only this; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement to FILE")
    parser.add_argument("--write-docs", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument(
        "--growth",
        type=growth.sizes_of,
        metavar="EVENTS,…",
        help="only how the tables grow, with logs of so many events, e.g. 10000,100000,1000000,10000000: rates, memory, "
        "the check, with and without signing; JSON, a line a size on stderr; half a gigabyte of disk for a million events",
    )
    parser.add_argument(
        "--from", dest="from_json", type=Path, metavar="FILE", help="measure nothing, take a run's JSON"
    )
    return parser.parse_args()


async def _measure(options: argparse.Namespace) -> Report:
    sizes = QUICK if options.quick else Sizes()
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    wanted = tuple(options.only or MEASUREMENTS)
    load_before, began_s = machine.load(), time.monotonic()
    with Console(stderr=True).status("") as status:
        measured = (
            await run(wanted, sizes, rounds, status.update)
            if set(wanted) - {"replay", "asking", "observing"}
            else []
        )
        replayed = await replay(sizes, status.update) if "replay" in wanted else {}
        asked = await asking(sizes, status.update) if "asking" in wanted else {}
        observed = await observing(sizes, status.update) if "observing" in wanted else {}
    return Report(
        machine={**machine.describe(), "load": f"{load_before} before, {machine.load()} after"},
        rounds_count=rounds,
        sizes=sizes,
        seconds=time.monotonic() - began_s,
        figures=[
            *from_rounds(measured),
            *from_replay(replayed),
            *from_asking(asked),
            *from_observing(observed),
        ],
        rounds=measured,
        replay=replayed,
    )


if __name__ == "__main__":
    sys.exit(main())
