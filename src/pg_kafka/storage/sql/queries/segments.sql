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
-- autovacuum_vacuum_insert_threshold: the janitor freezes a segment once, when it is sealed; vacuuming it while it grows is lost work.
CREATE TABLE kafka.{leaf} (
    LIKE kafka.{name} INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
    CONSTRAINT is_segment CHECK (segment = {segment}),
    UNIQUE (topic, partition, base_offset)
) WITH (autovacuum_vacuum_insert_threshold = -1, toast.autovacuum_vacuum_insert_threshold = -1);

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

-- name: attach_leaf
-- SHARE UPDATE EXCLUSIVE on the series: writers and readers go on.
ALTER TABLE kafka.{name} ATTACH PARTITION kafka.{leaf} FOR VALUES IN ({segment});

-- name: insert_series
INSERT INTO kafka.series (id, active_segment) VALUES ($1, 0);

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
