-- name: compressions
-- Methods that the server was built with: {pglz} or {pglz,lz4}.
SELECT enumvals FROM pg_catalog.pg_settings WHERE name = 'default_toast_compression';

-- name: create_series
-- A chain of segments, still empty and not attached: nobody waits for it. The CHECK saves ATTACH and DETACH CONCURRENTLY a scan.
CREATE TABLE kafka.{name} (
    LIKE kafka.log INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
    CONSTRAINT is_series CHECK (series = {series})
) PARTITION BY LIST (segment);

-- name: attach_series
-- SHARE UPDATE EXCLUSIVE on kafka.log, which neither readers nor writers conflict with.
ALTER TABLE kafka.log ATTACH PARTITION kafka.{name} FOR VALUES IN ({series});

-- name: create_leaf
-- autovacuum_vacuum_insert_threshold: the janitor freezes what has been added from time to time, which autovacuum does later and at greater cost.
CREATE TABLE kafka.{leaf} (
    LIKE kafka.{name} INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
    CONSTRAINT is_segment CHECK (segment = {segment}),
    UNIQUE (topic, partition, base_offset)
) WITH (autovacuum_vacuum_insert_threshold = -1, toast.autovacuum_vacuum_insert_threshold = -1);

-- name: index_markers
-- For the end of a transaction: the first marker of its producer above a record. Empty where there are no transactions.
CREATE INDEX {index} ON kafka.{leaf} (topic, partition, producer_id, base_offset) WHERE is_control;

-- name: note_markers
-- Rows that are no markers never reach the function, and COPY writes them as fast as without.
CREATE TRIGGER note_marker AFTER INSERT ON kafka.{leaf}
FOR EACH ROW WHEN (NEW.is_control AND NEW.producer_id IS NOT NULL) EXECUTE FUNCTION kafka.note_marker();

-- name: store_none
-- Arrays go to TOAST as they are, and have no statistics: a most common value of 100 kB helps nobody.
ALTER TABLE kafka.{leaf}
    ALTER values SET STORAGE EXTERNAL, ALTER keys SET STORAGE EXTERNAL, ALTER header_keys SET STORAGE EXTERNAL,
    ALTER header_values SET STORAGE EXTERNAL, ALTER timestamps SET STORAGE EXTERNAL, ALTER offset_deltas SET STORAGE EXTERNAL,
    ALTER header_ends SET STORAGE EXTERNAL,
    ALTER values SET STATISTICS 0, ALTER keys SET STATISTICS 0, ALTER header_keys SET STATISTICS 0,
    ALTER header_values SET STATISTICS 0, ALTER timestamps SET STATISTICS 0, ALTER offset_deltas SET STATISTICS 0,
    ALTER header_ends SET STATISTICS 0, ALTER producer_ids SET STATISTICS 0, ALTER batch_base_offsets SET STATISTICS 0,
    ALTER base_sequences SET STATISTICS 0, ALTER batch_counts SET STATISTICS 0, ALTER producer_epochs SET STATISTICS 0;

-- name: store_compressed
-- As above, compressed with {method}.
ALTER TABLE kafka.{leaf}
    ALTER values SET COMPRESSION {method}, ALTER keys SET COMPRESSION {method}, ALTER header_keys SET COMPRESSION {method},
    ALTER header_values SET COMPRESSION {method}, ALTER timestamps SET COMPRESSION {method},
    ALTER offset_deltas SET COMPRESSION {method}, ALTER header_ends SET COMPRESSION {method},
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
INSERT INTO kafka.series (id, active_segment) VALUES (0, 0) RETURNING id;

-- name: insert_topic_series
-- Locks the topic's row against deletion until the series is committed, so that no series is made for a topic that is gone.
INSERT INTO kafka.series (id, active_segment) SELECT t.id, 0 FROM kafka.topics t WHERE t.id = $1 FOR KEY SHARE RETURNING id;

-- name: insert_segment
INSERT INTO kafka.segments (series, segment, compression) VALUES ($1, $2, $3);

-- name: activate_segment
-- Sessions that start from now on append to it; those that run are told by the janitor.
UPDATE kafka.series SET active_segment = $2 WHERE id = $1 AND active_segment < $2;

-- name: series_exists
SELECT EXISTS (SELECT FROM kafka.series WHERE id = $1);

-- name: segment_exists
SELECT EXISTS (SELECT FROM kafka.segments WHERE series = $1 AND segment = $2);

-- name: lock_timeout
SET LOCAL lock_timeout = {ms};

-- name: session_lock_timeout
-- For statements that run in no transaction.
SET lock_timeout = {ms};

-- name: set_sealed
UPDATE kafka.segments SET state = 'sealed', sealed_at = clock_timestamp()
WHERE series = $1 AND segment = $2 AND state = 'active';

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
UPDATE kafka.segments SET state = 'freed' WHERE series = $1 AND segment = $2;

-- name: set_detached
UPDATE kafka.segments SET state = 'detached' WHERE series = $1 AND segment = $2;

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
SELECT substr(array_send(l.values), 1, 65536) AS bytes FROM kafka.{leaf} l TABLESAMPLE SYSTEM (5) LIMIT 16;

-- name: sample_topic
-- As above for one topic of a shared segment; index (topic, partition, base_offset).
SELECT substr(array_send(l.values), 1, 65536) AS bytes FROM kafka.{leaf} l WHERE l.topic = $1 LIMIT 16;
