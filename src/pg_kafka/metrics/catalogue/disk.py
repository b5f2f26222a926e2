"""Sizes on the disk, and what is free there."""

from __future__ import annotations

from pg_kafka.metrics.catalogue.family import counter, gauge

TITLE = "Disk"

_EMBEDDED = "of a broker that leads, with the embedded PostgreSQL"

FREE_BYTES = gauge("pg_kafka_disk_free_bytes", "Free space of the volume of the data folder.", only=_EMBEDDED)
TOTAL_BYTES = gauge("pg_kafka_disk_size_bytes", "Size of that volume.", only=_EMBEDDED)
RESERVE_BYTES = gauge(
    "pg_kafka_disk_reserve_bytes",
    "pg_kafka.disk_reserve_bytes: with less free space no records are taken.",
    only=_EMBEDDED,
)
NEARLY_FULL = gauge(
    "pg_kafka_disk_nearly_full", "1 while records are refused since the disk is nearly full.", only=_EMBEDDED
)
BECAME_FULL = counter("pg_kafka_disk_fillings_total", "Times that the disk became nearly full.")
REFUSED = counter(
    "pg_kafka_disk_refused_writes_total",
    "Batches, and writes of groups and transactional ids, that were refused: the disk was `nearly full`, or had `no room`"
    " for more than was queued.",
    "reason",
)
DATABASE_BYTES = gauge(
    "pg_kafka_database_bytes", "Size of the whole database, without WAL.", only="of a broker that leads"
)
TABLE_BYTES = gauge(
    "pg_kafka_table_bytes",
    "Size of the broker's tables with indexes: `log` has the records, `journals` what groups and transactional ids write,"
    " `other` the rest.",
    "part",
    only="of a broker that leads",
)
DEAD_ROWS = gauge(
    "pg_kafka_dead_rows",
    "Rows of these tables that are gone and not yet vacuumed, as PostgreSQL estimates.",
    "part",
    only="of a broker that leads",
)

OF_THE_VOLUME = (FREE_BYTES, TOTAL_BYTES, RESERVE_BYTES, NEARLY_FULL)

FAMILIES = (
    *OF_THE_VOLUME,
    BECAME_FULL,
    REFUSED,
    DATABASE_BYTES,
    TABLE_BYTES,
    DEAD_ROWS,
)
