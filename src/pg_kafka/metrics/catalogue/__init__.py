"""Every metric that is served: the one list, from which docs/metrics.md is written and with which a test compares a broker.

    catalogue.process.STATE             one of them, for the source that tells it
    CATALOGUE["pg_kafka_state"]         by name

One file for each subject, with `TITLE` and `FAMILIES`; `SUBJECTS` below is the order of the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from pg_kafka.metrics.catalogue import (
    audit,
    cluster,
    connections,
    disk,
    groups,
    lag,
    lanes,
    memory,
    postgres,
    process,
    relay,
    requests,
    telemetry,
    topics,
    transactions,
    upkeep,
)
from pg_kafka.metrics.catalogue.family import Family as Family
from pg_kafka.metrics.catalogue.family import Kind as Kind

SUBJECTS: tuple[ModuleType, ...] = (
    process,
    connections,
    requests,
    memory,
    topics,
    groups,
    lag,
    transactions,
    relay,
    lanes,
    postgres,
    disk,
    upkeep,
    cluster,
    audit,
    telemetry,
)


def _by_name() -> Mapping[str, Family]:
    found: dict[str, Family] = {}
    for subject in SUBJECTS:
        for family in subject.FAMILIES:
            if family.name in found:
                raise ValueError(f"{family.name} is in the catalogue twice")
            found[family.name] = family
    return found


CATALOGUE = _by_name()
