-- What the janitor looks for. Each statement finds work by what the tables say, so that a janitor that was killed goes on
-- where it stopped.

-- name: topics_without_view
-- Internal topics get none: names that begin with __, and what Kafka Streams keeps for itself.
SELECT id, name FROM kafka.topics
WHERE view_name IS NULL AND name !~ '^__|-(changelog|repartition)$' AND NOT (id = ANY ($1::bigint[]))
ORDER BY id LIMIT $2;

-- name: forget_lost_views
-- Topics whose view somebody has dropped get another one. Where somebody else's table or view has its name, that gets another name.
-- As kafka.is_topic_view() asks, of all topics at once.
UPDATE kafka.topics t SET view_name = NULL
WHERE t.view_name IS NOT NULL AND NOT EXISTS (
    SELECT FROM pg_class c
    JOIN pg_rewrite r ON r.ev_class = c.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                    AND d.refclassid = 'pg_class'::regclass
                    AND d.refobjid IN ('kafka.topic_messages'::regclass, 'kafka.messages'::regclass)
    WHERE c.relnamespace = 'topics'::regnamespace AND c.relname = t.view_name AND c.relkind = 'v');

-- name: topics_with_old_view
-- Views from before kafka.topic_messages got its last columns: columns are only ever appended, so their number says it, with those that
-- topics have of their own. Those from before INSERT into them produced. And those from before schema version 5: they are made of
-- kafka.messages, and ask for all topics. What somebody else has made of these is left alone.
SELECT t.id, t.name FROM kafka.topics t
JOIN pg_catalog.pg_class c ON c.relnamespace = 'topics'::regnamespace AND c.relname = t.view_name AND c.relkind = 'v'
CROSS JOIN LATERAL (
    SELECT coalesce(bool_or(d.refobjid = 'kafka.topic_messages'::regclass), false) AS is_new, coalesce(bool_or(d.refobjid = 'kafka.messages'::regclass), false) AS is_old
    FROM pg_catalog.pg_rewrite r
    JOIN pg_catalog.pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
    WHERE r.ev_class = c.oid) AS m
WHERE (c.relnatts < (SELECT m.relnatts FROM pg_catalog.pg_class m WHERE m.oid = 'kafka.topic_messages'::regclass)
                    + (SELECT count(*) FROM kafka.topic_columns o
                       WHERE o.topic = t.name AND NOT EXISTS (
                           SELECT FROM pg_catalog.pg_attribute a
                           WHERE a.attrelid = 'kafka.topic_messages'::regclass AND a.attname = o.name))
       OR (m.is_new AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid AND g.tgname = 'produce'))
       OR (m.is_old AND strpos(pg_catalog.pg_get_viewdef(c.oid), format('topic_id = %s', t.id)) > 0))
  AND NOT (t.id = ANY ($1::bigint[]))
ORDER BY t.id LIMIT $2;

-- name: create_views
-- Locks: the topics' rows in order of id, against their deletion.
SELECT count(kafka.create_topic_view(t.id)) FROM (SELECT unnest($1::bigint[]) AS id) AS t;

-- name: views_of_deleted_topics
SELECT id, view_name FROM kafka.deleted_topics
WHERE view_name IS NOT NULL AND NOT (id = ANY ($1::bigint[])) ORDER BY id LIMIT $2;

-- name: drop_views
-- Locks: the deleted topics' rows, each before its view. is_gone is false when a user's view stands on it.
SELECT d.id, kafka.drop_topic_view(d.view_name) AS is_gone
FROM (SELECT id, view_name FROM kafka.deleted_topics WHERE id = ANY ($1::bigint[]) AND view_name IS NOT NULL
      ORDER BY id FOR UPDATE) AS d;

-- name: views_are_gone
UPDATE kafka.deleted_topics SET view_name = NULL WHERE id = ANY ($1::bigint[]);

-- name: topic_to_free
-- A deleted topic that still holds something; a row whose view alone is left waits for that.
SELECT d.id, d.view_name, EXISTS (SELECT FROM kafka.series s WHERE s.id = d.id) AS has_series
FROM kafka.deleted_topics d
WHERE NOT (d.id = ANY ($1::bigint[]))
  AND (d.view_name IS NULL OR EXISTS (SELECT FROM kafka.series s WHERE s.id = d.id)
       OR EXISTS (SELECT FROM kafka.extents e WHERE e.topic = d.id))
ORDER BY d.id LIMIT 1;

-- name: series_on_disk
-- Segments of a series, those that are not freed, and what their tables have on the disk.
SELECT count(*) AS segments, count(*) FILTER (WHERE g.state NOT IN ('freed', 'detached')) AS unfreed,
       coalesce(sum(pg_total_relation_size(to_regclass(format('kafka.log_%s_%s', g.series, g.segment)))), 0)::bigint AS bytes
FROM kafka.segments g WHERE g.series = $1;

-- name: shared_segments_of_topic
-- Segments of series 0 that a topic has rows in; the primary key of kafka.extents begins with the topic.
SELECT DISTINCT e.segment FROM kafka.extents e JOIN kafka.segments g ON g.series = e.series AND g.segment = e.segment
WHERE e.topic = $1 AND e.series = 0 AND g.state NOT IN ('freed', 'detached') ORDER BY e.segment;

-- name: delete_rows
-- A chunk of a topic's rows; index (topic, partition, base_offset).
DELETE FROM kafka.{leaf} WHERE ctid = ANY (ARRAY(SELECT l.ctid FROM kafka.{leaf} l WHERE l.topic = $1 LIMIT $2));

-- name: delete_markers
-- A chunk of a topic's markers; primary key of kafka.markers.
DELETE FROM kafka.markers WHERE ctid = ANY (ARRAY(SELECT m.ctid FROM kafka.markers m WHERE m.topic = $1 LIMIT $2));

-- name: forget_topic
-- All that is kept by topic; rows are locked table by table, and nobody else touches those of a deleted topic.
WITH extents AS (DELETE FROM kafka.extents WHERE topic = $1),
     epochs AS (DELETE FROM kafka.leader_epochs WHERE topic = $1),
     starts AS (DELETE FROM kafka.log_starts WHERE topic = $1),
     compactions AS (DELETE FROM kafka.compactions WHERE topic = $1),
     checkpoints AS (DELETE FROM kafka.partition_checkpoints WHERE topic = $1)
DELETE FROM kafka.deleted_topics WHERE id = $1 AND view_name IS NULL;

-- name: grown_segments
-- Active segments of broker $4 of at least $3 bytes, and those that are full: they have reached their size or, not being empty, their age.
-- A topic's configs count in its own series; what is no number there (somebody may write anything by SQL) counts as not set. As in Kafka,
-- a compacted topic's segments are no older than its max.compaction.lag.ms. What topics do not set is $2, $5 (are they compacted?) and $6.
SELECT g.series, g.segment, l.bytes, a.is_full
FROM kafka.segments g
LEFT JOIN kafka.topics t ON t.id = g.series
CROSS JOIN LATERAL (SELECT to_regclass(format('kafka.log_%s_%s', g.series, g.segment)) AS leaf) AS n
CROSS JOIN LATERAL (SELECT n.leaf, pg_table_size(n.leaf) AS bytes) AS l
CROSS JOIN LATERAL (
    SELECT l.bytes >= coalesce(substring(t.configs ->> 'segment.bytes' FROM '^\d{1,18}$')::bigint, $1)
           OR (pg_relation_size(l.leaf) > 0
               AND extract(epoch FROM clock_timestamp() - g.created_at) * 1000
                   >= least(coalesce(substring(t.configs ->> 'segment.ms' FROM '^\d{1,18}$')::bigint, $2),
                            CASE WHEN t.id IS NOT NULL AND coalesce(t.configs ->> 'cleanup.policy' LIKE '%compact%', $5)
                                 THEN coalesce(substring(t.configs ->> 'max.compaction.lag.ms' FROM '^\d{1,18}$')::bigint, $6) END)) AS is_full
) AS a
WHERE g.state = 'active' AND g.owner = $4 AND (g.series = 0 OR t.id IS NOT NULL) AND (a.is_full OR l.bytes >= $3)
ORDER BY g.series;

-- name: own_compression
-- What a topic wants for its own series; somebody may have written anything by SQL.
SELECT configs ->> 'storage.compression' FROM kafka.topics WHERE id = $1;

-- name: oldest_snapshot
-- Now, and since when the oldest snapshot has been held here; vacuum does not count other vacuums.
SELECT clock_timestamp() AS now,
       (SELECT min(a.xact_start) FROM pg_catalog.pg_stat_activity a
        WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_xmin IS NOT NULL
          AND a.backend_type <> 'autovacuum worker') AS held_since;

-- name: superseded_segments
-- The lanes of broker $1 have not all said yet that they have left it for the active one.
SELECT g.series, g.segment, a.segment AS active_segment
FROM kafka.segments g JOIN kafka.segments a ON a.series = g.series AND a.owner = g.owner AND a.state = 'active'
WHERE g.state = 'superseded' AND g.owner = $1 ORDER BY g.series, g.segment;

-- name: sealed_segments
-- While a snapshot from before its sealing is held, vacuum could do little; it is waited for, but not for ever: $1 is in seconds.
SELECT g.series, g.segment FROM kafka.segments g
WHERE g.state = 'sealed'
  AND (clock_timestamp() - g.sealed_at > $1::float8 * interval '1 second' OR NOT EXISTS (
           SELECT FROM pg_catalog.pg_stat_activity a
           WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_xmin IS NOT NULL
             AND a.backend_type <> 'autovacuum worker' AND a.xact_start <= g.sealed_at))
ORDER BY g.sealed_at LIMIT 1;

-- name: unmoved_topics
-- Topics whose own series was made and that have not moved into it.
SELECT t.id FROM kafka.topics t JOIN kafka.series s ON s.id = t.id WHERE t.series = 0;

-- name: topic_place
-- The series that a topic is in, and the segment there that broker $2 appends to.
SELECT t.series,
       (SELECT g.segment FROM kafka.segments g WHERE g.series = t.series AND g.state = 'active' AND g.owner = $2) AS segment
FROM kafka.topics t WHERE t.id = $1;

-- name: active_segment
SELECT segment FROM kafka.segments WHERE series = $1 AND state = 'active' AND owner = $2;

-- name: checkpoints_size
SELECT pg_table_size('kafka.partition_checkpoints');

-- name: rewrite_checkpoints
-- ACCESS EXCLUSIVE on the table until the end of the transaction; lanes wait for that, tens of milliseconds with 10,000 rows.
-- Neither VACUUM FULL nor CLUSTER would do: they keep what an old snapshot can see.
DO $$
DECLARE
    kept kafka.partition_checkpoints[];
BEGIN
    LOCK TABLE kafka.partition_checkpoints IN ACCESS EXCLUSIVE MODE;
    SELECT array_agg(c) INTO kept FROM kafka.partition_checkpoints c;
    TRUNCATE kafka.partition_checkpoints;
    INSERT INTO kafka.partition_checkpoints SELECT c.* FROM unnest(kept) c;
END
$$;

-- name: switch_grown_journals
-- The other table is empty. New sessions write there from now on; those that run are told by the janitor.
UPDATE kafka.journals AS j SET active = 1 - j.active, state = 'switched'
FROM kafka.journals AS g
CROSS JOIN LATERAL (SELECT pg_table_size(to_regclass(format('kafka.%s_journal_%s', rtrim(g.journal, 's'), g.active))) AS bytes) AS s
WHERE j.journal = g.journal AND j.state = 'steady' AND s.bytes > $1 AND s.bytes > $2 * j.live_bytes;

-- name: journals_under_way
-- is_seen_by_all: nobody here has a snapshot from before the copy, or that was $1 seconds ago. A number of a transaction that
-- came with a backup of another server means nothing; then the seconds decide.
SELECT journal, active, state, live_bytes,
       coalesce(pg_table_size(to_regclass(format('kafka.%s_journal_%s', rtrim(journal, 's'), 1 - active))), 0) AS old_bytes,
       coalesce(clock_timestamp() - copied_at > $1::float8 * interval '1 second', false) OR NOT EXISTS (
           SELECT FROM pg_catalog.pg_stat_activity a
           WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_xmin IS NOT NULL
             AND age(a.backend_xmin) >= age(copied_by::xid)) AS is_seen_by_all
FROM kafka.journals WHERE state <> 'steady' ORDER BY state DESC, journal;

-- name: lock_journal
-- Waits for transactions that have written to the table, and keeps others off; readers go on.
LOCK TABLE kafka.{old} IN SHARE MODE;

-- name: copy_offsets
-- The latest commit of each partition, unless that was deleted or its topic is.
INSERT INTO kafka.{new} (entry, group_id, topic_id, partition_id, committed_offset, leader_epoch, metadata, committed_at)
SELECT j.entry, j.group_id, j.topic_id, j.partition_id, j.committed_offset, j.leader_epoch, j.metadata, j.committed_at
FROM (SELECT DISTINCT ON (o.group_id, o.topic_id, o.partition_id) o.* FROM kafka.{old} o
      ORDER BY o.group_id, o.topic_id, o.partition_id, o.entry DESC) AS j
JOIN kafka.topics t ON t.id = j.topic_id
WHERE j.committed_offset IS NOT NULL;

-- name: copy_groups
-- The latest record of each kind and key, unless that was deleted.
INSERT INTO kafka.{new} (entry, group_id, kind, key, value, written_at)
SELECT j.entry, j.group_id, j.kind, j.key, j.value, j.written_at
FROM (SELECT DISTINCT ON (g.group_id, g.kind, g.key) g.* FROM kafka.{old} g
      ORDER BY g.group_id, g.kind, g.key, g.entry DESC) AS j
WHERE j.value IS NOT NULL;

-- name: copy_history
-- The last lines of each group, and of all.
INSERT INTO kafka.{new} (entry, group_id, event, generation, member_id, client_id, client_host, detail, happened_at)
SELECT entry, group_id, event, generation, member_id, client_id, client_host, detail, happened_at
FROM (SELECT h.*, row_number() OVER (PARTITION BY h.group_id ORDER BY h.entry DESC) AS nth_of_group,
             row_number() OVER (ORDER BY h.happened_at DESC, h.entry DESC) AS nth
      FROM kafka.{old} h) AS j
WHERE nth_of_group <= 100 AND nth <= 20000;

-- name: copy_transactions
-- The latest record of each kind and key, unless that was deleted.
INSERT INTO kafka.{new} (entry, transactional_id, kind, key, value, written_at)
SELECT j.entry, j.transactional_id, j.kind, j.key, j.value, j.written_at
FROM (SELECT DISTINCT ON (t.transactional_id, t.kind, t.key) t.* FROM kafka.{old} t
      ORDER BY t.transactional_id, t.kind, t.key, t.entry DESC) AS j
WHERE j.value IS NOT NULL;

-- name: copy_relay
-- The newest chunk, and where the records of those before are: ten minutes of them, but not more than 32 MB.
INSERT INTO kafka.{new}
    (entry, chunk, share, shares, parts, system_identifier, previous_snapshot, snapshot, after_id, last_id, is_last, left_over, partitions,
     first_row, last_row, rows, topics, row_partitions, offsets, counts, maps, written_at)
SELECT entry, chunk, share, shares, parts, system_identifier, previous_snapshot, snapshot, after_id, last_id, is_last, left_over, partitions,
       first_row, last_row, rows, topics, row_partitions, offsets, counts, maps, written_at
FROM (SELECT r.*, max(r.chunk) OVER () AS newest,
             sum(500 + coalesce(5 * pg_column_size(r.rows) + pg_column_size(r.maps), 0)) OVER (ORDER BY r.chunk DESC, r.share ROWS UNBOUNDED PRECEDING) AS bytes
      FROM kafka.{old} r) AS j
WHERE chunk = newest OR (written_at > clock_timestamp() - interval '10 minutes' AND bytes < 33554432);

-- name: journal_is_copied
UPDATE kafka.journals SET state = 'copied', copied_at = clock_timestamp(), copied_by = pg_current_xact_id(),
       live_bytes = pg_table_size(to_regclass(format('kafka.%I', $2::text)))
WHERE journal = $1;

-- name: truncate_journal
-- ACCESS EXCLUSIVE on a table that nobody writes, until the end of the transaction.
TRUNCATE kafka.{old};

-- name: journal_is_steady
UPDATE kafka.journals SET state = 'steady', copied_at = NULL, copied_by = NULL WHERE journal = $1;
