"""Each alert on series that are made up for it, by promtool: when it fires, when not yet, and what it says then.

`tests/metrics/test_alerts.py` has some of them fire on real brokers.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from tests.metrics.prometheus import promtool as run_promtool

from pg_kafka.dashboards import alerts
from pg_kafka.dashboards.rules import Rule, as_dict, as_yaml
from pg_kafka.metrics.catalogue import CATALOGUE

ROOT = Path(__file__).parents[2]
HERE = 'job="kafka",instance="a:1"'
OTHER = 'job="kafka",instance="b:1"'
BY_NAME = {rule.name: rule for rule in alerts.RULES}


@dataclasses.dataclass(frozen=True)
class Case:
    """Series from minute 0 on, in promtool's notation (`0x10` is eleven times 0); minutes when the alert fires."""

    rule: str
    series: Mapping[str, str]
    fires: Sequence[int]
    is_quiet: Sequence[int]
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    says: str = ""  # a part of its summary


BUILD = f'pg_kafka_build_info{{{HERE},version="1",python="3"}}'

CASES = (
    Case(
        "PgKafkaDown",
        {f"up{{{HERE}}}": "1x9 0x30", BUILD: "1x9 _x30"},
        [13, 30],
        [5, 11],
        {"instance": "a:1"},
        "a:1 does not answer",
    ),
    Case("PgKafkaDown", {f"up{{{HERE}}}": "0x30"}, [], [20]),  # it was never a broker
    Case(
        "PgKafkaNoLeader",
        {f"pg_kafka_leader{{{HERE}}}": "1x9 0x30", f"pg_kafka_leader{{{OTHER}}}": "0x19 1x9 0x9"},
        [12, 19, 32],
        [5, 25],
        says="No broker of kafka",
    ),
    Case(
        "PgKafkaLeaderLost",
        {f"pg_kafka_fenced_brokers_total{{{HERE}}}": "0x9 1x40"},
        [11, 20],
        [9, 30],
    ),
    Case(
        "PgKafkaLeaderLost",
        {
            f'pg_kafka_incarnations_ended_total{{{HERE},cause="late"}}': "0x9 1x40",
            f'pg_kafka_incarnations_ended_total{{{HERE},cause="fenced"}}': "0x40",
        },
        [11, 20],
        [9, 30],
    ),
    Case(  # killed, and started again within a minute; `time()` is 0 in minute 0
        "PgKafkaLeaderLost",
        {
            f"pg_kafka_fenced_brokers_total{{{HERE}}}": "0x9 _ 1x40",
            f"process_start_time_seconds{{{HERE}}}": "-100000x9 _ 600x40",
        },
        [11, 20],
        [9, 30],
    ),
    Case(  # stopped in order, and another one that waited leads
        "PgKafkaLeaderLost",
        {
            f'pg_kafka_incarnations_ended_total{{{HERE},cause="stopped"}}': "0x9 1x40",
            f'pg_kafka_incarnations_ended_total{{{HERE},cause="late"}}': "0x40",
            f"pg_kafka_take_overs_total{{{OTHER}}}": "0x9 1x40",
            f"pg_kafka_fenced_brokers_total{{{OTHER}}}": "0x40",
        },
        [],
        [11, 20],
    ),
    Case(
        "PgKafkaDatabaseAway",
        {f"pg_kafka_heartbeat_age_seconds{{{HERE}}}": "0x9 60+60x9 0x9"},
        [10, 15],
        [9, 25],
        says="for 1m 0s",
    ),
    Case(  # another broker leads, which is heard from
        "PgKafkaDatabaseAway",
        {f"pg_kafka_heartbeat_age_seconds{{{HERE}}}": "60x9", f"pg_kafka_heartbeat_age_seconds{{{OTHER}}}": "1x9"},
        [],
        [5],
    ),
    Case(
        "PgKafkaLaneNotReady",
        {f'pg_kafka_lane_ready{{{HERE},lane="0"}}': "1x9 0x9 1x9", f'pg_kafka_lane_ready{{{HERE},lane="1"}}': "1x30"},
        [12],
        [10, 25],
        {"lane": "0"},
        "Lane 0 of kafka",
    ),
    Case("PgKafkaPostgresHangs", {f"pg_kafka_postgres_hanging_backends{{{HERE}}}": "0x9 2x9 0x9"}, [12], [9, 10, 25]),
    Case(
        "PgKafkaCommitsSlow",
        {
            f'pg_kafka_lane_commit_seconds_bucket{{{HERE},le="0.5"}}': "0+100x9 1000+50x40",
            f'pg_kafka_lane_commit_seconds_bucket{{{HERE},le="1.0"}}': "0+100x9 1000+100x40",
            f'pg_kafka_lane_commit_seconds_bucket{{{HERE},le="+Inf"}}': "0+100x9 1000+100x40",
        },
        [25],
        [9, 15],
        says="are slow",
    ),
    Case("PgKafkaDiskFull", {f"pg_kafka_disk_nearly_full{{{HERE}}}": "0x9 1x9 0x9"}, [11], [9, 25]),
    Case(
        "PgKafkaDiskFillsUp",
        {
            f"pg_kafka_disk_size_bytes{{{HERE}}}": "100x60",
            f"pg_kafka_disk_reserve_bytes{{{HERE}}}": "5x60",
            f"pg_kafka_disk_free_bytes{{{HERE}}}": "50x9 14x30 50x20",
        },
        [21, 39],
        [9, 19, 45],
        says="fills up",
    ),
    Case(
        "PgKafkaSnapshotHeld",
        {
            f'pg_kafka_oldest_snapshot_seconds{{{HERE},held_by="session"}}': "3000+60x60",
            f'pg_kafka_oldest_snapshot_seconds{{{HERE},held_by="prepared transaction"}}': "0x60",
        },
        [17, 50],
        [9, 12],
        {"held_by": "session"},
        "A session has held a snapshot for 1h",
    ),
    Case(
        "PgKafkaReplicationSlotKeepsWal",
        {f"pg_kafka_replication_slot_bytes{{{HERE}}}": "0x9 11000000000x30"},
        [21],
        [9, 15],
        says="keeps 10.24GiB of WAL",
    ),
    Case(
        "PgKafkaTransactionIdsOld",
        {f"pg_kafka_postgres_xid_age{{{HERE}}}": "200000000x9 1200000000x90 0x9"},
        [75],
        [9, 60],
        says="not frozen in time",
    ),
    Case(
        "PgKafkaConsumerLag",
        {
            f'pg_kafka_consumergroup_lag_seconds{{{HERE},consumergroup="billing",topic="orders"}}': "0+60x9 _x60",
            f'pg_kafka_consumergroup_lag_seconds{{{OTHER},consumergroup="billing",topic="orders"}}': "_x9 600+60x30 0x9",
            f'pg_kafka_consumergroup_lag_seconds{{{HERE},consumergroup="fast",topic="orders"}}': "200x60",
        },
        [12, 30],  # it goes on over a take-over
        [5, 8, 45],
        {"consumergroup": "billing", "topic": "orders"},
        "Group billing is",
    ),
    Case(
        "PgKafkaTransactionOpen",
        {f"pg_kafka_oldest_open_transaction_seconds{{{HERE}}}": "0x9 0+60x40"},
        [32],
        [9, 25, 29],
    ),
    Case(
        "PgKafkaUpkeepFails",
        {f'pg_kafka_upkeep_failures_total{{{HERE},task="janitor",work="seal"}}': "0x9 0+1x60"},
        [35],
        [9, 25],
        {"task": "janitor", "work": "seal"},
    ),
)


def test_every_rule_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert {case.rule for case in CASES if case.fires} == set(BY_NAME)
    assert {case.rule for case in CASES if case.is_quiet} == set(BY_NAME)


def checked(case: Case, folder: Path, minutes: Mapping[int, bool], rules: Sequence[Rule]) -> str:
    """What promtool says when the alert of the case should fire, or not, in these minutes. Empty: it is so."""
    (folder / "rules.yml").write_text(as_yaml(rules, alerts.HEADING))
    rule = BY_NAME[case.rule]
    labels = {"severity": rule.severity, "job": "kafka", **case.labels}
    annotations = dataclasses.replace(rule, summary="", description="", action="").annotations
    expected = [{"exp_labels": labels, "exp_annotations": annotations}]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": case.rule, "exp_alerts": expected if fires else []}
            for minute, fires in minutes.items()
        ],
    }
    tests = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]}
    (folder / "tests.yml").write_text(json.dumps(tests))
    done = run_promtool("test", "rules", str(folder / "tests.yml"))
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_an_alert_fires_when_it_should(promtool: str, case: Case, tmp_path: Path) -> None:
    silent = [dataclasses.replace(one, summary="", description="", action="") for one in alerts.RULES]
    minutes = dict.fromkeys(case.fires, True) | dict.fromkeys(case.is_quiet, False)
    assert checked(case, tmp_path, minutes, silent) == ""


@pytest.mark.parametrize("rule", alerts.RULES, ids=lambda rule: rule.name)
def test_an_alert_says_what_it_is_about(promtool: str, rule: Rule, tmp_path: Path) -> None:
    """promtool shows the alert that it did not expect."""
    case = next(case for case in CASES if case.rule == rule.name and case.fires)
    said = checked(case, tmp_path, {case.fires[0]: False}, alerts.RULES)
    assert case.says in said
    assert "no value" not in said
    assert "expanding template" not in said


def test_promtool_accepts_the_file(promtool: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.yml"
    path.write_text(as_yaml(alerts.RULES, alerts.HEADING))
    done = run_promtool("check", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(alerts.RULES)} rules found" in done.stdout
    assert as_dict(alerts.RULES)["groups"][0]["rules"][0]["alert"] in path.read_text()


@pytest.mark.parametrize("rule", alerts.RULES, ids=lambda rule: rule.name)
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: Rule) -> None:
    for text in (rule.description, rule.action):
        assert text.rstrip("`").endswith("."), text
    assert not rule.summary.endswith(".")
    assert rule.severity in (alerts.CRITICAL, alerts.WARNING)
    page, _, anchor = rule.section.partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert not anchor or anchor in anchors, sorted(anchors)


def test_no_metric_has_a_label_that_prometheus_gives_to_what_it_scrapes() -> None:
    assert not [family.name for family in CATALOGUE.values() if {"job", "instance"} & set(family.labels)]
