"""What is done to tables in the background: segments, retention, compaction, journals."""

from __future__ import annotations

from pg_kafka.metrics.catalogue.family import counter, gauge

TITLE = "Upkeep"

LEADING = "of a broker that leads"

STEPS = counter(
    "pg_kafka_upkeep_steps_total",
    "Steps of the janitor's and the cleaner's jobs, those that found nothing to do included.",
    "task",
    "work",
)
SECONDS = counter("pg_kafka_upkeep_seconds_total", "Time that these steps have taken.", "task", "work")
FAILURES = counter("pg_kafka_upkeep_failures_total", "What could not be done and is tried again.", "task", "work")
CLEANED_BYTES = counter(
    "pg_kafka_cleaner_bytes_total",
    "Bytes of the log that the cleaner has read and written: by compaction, and by carrying over what is left of segments.",
    "work",
)
SEGMENT_CHANGES = counter(
    "pg_kafka_segment_changes_total",
    "Segments that were `made`, `sealed`, `frozen`, `replaced` by another one, `freed` (their disk space is back), or `dropped`.",
    "change",
)
FREED_BYTES = counter("pg_kafka_freed_bytes_total", "Disk space that was given back with segments.")
SEGMENTS = gauge("pg_kafka_segments", "Segments by their state, as in kafka.segments.", "state", only=LEADING)
MOVED_STARTS = counter(
    "pg_kafka_log_start_moves_total",
    "Partitions that begin later than before, by cause: `retention`, `request` (DeleteRecords), or `sql`.",
    "cause",
)
PASSED_OFFSETS = counter(
    "pg_kafka_deleted_offsets_total",
    "Offsets that lie below the start of their partition since; as many records, where there are no gaps.",
    "cause",
)
COMPACTIONS = counter("pg_kafka_compactions_total", "Rounds of compaction that came to their end.")
COMPACTION_SECONDS = counter(
    "pg_kafka_compaction_seconds_total", "Time from the beginning of these rounds to their end."
)
COMPACTED_RECORDS = counter("pg_kafka_compacted_records_total", "Records that these rounds have looked at.")
REMOVED_RECORDS = counter("pg_kafka_compaction_removed_records_total", "Of these, those that are gone.")
COMPACTED_BYTES = gauge(
    "pg_kafka_compacted_topics_bytes", "What compacted topics hold, in Kafka's format.", only=LEADING
)
DIRTY_BYTES = gauge(
    "pg_kafka_compaction_dirty_bytes", "Of that, what was written since it was last compacted.", only=LEADING
)
DIRTY_RATIO = gauge(
    "pg_kafka_compaction_max_dirty_ratio",
    "The largest share of a compacted topic that is dirty. By `min.cleanable.dirty.ratio` a topic is compacted.",
    only=LEADING,
)
TOPICS_FREED = counter("pg_kafka_freed_topics_total", "Deleted topics of which nothing is left.")
DELETED_TOPICS = gauge("pg_kafka_deleted_topics", "Deleted topics of which something is left.", only=LEADING)
JOURNAL_ROTATIONS = counter(
    "pg_kafka_journal_rotations_total", "Journals that were rewritten to what counts.", "journal"
)
JOURNAL_BYTES = gauge(
    "pg_kafka_journal_bytes", "Size of a journal's two tables, with indexes.", "journal", only=LEADING
)
JOURNAL_LIVE_BYTES = gauge(
    "pg_kafka_journal_live_bytes", "What of it still counted when it was last rewritten.", "journal", only=LEADING
)

FAMILIES = (
    STEPS,
    SECONDS,
    FAILURES,
    CLEANED_BYTES,
    SEGMENT_CHANGES,
    FREED_BYTES,
    SEGMENTS,
    MOVED_STARTS,
    PASSED_OFFSETS,
    COMPACTIONS,
    COMPACTION_SECONDS,
    COMPACTED_RECORDS,
    REMOVED_RECORDS,
    COMPACTED_BYTES,
    DIRTY_BYTES,
    DIRTY_RATIO,
    TOPICS_FREED,
    DELETED_TOPICS,
    JOURNAL_ROTATIONS,
    JOURNAL_BYTES,
    JOURNAL_LIVE_BYTES,
)
