"""What programs print of two brokers, made comparable line by line, and held against a table of docs/deviations.md.

What belongs to the place, the moment or the machine is replaced by a word for its kind. The order of lines is left to
the programs, which take it from hash tables.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from tests.compare.deviations import LineRow

Said = Mapping[str, Counter[str]]
"""The lines of each step."""

_OF_THE_PLACE = (
    (r"\b127\.0\.0\.1(:\d+| \d{5}\b)?", "<address>"),
    (r"\b[0-9a-f]{8}-[0-9a-f-]{27}\b", "<uuid>"),
    (r"(?<=TopicId: )\S{22}|(?<=Cluster ID: )\S{22}|(?<=ClusterId: )\S{22}|(?<=^\d )\S{22}(?= \d+ \d)", "<id>"),
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[,:.]\d{3}", "<time>"),
    (r"\b1[789]\d{11}\b", "<time>"),
    (r'"size":[1-9]\d*', '"size":<number>'),
    (r'"logDir":"[^"]*"', '"logDir":"<folder>"'),
    (r'"log_dirs":\["(?!any")[^"]*"\]', '"log_dirs":["<folder>"]'),
    (r"(?<=Epoch: )\d+|(?<=HighWatermark: )\d+|(?<=^\d <id> )\d+", "<number>"),
    # Apache Kafka sets this for the whole cluster when it is formatted: config-min-isr of the table of answers.
    (r"(?<=Configs: )min\.insync\.replicas=1,?", ""),
    # The measurements of kafka-producer-perf-test, kafka-consumer-perf-test and kafka-e2e-latency.
    (r"^(\d+ records sent), [\d.]+ records/sec.*", r"\1, <figures>"),
    (r"^<time>, <time>, [\d.]+, [\d.]+, (\d+), .*", r"\1 records read, <figures>"),
    (r"^(Avg latency:|Percentiles:) .*", r"\1 <figures>"),
    (r"^(\d+) \d+\.\d+$", r"\1 <figures>"),
    (r'("target_throughput":\d+,"avg_throughput"):[\d.]+', r"\1:<number>"),
    # How a verifiable consumer's records fall into polls is left to the moment.
    (r'.*("name":"(records_consumed|offsets_committed)").*', r"\1, ..."),
    # A member that is assigned a topic id before it has read the topic's name is assigned nothing at first.
    (r'.*"name":"partitions_assigned","partitions":\[\].*', ""),
    # A transaction's producer, and how long ago it began.
    (r"^(\d+ perf) \d+ (\d+ \w+ \d+ (?:<time>|None)) \d+$", r"\1 <id> \2 <number>"),
    (r"^(perf \d+) \d+ (\w+)$", r"\1 <id> \2"),
    (r"^\d+ (\d+ -1 \d+ <time> None)$", r"<id> \1"),
)
# Apache Kafka takes the mechanisms of a user from a hash table, in an order that each start gives anew.
_CREDENTIALS = re.compile(r"(SCRAM credential configs for user-principal '.*' are )(.*)")
_ONCE = re.compile(r'"name":"(records_consumed|offsets_committed)"')
_INSIDE_THE_PROGRAM = re.compile(r"\s+at [\w.$/]+\(|\s+\.\.\. \d+ more")


def comparable(lines: Iterable[str]) -> Counter[str]:
    """The lines without what is of the place, and without blanks and the insides of a program that failed."""
    found: Counter[str] = Counter()
    for line in lines:
        if _INSIDE_THE_PROGRAM.match(line) or not line.strip():
            continue
        plain = _with_sorted_keys(" ".join(line.replace("|", "/").replace("`", "'").split()))
        for pattern, word in _OF_THE_PLACE:
            plain = re.sub(pattern, word, plain).strip()
        if (credentials := _CREDENTIALS.fullmatch(plain)) is not None:
            plain = credentials[1] + ", ".join(sorted(credentials[2].split(", ")))
        if plain:
            found[plain] = 1 if _ONCE.search(plain) else found[plain] + 1
    return found


def _with_sorted_keys(line: str) -> str:
    """A line of JSON in one order, where programs take it from hash tables too."""
    try:
        return json.dumps(json.loads(line), sort_keys=True, separators=(",", ":")) if line.startswith("{") else line
    except ValueError:
        return line


def differences(step: str, kafka: Said, ours: Said) -> tuple[list[str], list[str]]:
    """The lines of a step that were only printed of Kafka, and those only of pg_kafka."""
    return sorted(kafka[step] - ours[step]), sorted(ours[step] - kafka[step])


def undocumented(step: str, kafka: Said, ours: Said, rows: Iterable[LineRow]) -> list[str]:
    """What differs in a step and is in no row."""
    naming = [row for row in rows if row.names(step)]
    of_kafka, of_ours = differences(step, kafka, ours)
    return [
        *(f"only of Kafka: {line}" for line in of_kafka if not any(row.allows_kafka(line) for row in naming)),
        *(f"only of pg_kafka: {line}" for line in of_ours if not any(row.allows_ours(line) for row in naming)),
    ]


def stale(row: LineRow, kafka: Said, ours: Said) -> set[str]:
    """The patterns of a row that nothing follows any more."""
    used: set[str] = set()
    for step in kafka:
        if row.names(step):
            of_kafka, of_ours = differences(step, kafka, ours)
            seen = row.patterns_in(of_kafka, row.kafka) | row.patterns_in(of_ours, row.ours)
            used |= seen | (row.patterns_in([step], row.steps) if seen else set())
    return {*row.steps, *row.kafka, *row.ours} - used
