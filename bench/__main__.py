"""The yardstick's command line: python -m bench, or make bench.

--profile short | full | endurance | tiny
--system NAME     systems whose name contains NAME; repeatable
--workload NAME   workloads whose kind or name contains NAME; repeatable
--rounds N        instead of the profile's
--layout NAME     how pg_kafka stores compressed batches: rows | batches | auto (pg_kafka.storage_layout)
--list            what would run
--show FILE       tables, targets and chart of a saved run
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench import chart, results, tables, targets, turns
from bench.measurements import Measurement, summarize
from bench.profiles import PROFILES, Profile
from bench.systems import SYSTEMS

# In the full profile a JVM's warming up would show in the order of the workloads.
_WARM_UP_RECORDS = {"tiny": 10_000, "full": 2_000_000}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", choices=PROFILES, default="short")
    parser.add_argument("--system", action="append", default=[], metavar="NAME")
    parser.add_argument("--workload", action="append", default=[], metavar="NAME")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--layout", choices=("rows", "batches", "auto"))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--show", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=False) if sys.stdout.isatty() else Console(width=220)
    if options.show:
        show(console, results.load(options.show), results.saved_flush_ms(options.show), options.show)
        return 0
    profile = chosen(PROFILES[options.profile](), options.workload)
    systems = [name for name in SYSTEMS if _is_named(name, options.system or profile.systems)]
    if not profile.rows or not systems:
        parser.error("nothing of that name")
    if options.list:
        for rounds, workload in profile.rows:
            console.print(f"{rounds} x {type(workload).__name__:15} {workload.name}", highlight=False)
        return 0
    if options.layout:
        os.environ["PG_KAFKA_STORAGE_LAYOUT"] = options.layout
    # A signal must take the same way out as an error, past what stops the brokers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    warm_up = _WARM_UP_RECORDS.get(options.profile, turns.WARM_UP_RECORDS)
    outcome = turns.Outcome()
    try:
        rounds = options.rounds or profile.rounds
        turns.run(profile, systems, console, outcome, rounds=rounds, warm_up_records=warm_up)
    except (KeyboardInterrupt, SystemExit):
        outcome.failures.append("the run was interrupted")
    for missing in sorted(outcome.missing):
        console.print(f"not measured: {missing}")
    if outcome.measurements:
        path = results.save(options.profile, outcome.measurements, outcome.failures, outcome.flush_ms, outcome.seconds)
        show(console, outcome.measurements, outcome.flush_ms, path)
        console.print(f"{outcome.seconds:.0f} s, {path}")
    for failure in outcome.failures:
        console.print(f"[red]failed[/] {failure}")
    return 1 if outcome.failures else 0


def show(console: Console, measurements: Sequence[Measurement], flush_ms: Sequence[float], path: Path) -> None:
    """Tables on the terminal; beside the JSON file the same as Markdown, and a chart."""
    summaries = summarize(measurements)
    sheets = tables.sheets(summaries)
    met = list(targets.rows(summaries, flush_ms))
    flush = ", ".join(f"{one:.2f}" for one in flush_ms)
    legend = f"s/M: processor seconds for a million records. A flush of 8 kB takes {flush} ms."
    for sheet in sheets:
        console.print(sheet.as_table())
        console.print()
    if met:
        console.print(targets.table(met))
    console.print(legend, highlight=False)
    parts = [targets.markdown(met) if met else "", *(sheet.as_markdown() for sheet in sheets), legend, ""]
    path.with_suffix(".md").write_text("\n".join(parts))
    chart.write(path.with_suffix(".svg"), summaries, f"medians, {path.stem}; a flush of the disk takes {flush} ms")


def chosen(profile: Profile, wanted: Sequence[str]) -> Profile:
    rows = [row for row in profile.rows if _is_named(f"{type(row[1]).__name__} {row[1].name}", wanted)]
    return replace(profile, rows=rows)


def _is_named(name: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(part.lower() in name.lower() for part in wanted)


if __name__ == "__main__":
    sys.exit(main())
