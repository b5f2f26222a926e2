-- Moving the rows of complete segments to a new one. See storage/replacing.py.

-- name: lock_series
-- Two replacements of a series never begin at once.
SELECT 1 FROM kafka.series WHERE id = $1 FOR UPDATE;

-- name: unfinished
-- Segments of a series that are being filled, or that wait for older snapshots; index segments_hidden.
SELECT segment, state FROM kafka.segments WHERE series = $1 AND state IN ('filling', 'replaced') ORDER BY segment;

-- name: interrupted
-- Segments that somebody has begun to fill; index segments_hidden.
SELECT series, segment FROM kafka.segments WHERE state = 'filling' ORDER BY series, segment;

-- name: lock_sources
-- Locks the segments' rows in order, so that nobody changes rows of theirs until the end of the transaction.
SELECT segment, state, changes FROM kafka.segments WHERE series = $1 AND segment = ANY ($2::integer[])
ORDER BY segment FOR UPDATE;

-- name: compression_of
SELECT compression FROM kafka.segments WHERE series = $1 AND segment = $2;

-- name: insert_filling
INSERT INTO kafka.segments (series, segment, state, replaces, compression) VALUES ($1, $2, 'filling', $3, $4);

-- name: copied_columns
-- All columns of the log but the one that says in which segment a row is.
SELECT array_agg(a.attname ORDER BY a.attnum) AS columns FROM pg_catalog.pg_attribute a
WHERE a.attrelid = 'kafka.log'::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> 'segment';

-- name: copy_piece
-- Rows of one segment at or above their log start, behind the row ($1, $2, $3), of $4 bytes or a little more; the last of them, and how
-- many bytes they have. No row: there are none left. Index (topic, partition, base_offset).
WITH piece AS MATERIALIZED (
    SELECT m.topic, m.partition, m.base_offset, m.size
    FROM (
        SELECT n.*, sum(n.size) OVER (ORDER BY n.topic, n.partition, n.base_offset) - n.size AS bytes_before
        FROM (
            SELECT l.topic, l.partition, l.base_offset, coalesce(l.wire_bytes, l.row_bytes)::bigint AS size
            FROM kafka.{source} l
            JOIN kafka.topics t ON t.id = l.topic
            LEFT JOIN kafka.log_starts s ON s.topic = l.topic AND s.partition = l.partition
            WHERE (l.topic, l.partition, l.base_offset) > ($1, $2, $3) AND l.last_offset >= coalesce(s.log_start_offset, 0)
            ORDER BY l.topic, l.partition, l.base_offset LIMIT 5000
        ) AS n
    ) AS m
    WHERE m.bytes_before < $4
), copied AS (
    INSERT INTO kafka.{target} (segment, {columns})
    SELECT {segment}, {columns} FROM kafka.{source} l
    WHERE (l.topic, l.partition, l.base_offset) IN (SELECT p.topic, p.partition, p.base_offset FROM piece p)
)
SELECT p.topic, p.partition, p.base_offset, sum(p.size) OVER () AS bytes FROM piece p
ORDER BY p.topic DESC, p.partition DESC, p.base_offset DESC LIMIT 1;

-- name: forget_filling
DELETE FROM kafka.segments WHERE series = $1 AND segment = $2 AND state = 'filling';

-- name: holders
-- Transactions that have locked a series: they may go on with plans from before a segment was attached to it. Who locks it from then on
-- hears of that first. Prepared transactions run no queries.
SELECT DISTINCT l.virtualtransaction FROM pg_catalog.pg_locks l
WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND l.relation = to_regclass(format('kafka.log_%s', $1::bigint));

-- name: still_running
-- Those of some transactions that have not ended.
SELECT DISTINCT l.virtualtransaction FROM pg_catalog.pg_locks l
WHERE l.locktype = 'virtualxid' AND l.virtualtransaction = ANY ($1::text[]);

-- name: delete_rows_of_deleted_topics
-- A topic that was deleted while the segment was filled is not brought back.
DELETE FROM kafka.{leaf} l WHERE NOT EXISTS (SELECT FROM kafka.topics t WHERE t.id = l.topic);

-- name: move_extents
-- Locks: the rows of the extents. The partitions whose rows move.
WITH moved AS (
    UPDATE kafka.extents
    SET segment = $3, generation = generation + 1,
        last_offset = NULL, bytes = NULL, records = NULL, first_timestamp = NULL, max_timestamp = NULL, min_timestamp = NULL
    WHERE series = $1 AND segment = ANY ($2::integer[])
    RETURNING topic, partition
)
SELECT DISTINCT topic, partition FROM moved;

-- name: merge_extents
-- Neighbours in one partition become one: extents of this segment with none of another segment between them.
WITH marked AS (
    SELECT x.topic, x.partition, x.first_offset, x.generation, x.packed_from, x.series = $1 AND x.segment = $2 AS is_here,
           count(*) FILTER (WHERE x.series <> $1 OR x.segment <> $2)
               OVER (PARTITION BY x.topic, x.partition ORDER BY x.first_offset) AS others_before
    FROM kafka.extents x
    WHERE (x.topic, x.partition) IN (SELECT h.topic, h.partition FROM kafka.extents h WHERE h.series = $1 AND h.segment = $2)
), merged AS (
    SELECT topic, partition, min(first_offset) AS first_offset, max(first_offset) AS last_first_offset,
           max(generation) AS generation, min(packed_from) AS packed_from
    FROM marked WHERE is_here GROUP BY topic, partition, others_before HAVING count(*) > 1
), gone AS (
    DELETE FROM kafka.extents x USING merged m
    WHERE x.topic = m.topic AND x.partition = m.partition
      AND x.first_offset > m.first_offset AND x.first_offset <= m.last_first_offset
)
UPDATE kafka.extents x SET generation = m.generation, packed_from = m.packed_from
FROM merged m WHERE x.topic = m.topic AND x.partition = m.partition AND x.first_offset = m.first_offset;

-- name: delete_empty_extents
-- Of what lay below the log start, and of topics that are gone.
DELETE FROM kafka.extents WHERE series = $1 AND segment = $2 AND last_offset < first_offset;

-- name: set_replaced
UPDATE kafka.segments SET state = 'replaced', replaced_by = pg_current_xact_id() WHERE series = $1 AND segment = ANY ($2::integer[]);

-- name: set_filled
UPDATE kafka.segments
SET state = 'sealed', replaces = NULL, sealed_at = clock_timestamp(),
    bytes = (SELECT coalesce(sum(x.bytes), 0) FROM kafka.extents x WHERE x.series = $1 AND x.segment = $2)
WHERE series = $1 AND segment = $2 AND state = 'filling' RETURNING 1;

-- name: replaced
-- Replaced segments. is_unseen: nobody can see their rows any more. A snapshot counts in this database and on standbys that tell what they read. A number
-- of a transaction that came with a backup of another server means nothing; it is ahead of this server's, or far behind.
SELECT g.series, g.segment,
       d.distance <= 0 OR d.distance > 2147483647 OR NOT EXISTS (
           SELECT FROM (
               SELECT a.backend_xmin AS xmin FROM pg_catalog.pg_stat_activity a
               WHERE (a.datname = current_database() OR a.backend_type = 'walsender')
                 AND a.pid <> pg_backend_pid() AND a.backend_type <> 'autovacuum worker'
               UNION ALL
               SELECT r.xmin FROM pg_catalog.pg_replication_slots r
           ) AS held
           WHERE held.xmin IS NOT NULL AND age(held.xmin) >= age(g.replaced_by::xid)) AS is_unseen
FROM kafka.segments g
CROSS JOIN LATERAL (
    SELECT pg_snapshot_xmax(pg_current_snapshot())::text::numeric - g.replaced_by::text::numeric AS distance
) AS d
WHERE g.state = 'replaced'
ORDER BY g.series, g.segment;
