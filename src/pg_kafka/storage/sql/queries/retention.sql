-- Records that retention lets go: where partitions begin, and which segments nobody needs any more. See upkeep/retention.py and
-- upkeep/freeing.py.

-- name: boundaries_by_time
-- Of topics $1, whose records may be as old as $2 says: for each partition where its extents begin to hold records that are not
-- older, as far as figures tell. All before `passed` are older. In the extent that `series` and `segment` name, one has to look;
-- without one, all are older. Index (topic, partition, first_offset).
WITH live AS (
    SELECT n.* FROM (
        SELECT x.topic, x.partition, x.first_offset, x.series, x.segment, x.last_offset, w.oldest,
               coalesce(s.log_start_offset, 0) AS log_start_offset,
               lead(x.first_offset, 1, 9223372036854775807) OVER (PARTITION BY x.topic, x.partition ORDER BY x.first_offset) AS next_offset,
               coalesce(x.max_timestamp BETWEEN 0 AND w.oldest - 1, false) AS is_older
        FROM unnest($1::bigint[], $2::bigint[]) AS w (topic, oldest)
        JOIN kafka.extents x ON x.topic = w.topic
        LEFT JOIN kafka.log_starts s ON s.topic = x.topic AND s.partition = x.partition
    ) AS n
    WHERE n.next_offset > n.log_start_offset AND (n.last_offset IS NULL OR n.last_offset >= n.log_start_offset)
), parts AS (
    SELECT topic, partition, min(first_offset) FILTER (WHERE NOT is_older) AS boundary, max(last_offset) + 1 AS known_end
    FROM live GROUP BY topic, partition
)
SELECT p.topic, p.partition, l.series, l.segment, l.next_offset, l.oldest,
       coalesce(l.log_start_offset, 0) AS log_start_offset, coalesce(l.first_offset, p.known_end) AS passed
FROM parts p
LEFT JOIN live l ON l.topic = p.topic AND l.partition = p.partition AND l.first_offset = p.boundary;

-- name: kept_by_time
-- In one segment: where the records begin that are not older than $5, when they do not begin at the start $3 already. Rows below $4 are
-- looked at, one after the other from the start on; index (topic, partition, base_offset). is_end: it is behind all rows.
SELECT w.topic, w.partition, coalesce(k.base_offset, e.last_offset + 1) AS kept, k.base_offset IS NULL AS is_end
FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[]) AS w (topic, partition, start, until, oldest)
LEFT JOIN LATERAL (
    SELECT l.base_offset FROM kafka.{leaf} l
    WHERE l.topic = w.topic AND l.partition = w.partition AND l.base_offset < w.until
      AND l.base_offset >= coalesce((SELECT max(f.base_offset) FROM kafka.{leaf} f
                                     WHERE f.topic = w.topic AND f.partition = w.partition AND f.base_offset <= w.start), w.start)
      AND l.last_offset >= w.start AND CASE WHEN l.max_timestamp < 0 THEN l.append_time ELSE l.max_timestamp END >= w.oldest
    ORDER BY l.base_offset LIMIT 1
) AS k ON true
LEFT JOIN LATERAL (
    SELECT l.last_offset FROM kafka.{leaf} l
    WHERE k.base_offset IS NULL AND l.topic = w.topic AND l.partition = w.partition AND l.base_offset < w.until
    ORDER BY l.base_offset DESC LIMIT 1
) AS e ON true
WHERE coalesce(k.base_offset, e.last_offset + 1) > w.start;

-- name: live_extents
-- Of topics $1: the extents that have records at or behind the log start, newest first. Index (topic, partition, first_offset).
SELECT n.* FROM (
    SELECT x.topic, x.partition, x.first_offset, x.series, x.segment, x.last_offset, x.bytes,
           coalesce(s.log_start_offset, 0) AS log_start_offset,
           lead(x.first_offset, 1, 9223372036854775807) OVER (PARTITION BY x.topic, x.partition ORDER BY x.first_offset) AS next_offset
    FROM kafka.extents x
    LEFT JOIN kafka.log_starts s ON s.topic = x.topic AND s.partition = x.partition
    WHERE x.topic = ANY ($1::bigint[])
) AS n
WHERE n.next_offset > n.log_start_offset AND (n.last_offset IS NULL OR n.last_offset >= n.log_start_offset)
ORDER BY n.topic, n.partition, n.first_offset DESC;

-- name: bytes_of_extents
-- In one segment: bytes of the rows of partitions from offset $3 on and below $4. Small columns only.
SELECT w.topic, w.partition, w.first_offset, coalesce(b.bytes, 0)::bigint AS bytes
FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::bigint[]) AS w (topic, partition, first_offset, until)
CROSS JOIN LATERAL (
    SELECT sum(coalesce(l.wire_bytes, l.row_bytes)) AS bytes FROM kafka.{leaf} l
    WHERE l.topic = w.topic AND l.partition = w.partition AND l.base_offset >= w.first_offset AND l.base_offset < w.until
) AS b;

-- name: kept_by_size
-- In one segment: where the rows begin of which not all have $5 bytes behind them in it. is_end: it is behind all rows.
SELECT w.topic, w.partition, max(k.last_offset) + 1 AS kept, bool_or(k.is_last) AS is_end
FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[]) AS w (topic, partition, first_offset, until, bytes)
CROSS JOIN LATERAL (
    SELECT l.last_offset, row_number() OVER newest = 1 AS is_last,
           sum(coalesce(l.wire_bytes, l.row_bytes)) OVER newest - coalesce(l.wire_bytes, l.row_bytes) AS behind
    FROM kafka.{leaf} l
    WHERE l.topic = w.topic AND l.partition = w.partition AND l.base_offset >= w.first_offset AND l.base_offset < w.until
    WINDOW newest AS (ORDER BY l.base_offset DESC)
) AS k
WHERE k.behind >= w.bytes
GROUP BY w.topic, w.partition;

-- name: is_all_gone
-- Is no row of an active segment of broker $3 at or behind its log start? Index (topic, partition, base_offset).
SELECT EXISTS (SELECT FROM kafka.segments g WHERE g.series = $1 AND g.segment = $2 AND g.state = 'active' AND g.owner = $3)
   AND EXISTS (SELECT FROM kafka.extents x WHERE x.series = $1 AND x.segment = $2)
   AND NOT EXISTS (
       SELECT FROM kafka.extents x
       JOIN kafka.topics t ON t.id = x.topic
       LEFT JOIN kafka.log_starts s ON s.topic = x.topic AND s.partition = x.partition
       WHERE x.series = $1 AND x.segment = $2
         AND (SELECT l.last_offset FROM kafka.{leaf} l WHERE l.topic = x.topic AND l.partition = x.partition
              ORDER BY l.base_offset DESC LIMIT 1) >= coalesce(s.log_start_offset, 0));

-- name: forget_markers
-- Ends of transactions below the log starts of partitions, some of them; primary key of kafka.markers.
DELETE FROM kafka.markers WHERE ctid = ANY (ARRAY(
    SELECT m.ctid FROM unnest($1::bigint[], $2::integer[], $3::bigint[]) AS w (topic, partition, start)
    JOIN kafka.markers m ON m.topic = w.topic AND m.partition = w.partition AND m.marker_offset < w.start LIMIT $4));

-- name: forget_epochs
-- Leader epochs that end below the log starts of partitions. The last one that begins there stays, as in Kafka.
DELETE FROM kafka.leader_epochs e USING unnest($1::bigint[], $2::integer[], $3::bigint[]) AS w (topic, partition, start)
WHERE e.topic = w.topic AND e.partition = w.partition
  AND EXISTS (SELECT FROM kafka.leader_epochs n WHERE n.topic = e.topic AND n.partition = e.partition
                AND n.epoch > e.epoch AND n.start_offset <= w.start);

-- name: dead_segments
-- Complete segments of which nothing is at or behind a log start. uncovered: partitions [topic, partition] whose checkpoints do not
-- know all that is there; it has to be read from the rows when the partition is loaded, so they stay until one does.
SELECT g.series, g.segment, g.state,
       (SELECT array_agg(ARRAY[x.topic, x.partition]) FROM kafka.extents x
        JOIN kafka.topics t ON t.id = x.topic
        LEFT JOIN kafka.partition_checkpoints c ON c.topic = x.topic AND c.partition = x.partition
        WHERE x.series = g.series AND x.segment = g.segment AND coalesce(c.next_offset, 0) <= x.last_offset) AS uncovered
FROM kafka.segments g
WHERE g.state IN ('sealed', 'frozen') AND NOT EXISTS (
    SELECT FROM kafka.extents x
    JOIN kafka.topics t ON t.id = x.topic
    LEFT JOIN kafka.log_starts s ON s.topic = x.topic AND s.partition = x.partition
    WHERE x.series = g.series AND x.segment = g.segment
      AND (x.last_offset IS NULL OR x.last_offset >= coalesce(s.log_start_offset, 0)))
ORDER BY g.series, g.segment;

-- name: set_freed_from
-- Locks the segment's row. No row when somebody else has changed its state.
UPDATE kafka.segments SET state = 'freed', owner = NULL WHERE series = $1 AND segment = $2 AND state = $3 RETURNING 1;

-- name: lock_leaf
-- Never waits: whoever wants the table would have to wait behind it.
LOCK TABLE kafka.{leaf} IN ACCESS EXCLUSIVE MODE NOWAIT;

-- name: leaf_bytes
-- What a segment's table has on the disk, with TOAST and indexes.
SELECT coalesce(pg_total_relation_size(to_regclass(format('kafka.%I', $1::text))), 0);

-- name: forget_extents
DELETE FROM kafka.extents WHERE series = $1 AND segment = $2 RETURNING topic, partition;

-- name: empty_segments
-- Truncated, and not dropped yet.
SELECT series, segment FROM kafka.segments WHERE state IN ('freed', 'detached')
  AND EXISTS (SELECT FROM kafka.series s WHERE s.id = series) ORDER BY series, segment;

-- name: shares
-- Complete segments with what they had when they were sealed, and what is at or behind the log starts. Of an extent in which the log
-- starts, that is as good a guess as offsets allow. uncovered: as in dead_segments, of what lies below the log starts. Not in series where a replacement is under way, and not those whose batches are
-- being unpacked.
SELECT g.series, g.segment, coalesce(g.bytes, sum(x.bytes), 0)::bigint AS bytes,
       coalesce(sum(CASE WHEN t.id IS NULL OR x.last_offset < n.log_start_offset THEN 0
                         WHEN x.first_offset >= n.log_start_offset THEN x.bytes
                         ELSE x.bytes::numeric * (x.last_offset + 1 - n.log_start_offset) / (x.last_offset + 1 - x.first_offset) END), 0)::bigint AS alive,
       array_agg(ARRAY[x.topic, x.partition]) FILTER (
           WHERE t.id IS NOT NULL AND x.first_offset < n.log_start_offset
             AND coalesce(c.next_offset, 0) < least(n.log_start_offset, x.last_offset + 1)) AS uncovered
FROM kafka.segments g
LEFT JOIN kafka.extents x ON x.series = g.series AND x.segment = g.segment
LEFT JOIN kafka.topics t ON t.id = x.topic
LEFT JOIN kafka.log_starts s ON s.topic = x.topic AND s.partition = x.partition
LEFT JOIN kafka.partition_checkpoints c ON c.topic = x.topic AND c.partition = x.partition
CROSS JOIN LATERAL (SELECT coalesce(s.log_start_offset, 0) AS log_start_offset) AS n
WHERE g.state IN ('sealed', 'frozen')
  AND NOT EXISTS (SELECT FROM kafka.segments u WHERE u.series = g.series AND u.state IN ('filling', 'replaced'))
GROUP BY g.series, g.segment, g.bytes
HAVING bool_and(x.bytes IS NOT NULL OR x.topic IS NULL)
   AND NOT coalesce(bool_or(x.packed_from IS NOT NULL AND t.keeps_batches AND t.sql_asked_at IS NOT NULL), false)
ORDER BY g.series, g.segment;
