-- name: compressions
-- Methods that the server was built with: {pglz} or {pglz,lz4}.
SELECT enumvals FROM pg_catalog.pg_settings WHERE name = 'default_toast_compression';

-- name: owns_log
-- Whether this session may change kafka.log; a broker with a role of its own may not (features/088_roles.sql).
SELECT pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE') FROM pg_catalog.pg_class c WHERE c.oid = 'kafka.log'::regclass;

-- name: adopt_table
-- Move a table from schema kafka_new to its place.
SELECT kafka.adopt_table($1);

-- name: attach_series_by_owner
-- As attach_series, for a session that does not own kafka.log.
SELECT kafka.attach_series($1);

-- name: detach_series_by_owner
-- ACCESS EXCLUSIVE on kafka.log until the end of the transaction: only with a lock_timeout.
SELECT kafka.detach_series($1);

-- name: create_series
-- A chain of segments, still empty and not attached: nobody waits for it. The CHECK saves ATTACH and DETACH CONCURRENTLY a scan.
CREATE TABLE {schema}.{name} (
    LIKE kafka.log INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
    CONSTRAINT is_series CHECK (series = {series})
) PARTITION BY LIST (segment);

-- name: attach_series
-- SHARE UPDATE EXCLUSIVE on kafka.log, which neither readers nor writers conflict with.
ALTER TABLE kafka.log ATTACH PARTITION kafka.{name} FOR VALUES IN ({series});

-- name: create_leaf
-- autovacuum_vacuum_insert_threshold: the janitor freezes what has been added from time to time, which autovacuum does later and at greater cost.
CREATE TABLE {schema}.{leaf} (
    LIKE kafka.{name} INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
    CONSTRAINT is_segment CHECK (segment = {segment}),
    UNIQUE (topic, partition, base_offset)
) WITH (autovacuum_vacuum_insert_threshold = -1, toast.autovacuum_vacuum_insert_threshold = -1);

-- name: index_markers
-- For the end of a transaction: the first marker of its producer above a record. Empty where there are no transactions.
CREATE INDEX {index} ON {schema}.{leaf} (topic, partition, producer_id, base_offset) WHERE is_control;

-- name: note_markers
-- Rows that are no markers never reach the function, and COPY writes them as fast as without.
CREATE TRIGGER note_marker AFTER INSERT ON kafka.{leaf}
FOR EACH ROW WHEN (NEW.is_control AND NEW.producer_id IS NOT NULL) EXECUTE FUNCTION kafka.note_marker();

-- name: store_none
-- Arrays go to TOAST as they are, and have no statistics: a most common value of 100 kB helps nobody. A row of which two fit
-- into a page stays in it whole, which saves a third of its cost (docs/storage.md).
ALTER TABLE kafka.{leaf} SET (toast_tuple_target = 4080),
    ALTER values SET STORAGE EXTERNAL, ALTER keys SET STORAGE EXTERNAL, ALTER header_keys SET STORAGE EXTERNAL,
    ALTER header_values SET STORAGE EXTERNAL, ALTER timestamps SET STORAGE EXTERNAL, ALTER offset_deltas SET STORAGE EXTERNAL,
    ALTER header_ends SET STORAGE EXTERNAL, ALTER batch SET STORAGE EXTERNAL, ALTER batch SET STATISTICS 0,
    ALTER values SET STATISTICS 0, ALTER keys SET STATISTICS 0, ALTER header_keys SET STATISTICS 0,
    ALTER header_values SET STATISTICS 0, ALTER timestamps SET STATISTICS 0, ALTER offset_deltas SET STATISTICS 0,
    ALTER header_ends SET STATISTICS 0, ALTER producer_ids SET STATISTICS 0, ALTER batch_base_offsets SET STATISTICS 0,
    ALTER base_sequences SET STATISTICS 0, ALTER batch_counts SET STATISTICS 0, ALTER producer_epochs SET STATISTICS 0;

-- name: store_compressed
-- As above, compressed with {method}; batches are compressed already. Nothing is compressed in a row below the target, so that is
-- left at PostgreSQL's 2 kB.
ALTER TABLE kafka.{leaf}
    ALTER values SET COMPRESSION {method}, ALTER keys SET COMPRESSION {method}, ALTER header_keys SET COMPRESSION {method},
    ALTER header_values SET COMPRESSION {method}, ALTER timestamps SET COMPRESSION {method},
    ALTER offset_deltas SET COMPRESSION {method}, ALTER header_ends SET COMPRESSION {method},
    ALTER batch SET STORAGE EXTERNAL, ALTER batch SET STATISTICS 0,
    ALTER values SET STATISTICS 0, ALTER keys SET STATISTICS 0, ALTER header_keys SET STATISTICS 0,
    ALTER header_values SET STATISTICS 0, ALTER timestamps SET STATISTICS 0, ALTER offset_deltas SET STATISTICS 0,
    ALTER header_ends SET STATISTICS 0, ALTER producer_ids SET STATISTICS 0, ALTER batch_base_offsets SET STATISTICS 0,
    ALTER base_sequences SET STATISTICS 0, ALTER batch_counts SET STATISTICS 0, ALTER producer_epochs SET STATISTICS 0;

-- name: unfrozen_bytes
-- Pages of a segment and of its TOAST table that vacuum has not marked yet.
SELECT sum(greatest(pg_relation_size(p.oid) - p.relallvisible * current_setting('block_size')::bigint, 0))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_class p ON p.oid IN (c.oid, c.reltoastrelid)
WHERE c.oid = to_regclass(format('kafka.%I', $1::text));

-- name: attach_leaf
-- SHARE UPDATE EXCLUSIVE on the series: writers and readers go on.
ALTER TABLE kafka.{name} ATTACH PARTITION kafka.{leaf} FOR VALUES IN ({segment});

-- name: insert_shared_series
INSERT INTO kafka.series (id) VALUES (0);

-- name: insert_topic_series
-- Locks the topic's row against deletion until the series is committed, so that no series is made for a topic that is gone.
INSERT INTO kafka.series (id) SELECT t.id FROM kafka.topics t WHERE t.id = $1 FOR KEY SHARE RETURNING id;

-- name: next_segment
-- Locks the series' row until the segment is committed.
UPDATE kafka.series SET next_segment = next_segment + 1 WHERE id = $1 RETURNING next_segment - 1;

-- name: insert_segment
INSERT INTO kafka.segments (series, segment, owner, compression) VALUES ($1, $2, $3, $4);

-- name: supersede
-- No row when it was done before.
UPDATE kafka.segments SET state = 'superseded' WHERE series = $1 AND segment = $2 AND state = 'active' RETURNING owner;

-- name: supersede_older
-- Of the active segments of each series the newest is kept.
UPDATE kafka.segments g SET state = 'superseded'
WHERE g.state = 'active'
  AND EXISTS (SELECT FROM kafka.segments n WHERE n.series = g.series AND n.state = 'active' AND n.segment > g.segment);

-- name: adopt
-- What anybody may be writing to becomes this broker's.
UPDATE kafka.segments SET owner = $1 WHERE state IN ('active', 'superseded') AND owner IS DISTINCT FROM $1;

-- name: active_segments
SELECT series, segment FROM kafka.segments WHERE state = 'active' AND owner = $1;

-- name: series_exists
SELECT EXISTS (SELECT FROM kafka.series WHERE id = $1);

-- name: lock_timeout
SET LOCAL lock_timeout = {ms};

-- name: session_lock_timeout
-- For statements that run in no transaction.
SET lock_timeout = {ms};

-- name: set_sealed
UPDATE kafka.segments SET state = 'sealed', owner = NULL, sealed_at = clock_timestamp()
WHERE series = $1 AND segment = $2 AND state = 'superseded';

-- name: note_bytes
-- What a segment holds once its extents say it; index extents_segments.
UPDATE kafka.segments SET bytes = (SELECT coalesce(sum(x.bytes), 0) FROM kafka.extents x WHERE x.series = $1 AND x.segment = $2)
WHERE series = $1 AND segment = $2 AND state IN ('sealed', 'frozen') AND bytes IS NULL;

-- name: unknown_segments
-- Complete segments with extents whose figures are not known, some of them; index extents_unknown.
SELECT g.series, g.segment FROM kafka.segments g
WHERE g.state IN ('sealed', 'frozen') AND EXISTS (
    SELECT FROM kafka.extents x WHERE x.series = g.series AND x.segment = g.segment AND x.last_offset IS NULL)
ORDER BY g.series, g.segment LIMIT $1;

-- name: fill_extents
-- One scan of the segment's small columns, which reads no TOAST. A partition may have several extents in a segment, with others
-- between them; an extent without rows gets figures as well, so that it is not looked for again.
-- Locks: the rows of the segment's extents.
WITH extents AS (
    SELECT x.topic, x.partition, x.first_offset,
           lead(x.first_offset, 1, 9223372036854775807) OVER (PARTITION BY x.topic, x.partition ORDER BY x.first_offset) AS next_offset
    FROM kafka.extents x WHERE x.series = $1 AND x.segment = $2 AND x.last_offset IS NULL
), figures AS (
    SELECT e.topic, e.partition, e.first_offset, min(l.base_offset) AS first_base, max(l.last_offset) AS last_offset,
           sum(coalesce(l.wire_bytes, l.row_bytes)) AS bytes, max(l.max_timestamp) AS max_timestamp,
           coalesce(sum(l.record_count) FILTER (WHERE NOT l.is_control), 0) AS records
    FROM extents e
    LEFT JOIN kafka.{leaf} l ON l.topic = e.topic AND l.partition = e.partition
                            AND l.base_offset >= e.first_offset AND l.base_offset < e.next_offset
    GROUP BY e.topic, e.partition, e.first_offset
)
UPDATE kafka.extents x
SET last_offset = coalesce(f.last_offset, f.first_offset - 1), bytes = coalesce(f.bytes, 0), records = f.records,
    first_timestamp = coalesce(l.first_timestamp, -1), max_timestamp = coalesce(f.max_timestamp, -1)
FROM figures f
LEFT JOIN kafka.{leaf} l ON l.topic = f.topic AND l.partition = f.partition AND l.base_offset = f.first_base
WHERE x.topic = f.topic AND x.partition = f.partition AND x.first_offset = f.first_offset
  AND x.series = $1 AND x.segment = $2;

-- name: segments_without_times
-- Complete segments with extents whose smallest timestamp is not known, some of them; index extents_unknown_times.
SELECT g.series, g.segment FROM kafka.segments g
WHERE g.state IN ('sealed', 'frozen') AND EXISTS (
    SELECT FROM kafka.extents x
    WHERE x.series = g.series AND x.segment = g.segment AND x.min_timestamp IS NULL AND x.packed_from IS NULL)
ORDER BY g.series, g.segment LIMIT $1;

-- name: fill_times
-- Reads the timestamps of all records where they differ, one comparison for each: nearly always the first one is the smallest. Rows may
-- still be removed from the segment, and none is added: what was the smallest timestamp stays a bound.
-- Locks: the rows of the segment's extents.
UPDATE kafka.extents x SET min_timestamp = coalesce(f.smallest, 9223372036854775807)
FROM (
    SELECT e.topic, e.partition, e.first_offset,
           min(CASE WHEN l.timestamps IS NULL OR l.first_timestamp <= ALL (l.timestamps) THEN l.first_timestamp
                    ELSE (SELECT min(u) FROM unnest(l.timestamps) AS u) END) FILTER (WHERE NOT l.is_control) AS smallest
    FROM (SELECT y.topic, y.partition, y.first_offset,
                 lead(y.first_offset, 1, 9223372036854775807) OVER (PARTITION BY y.topic, y.partition ORDER BY y.first_offset) AS next_offset
          FROM kafka.extents y WHERE y.series = $1 AND y.segment = $2) AS e
    LEFT JOIN kafka.{leaf} l ON l.topic = e.topic AND l.partition = e.partition
                            AND l.base_offset >= e.first_offset AND l.base_offset < e.next_offset
    GROUP BY e.topic, e.partition, e.first_offset
) AS f
WHERE x.topic = f.topic AND x.partition = f.partition AND x.first_offset = f.first_offset
  AND x.series = $1 AND x.segment = $2 AND x.min_timestamp IS NULL AND x.packed_from IS NULL;

-- name: vacuum
-- Of a sealed segment. Never truncates the file: that would need ACCESS EXCLUSIVE, and an append-only table has nothing to give back.
VACUUM (FREEZE, ANALYZE, TRUNCATE FALSE) kafka.{leaf};

-- name: freeze_all_rows
SET vacuum_freeze_min_age = 0;

-- name: vacuum_active
-- What is frozen already is skipped, and so is a page that somebody is writing to.
VACUUM (SKIP_LOCKED, TRUNCATE FALSE) kafka.{leaf};

-- name: set_frozen
UPDATE kafka.segments SET state = 'frozen' WHERE series = $1 AND segment = $2 AND state = 'sealed';

-- name: truncate
-- Gives the disk back at once. ACCESS EXCLUSIVE on the leaf until the end of the transaction.
TRUNCATE kafka.{leaf};

-- name: set_freed
UPDATE kafka.segments SET state = 'freed', owner = NULL, replaces = NULL WHERE series = $1 AND segment = $2;

-- name: set_detached
UPDATE kafka.segments SET state = 'detached', owner = NULL, replaces = NULL WHERE series = $1 AND segment = $2;

-- name: table_exists
SELECT to_regclass(format('kafka.%I', $1::text)) IS NOT NULL;

-- name: attached
-- The tables under a parent, with those whose detaching was begun and not finished.
SELECT c.relname AS name, i.inhdetachpending AS is_pending
FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass(format('kafka.%I', $1::text));

-- name: detach
-- Waits for transactions that use the parent, without holding a lock meanwhile; cut short, it leaves the detaching pending.
ALTER TABLE kafka.{parent} DETACH PARTITION kafka.{child} CONCURRENTLY;

-- name: finalize
ALTER TABLE kafka.{parent} DETACH PARTITION kafka.{child} FINALIZE;

-- name: drop_table
DROP TABLE IF EXISTS kafka.{name};

-- name: forget_segment
DELETE FROM kafka.segments WHERE series = $1 AND segment = $2;

-- name: forget_series
-- Locks: the segments' rows, then the series'.
WITH gone AS (DELETE FROM kafka.segments WHERE series = $1) DELETE FROM kafka.series WHERE id = $1;

-- name: segments_of_series
SELECT segment, state FROM kafka.segments WHERE series = $1 ORDER BY segment;

-- name: sample
-- Some stored values, as text of arrays in binary form; a handful of pages is read.
SELECT substr(array_send(l.values), 1, 65536) AS bytes FROM kafka.{leaf} l TABLESAMPLE SYSTEM (5) WHERE l.values IS NOT NULL LIMIT 16;

-- name: sample_topic
-- As above for one topic of a shared segment; index (topic, partition, base_offset).
SELECT substr(array_send(l.values), 1, 65536) AS bytes FROM kafka.{leaf} l WHERE l.topic = $1 AND l.values IS NOT NULL LIMIT 16;
