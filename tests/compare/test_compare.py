"""Every request of the table gets the same answer from Apache Kafka and from pg_kafka, or the difference is documented.

The cases are in `cases_*.py`, the documented differences in docs/deviations.md; a row that no longer differs fails.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase

import pytest
from tests.compare.conftest import Seen
from tests.compare.deviations import PAGE, Row, rows
from tests.compare.scene import CASES, Case

from pg_kafka.broker.dispatch import APIS

ROWS = rows(PAGE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_answers_are_kafkas(case: Case, compared: Callable[[Case], Awaitable[Seen]]) -> None:
    unknown = [
        f"{field}: Kafka {kafka}, pg_kafka {ours} (versions {sorted(versions)})"
        for (field, kafka, ours), versions in (await compared(case)).items()
        if not any(row.allows(case.name, field, (kafka, ours)) for row in ROWS)
    ]
    assert not unknown, "not in the table of docs/deviations.md:\n" + "\n".join(unknown)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
async def test_documented_difference_is_there(row: Row, compared: Callable[[Case], Awaitable[Seen]]) -> None:
    used: set[str] = set()
    for case in CASES.values():
        if row.names(case.name):
            for field, kafka, ours in await compared(case):
                if row.allows(case.name, field, (kafka, ours)):
                    used |= {pattern for pattern in row.cases if fnmatchcase(case.name, pattern)}
                    used |= {pattern for pattern in row.fields if fnmatchcase(field, pattern)}
    stale = {*row.cases, *row.fields} - used
    assert not stale, f"row {row.id} of docs/deviations.md says of {sorted(stale)} what is no longer so"


def test_ids_are_unique() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)
def test_every_api_has_cases_in_its_lowest_and_highest_version(api: object) -> None:
    asked = {version for case in CASES.values() if case.api_key == api.key for version in case.versions}  # type: ignore[attr-defined]
    assert {api.min_version, api.max_version} <= asked  # type: ignore[attr-defined]
