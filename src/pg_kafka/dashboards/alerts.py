"""What is worth telling somebody: few alerts, each with what to do.

Labels of one broker are left out where the matter goes on when another broker takes over. Numbers that depend on what is
run stand at the end of an expression, to be found and changed in the file that is written.
"""

from __future__ import annotations

from typing import Final

from pg_kafka.dashboards.rules import Rule

HEADING: Final = """Alerts of pg_kafka for Prometheus, from "pg-kafka dashboards": name this file in rule_files of prometheus.yml.
Numbers at the end of expressions are limits that depend on what you run; change them as you need.
docs/dashboards.md says what each alert means and what to do."""

CRITICAL, WARNING = "critical", "warning"

RULES: Final = (
    Rule(
        "PgKafkaDown",
        # Who has been a broker of ours within a day; the job may be called as you like.
        "up == 0 and on (job, instance) count by (job, instance) (max_over_time(pg_kafka_build_info[1d])) > 0",
        minutes=2,
        severity=WARNING,
        summary="The broker at {{ $labels.instance }} does not answer",
        description="Prometheus has not reached it for two minutes. If it led, another broker that waits leads now.",
        action="Look whether the process runs, and at the last lines of its log.",
        section="operations.md#starting-and-stopping",
    ),
    Rule(
        "PgKafkaNoLeader",
        "max without (instance, pod) (pg_kafka_leader) == 0",
        minutes=1,
        severity=CRITICAL,
        summary="No broker of {{ $labels.job }} serves clients",
        description="Brokers run, and none of them leads: clients can neither write nor read.",
        action="Look at the log of a broker for `cannot lead`, whose `reason` says what is wrong: mostly the way to the"
        " database. `pg-kafka doctor` with the broker's settings checks the rest.",
        section="diagnostics.md#log-lines",
    ),
    Rule(
        "PgKafkaLeaderLost",
        "sum without (instance, pod) (increase(pg_kafka_fenced_brokers_total[15m])) > 0\n"
        "or\n"
        'sum without (instance, pod, cause) (increase(pg_kafka_incarnations_ended_total{cause!="stopped"}[15m])) > 0\n'
        "or\n"  # a process that was killed and started again counts anew
        "sum without (instance, pod)"
        " (pg_kafka_fenced_brokers_total and on (job, instance) time() - process_start_time_seconds < 900) > 0",
        minutes=0,
        severity=WARNING,
        summary="A leader of {{ $labels.job }} was lost",
        description="Within the last 15 minutes a broker stopped leading otherwise than in good order, or was found dead by"
        " the one that took over. Clients waited meanwhile; what was acknowledged is there.",
        action="Find `leadership ended` or `fenced a dead broker` in the logs of both brokers: a process that was killed, a"
        " machine or a network that stood still, or a database that did not answer for pg_kafka.eviction_ms.",
        section="operations.md#several-brokers",
    ),
    Rule(
        "PgKafkaDatabaseAway",
        "min without (instance, pod) (pg_kafka_heartbeat_age_seconds) > 15",
        minutes=0,
        severity=CRITICAL,
        summary="PostgreSQL has not answered the leader of {{ $labels.job }} for {{ $value | humanizeDuration }}",
        description="The leader's heartbeat does not get through. Producers wait, and a broker that waits may take over.",
        action="Look whether PostgreSQL runs, and whether the broker's machine reaches it: `heartbeat failed` in the log says"
        " what it met.",
        section="diagnostics.md#log-lines",
    ),
    Rule(
        "PgKafkaLaneNotReady",
        "min without (instance, pod) (pg_kafka_lane_ready) == 0",
        minutes=1,
        severity=CRITICAL,
        summary="Lane {{ $labels.lane }} of {{ $labels.job }} takes no records",
        description="For a minute it has had no sessions with PostgreSQL, or a commit whose end is not known. Producers of a"
        " part of all partitions wait, or get errors that they try again.",
        action="Look for `lane broken` and `lane cannot reconnect` in the log, then whether PostgreSQL runs and has room for"
        " connections.",
        section="diagnostics.md#log-lines",
    ),
    Rule(
        "PgKafkaPostgresHangs",
        "max without (instance, pod) (pg_kafka_postgres_hanging_backends) > 0",
        minutes=1,
        severity=CRITICAL,
        summary="PostgreSQL does not answer the broker of {{ $labels.job }}",
        description="{{ $value }} of the broker's sessions get no answer: for a lock that somebody holds, for a disk, or for a"
        " synchronous standby.",
        action="`a backend does not answer` in the log says which process of PostgreSQL, what it waits for, and who blocks it.",
        section="diagnostics.md#log-lines",
    ),
    Rule(
        "PgKafkaCommitsSlow",
        "histogram_quantile(0.99, sum without (instance, pod) (rate(pg_kafka_lane_commit_seconds_bucket[5m]))) > 0.5",
        minutes=10,
        severity=WARNING,
        summary="Commits of {{ $labels.job }} are slow",
        description="One in a hundred takes {{ $value | humanizeDuration }} or longer; producers with acks=all wait as long.",
        action="Compare with the time that a flush takes (`pg-kafka doctor` measures it), and look for checkpoints, backups and"
        " neighbours on the same disk, and for a synchronous standby that is far away.",
        section="operations.md#settings-of-postgresql-that-matter",
    ),
    Rule(
        "PgKafkaDiskFull",
        "max without (instance, pod) (pg_kafka_disk_nearly_full) == 1",
        minutes=0,
        severity=CRITICAL,
        summary="The disk of {{ $labels.job }} is full: records are refused",
        description="Less is free than pg_kafka.disk_reserve_bytes, so producers get KAFKA_STORAGE_ERROR. Reading goes on.",
        action="Make room on the volume of the data folder: lower `retention.ms` or `retention.bytes` of large topics, delete"
        " topics, or enlarge the volume. Records are taken again by themselves.",
        section="operations.md#what-is-deleted-and-when",
    ),
    Rule(
        "PgKafkaDiskFillsUp",
        "min without (instance, pod)"
        " ((pg_kafka_disk_free_bytes - pg_kafka_disk_reserve_bytes) / pg_kafka_disk_size_bytes) < 0.1",
        minutes=10,
        severity=WARNING,
        summary="The disk of {{ $labels.job }} fills up",
        description="{{ $value | humanizePercentage }} of the volume are left before records are refused.",
        action="`kafka.topic_sizes` shows which topics are large. Lower their retention, or enlarge the volume.",
        section="operations.md#what-is-deleted-and-when",
    ),
    Rule(
        "PgKafkaSnapshotHeld",
        "max without (instance, pod) (pg_kafka_oldest_snapshot_seconds) > 3600",
        minutes=5,
        severity=WARNING,
        summary="A {{ $labels.held_by }} has held a snapshot for {{ $value | humanizeDuration }}",
        description="While it does, PostgreSQL cannot vacuum, and the space of deleted records does not come back.",
        action="`SELECT pid, usename, application_name, xact_start, query FROM pg_stat_activity WHERE backend_xmin IS NOT NULL"
        " ORDER BY xact_start` shows the sessions, `pg_prepared_xacts` the prepared transactions: end the one that was"
        " forgotten, and set idle_in_transaction_session_timeout for its role.",
        section="operations.md#settings-of-postgresql-that-matter",
    ),
    Rule(
        "PgKafkaReplicationSlotKeepsWal",
        "max without (instance, pod) (pg_kafka_replication_slot_bytes) > 10e9",
        minutes=10,
        severity=WARNING,
        summary="A replication slot of {{ $labels.job }} keeps {{ $value | humanize1024 }}B of WAL",
        description="WAL is kept until the slot's reader has taken it, and the disk fills up when nobody does.",
        action="`SELECT slot_name, active, restart_lsn FROM pg_replication_slots` shows it. Start its reader, or drop it with"
        " `pg_drop_replication_slot`, and set max_slot_wal_keep_size.",
        section="operations.md#settings-of-postgresql-that-matter",
    ),
    Rule(
        "PgKafkaTransactionIdsOld",
        "max without (instance, pod) (pg_kafka_postgres_xid_age) > 1e9",
        minutes=60,
        severity=WARNING,
        summary="Transaction ids in the database of {{ $labels.job }} are not frozen in time",
        description="The oldest is {{ $value | humanize }} transactions old. At 2.1 billion PostgreSQL takes no writes any more.",
        action="Something holds vacuum back: a snapshot, a prepared transaction or a replication slot that is held for days, or"
        " autovacuum that is off. `pg-kafka doctor` names it.",
        section="operations.md#settings-of-postgresql-that-matter",
    ),
    Rule(
        "PgKafkaConsumerLag",
        "max without (instance, pod, partition) (pg_kafka_consumergroup_lag_seconds) > 300",
        minutes=5,
        severity=WARNING,
        summary="Group {{ $labels.consumergroup }} is {{ $value | humanizeDuration }} behind in {{ $labels.topic }}",
        description="Its oldest unread record was written so long ago.",
        action="`SELECT * FROM kafka.consumer_lag` shows the partitions and their members; without a member nobody reads them."
        " Add consumers (no more than there are partitions), or look why those that there are do not keep up. Delete a group"
        " that nobody needs any more: `kafka-consumer-groups.sh --delete --group NAME`.",
        section="sql.md#consumer-groups",
    ),
    Rule(
        "PgKafkaTransactionOpen",
        "max without (instance, pod) (pg_kafka_oldest_open_transaction_seconds) > 900",
        minutes=5,
        severity=WARNING,
        summary="A transaction of {{ $labels.job }} has been open for {{ $value | humanizeDuration }}",
        description="Consumers with isolation.level=read_committed get nothing that was written behind its first record.",
        action="`kafka-transactions.sh list` and `describe` show it; `abort` ends it when its producer is gone.",
        section="transactions.md",
    ),
    Rule(
        "PgKafkaUpkeepFails",
        "sum without (instance, pod) (increase(pg_kafka_upkeep_failures_total[15m])) > 3",
        minutes=15,
        severity=WARNING,
        summary="Upkeep of {{ $labels.job }} fails: {{ $labels.task }}, {{ $labels.job }}",
        description="Old records are not deleted, or tables not made, as long as it fails.",
        action="The log says why, with the same name.",
        section="diagnostics.md#log-lines",
    ),
)
