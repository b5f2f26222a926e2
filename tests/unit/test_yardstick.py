"""The yardstick's own rules (bench/): what it makes of outputs, processes, rows and rounds."""

import json
import os
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from bench import chart, classic_groups, copy_rows, java, processes, tables, targets, width
from bench.measurements import KINDS, Measurement, summarize
from bench.meter import allocated_bytes
from bench.payloads import Payloads
from bench.profiles import PROFILES
from bench.results import load
from bench.systems import EMBEDDED, FLUSHING, SHIPPED, SYSTEMS

LATENCIES = "12.30 ms avg latency, 200.00 ms max latency"
PERF_TOOL = f"""\
60000 records sent, 100.0 records/sec (9.54 MB/sec), {LATENCIES}.
100000 records sent, 50000.5 records/sec (4.77 MB/sec), {LATENCIES}, 3 ms 50th, 10 ms 95th, 20 ms 99th, 41 ms 99.9th.
80000 steady state records sent, 70000.0 records/sec (6.7 MB/sec), {LATENCIES}, 1 ms 50th, 6 ms 95th, 7 ms 99th, 8 ms 99.9th.
"""


def measured(kind: str, system: str, round: int = 0, **figures: float) -> Measurement:
    settings = {"batch_bytes": 65_536, "producers": 1, "record_bytes": 100, "codec": "none", "records_per_s": 1000}
    return Measurement(kind, "a workload & more", system, round, figures, settings)


def test_perf_tool_is_understood() -> None:
    found = java.figures(PERF_TOOL, 100_000, 1)
    steady = {"steady_per_s": 70_000.0}
    assert found == {"records_per_s": 50_000.5, **steady, "p50_ms": 1.0, "p99_ms": 7.0, "p99.9_ms": 8.0}


def test_several_producers_take_as_long_as_the_slowest() -> None:
    found = java.figures(PERF_TOOL + PERF_TOOL.replace("50000.5", "40000.0"), 100_000, 2)
    assert (found["records_per_s"], found["steady_per_s"]) == (80_000.0, 140_000.0)


def test_perf_tool_that_did_not_finish_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="the perf tool ended with"):
        java.figures(PERF_TOOL, 100_000, 2)


@pytest.mark.parametrize("payload", ["random", "json"])
@pytest.mark.parametrize("record_bytes", [150, 1000])
def test_payloads_have_their_size_and_differ(tmp_path: Path, payload: str, record_bytes: int) -> None:
    lines = Payloads(tmp_path).file(payload, record_bytes).read_bytes().split(b"\n")
    assert {len(line) for line in lines} == {record_bytes}
    assert len(set(lines)) == len(lines) >= 1000
    if payload == "json":
        assert json.loads(lines[0])["note"]


def test_copy_files_are_cut_between_rows(tmp_path: Path) -> None:
    head = b"PGCOPY\n\xff\r\n\0" + bytes(8)
    rows = [struct.pack(">hi", 2, -1) + struct.pack(">i", 5 + n) + bytes(5 + n) for n in range(10)]
    whole = tmp_path / "whole"
    whole.write_bytes(head + b"".join(rows) + b"\xff\xff")

    pieces = copy_rows.split(whole, tmp_path / "pieces", piece_bytes=50)

    contents = [piece.read_bytes() for piece in pieces]
    assert len(contents) == 3
    assert all(content.startswith(head) and content.endswith(b"\xff\xff") for content in contents)
    assert b"".join(content[len(head) : -2] for content in contents) == b"".join(rows)


@pytest.fixture
def child() -> Iterator[int]:
    """A process that has used some processor time and waits."""
    work = "sum(range(10_000_000)); print(flush=True); input()"
    command = [sys.executable, "-c", work]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def test_time_of_a_role_is_not_that_of_another_below_it(child: int) -> None:
    alone = processes.cpu_s({"all": os.getpid()})["all"]
    parted = processes.cpu_s({"broker": os.getpid(), "PostgreSQL": child})
    assert parted["PostgreSQL"] > 0.05
    assert parted["broker"] + parted["PostgreSQL"] == pytest.approx(alone, abs=0.05)


def test_memory_of_processes(child: int) -> None:
    assert 3 < processes.rss_mb(child) < 100
    assert processes.memory_mb({"x": child})["x"] <= processes.rss_mb(child) * 1.05


def test_holes_take_no_disk(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 24)
    (tmp_path / "full").write_bytes(os.urandom(1 << 20))
    assert 1 << 20 <= allocated_bytes([tmp_path]) < 1 << 21


def test_partitions_are_shared_as_the_range_assignor_does() -> None:
    assert classic_groups.shares(7, 3) == [range(3), range(3, 5), range(5, 7)]
    assert classic_groups.assignment("ab", [4, 5]) == (
        b"\0\0" + b"\0\0\0\1" + b"\0\2ab" + b"\0\0\0\2" + b"\0\0\0\4\0\0\0\5" + b"\xff\xff\xff\xff"
    )


def test_times_in_records_are_found() -> None:
    stamps = [width._MARK + width._TIME.pack(due) for due in (1.5, 2.5)]
    assert width.due_times(b"x" + b"yz".join(stamps) + b"w") == [1.5, 2.5]
    assert width.due_times(b"") == []


def test_rounds_become_a_median_with_its_spread() -> None:
    rounds = [measured("produce", EMBEDDED, n, records_per_s=rate) for n, rate in enumerate((3.0, 1.0, 2.0))]
    [summary] = summarize(rounds).values()
    spread = summary.figures["records_per_s"]
    assert (spread.median, spread.low, spread.high) == (2.0, 1.0, 3.0)


def test_targets_say_met_and_missed() -> None:
    summaries = summarize(
        [
            measured("produce", EMBEDDED, records_per_s=150.0, wal_per_byte=1.4),
            measured("produce", FLUSHING, records_per_s=100.0),
            measured("produce", SHIPPED, records_per_s=300.0),
            measured("latency", EMBEDDED, p50_ms=4.0, p99_ms=9.0),
        ]
    )
    found = {(row.what.split(",")[0] + row.what[-6:], row.is_met) for row in targets.rows(summaries, [1.0, 2.0, 1.6])}
    by_name: Mapping[str, bool] = dict(found)
    assert by_name["produce" + "ages=1"] is True
    assert by_name["produce" + "hipped"] is False
    assert by_name["WAL for each payload byte" + "ecords"] is False
    assert by_name["p50 at 1k records/s in ms: two flushes and 1 ms" + "d 1 ms"] is True  # 2 x 1.6 + 1


def test_tables_have_ratios_and_chart_is_xml() -> None:
    summaries = summarize(
        [
            measured("produce", SHIPPED, records_per_s=100_000.0),
            measured("produce", EMBEDDED, records_per_s=150_000.0),
            measured("produce", EMBEDDED, 1, records_per_s=170_000.0),
        ]
    )
    [sheet] = tables.sheets(summaries)
    assert sheet.groups["a workload & more"] == [
        [EMBEDDED, "160", "150 - 170", ""],
        [SHIPPED, "100", "100 - 100", "1.60 x"],
    ]
    assert "| a workload & more | pg_kafka, embedded | 160 |" in sheet.as_markdown()
    assert sheet.as_table().row_count == 3
    root = ET.fromstring(chart.svg(summaries, "1 < 2"))
    assert root.tag.endswith("svg") and "160" in [element.text for element in root.iter() if element.text]


def test_saved_runs_are_read_back(tmp_path: Path) -> None:
    one = measured("sql", EMBEDDED, records_per_s=1.0)
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"measurements": [one.__dict__]}))
    assert load(path) == [one]


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_name_each_workload_once(name: str) -> None:
    profile = PROFILES[name]()
    names = [(type(workload), workload.name) for _, workload in profile.rows]
    assert len(set(names)) == len(names)
    assert set(profile.systems) <= set(SYSTEMS)
    assert profile.of_round(0) == [workload for _, workload in profile.rows]


def test_every_kind_has_columns() -> None:
    assert set(tables.COLUMNS) == set(KINDS)
    assert {target.kind for target in targets.TARGETS} <= set(KINDS)
