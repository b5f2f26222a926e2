"""The bank for half a minute with each group protocol. `make bank` plays it for ten minutes.

PG_KAFKA_TEST_AGAINST_KAFKA=1 plays it on Apache Kafka too, with kills of tellers only.
"""

from __future__ import annotations

import os

import pytest
from tests.crash import bank
from tests.kafka_reference import ToolMissing, compiled
from tests.postgres import FLAVOURS

pytestmark = [pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore::ResourceWarning")]

SECONDS = 25.0
SEED = int(os.environ.get("PG_KAFKA_CRASH_SEED", "20"))
PROTOCOLS = pytest.mark.parametrize("protocol", ["classic", "consumer"])


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Java tellers can be built, and sessions of group members may be short."""
    try:
        compiled(bank.TELLER_SOURCE)
    except ToolMissing as missing:
        pytest.skip(str(missing))
    for name, value in bank.environment().items():
        monkeypatch.setenv(name, value)


@PROTOCOLS
async def test_no_transfer_is_lost_or_doubled(protocol: str) -> None:
    if FLAVOURS["postgresql-15"]() is None:
        pytest.skip("no PostgreSQL server found: /usr/lib/postgresql/*/bin and pg_config were tried")
    report = await bank.run(SEED, protocol, SECONDS)
    print(report.line())
    again = f"again: python -m tests.crash.bank --seed {SEED} --protocol {protocol} --seconds {SECONDS:.0f}"
    assert not report.faults, "\n".join([report.line(), again, *report.faults])


@PROTOCOLS
@pytest.mark.skipif(os.environ.get("PG_KAFKA_TEST_AGAINST_KAFKA") != "1", reason="checks the test itself")
async def test_apache_kafka_keeps_the_books(protocol: str) -> None:
    report = await bank.run_on_kafka(SEED, protocol, SECONDS)
    print(report.line())
    assert not report.faults, "\n".join([report.line(), *report.faults])
