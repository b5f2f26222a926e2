-- Compaction. What a round works with is in temporary tables of its session; a round that was interrupted begins anew.
-- Statements with {leaf} are rendered for one segment's table and count on its UNIQUE (topic, partition, base_offset).

-- name: candidates
-- Partitions of topics $1 that may have something to clean: up to the last checkpoint, as the state of producers, of timestamps and of
-- open transactions is only known above it from the rows.
SELECT p.topic, p.partition, coalesce(s.log_start_offset, 0) AS log_start_offset,
       greatest(coalesce(c.first_dirty_offset, 0), coalesce(s.log_start_offset, 0)) AS first_dirty_offset, p.next_offset,
       p.open_transactions::text AS open_transactions
FROM kafka.partition_checkpoints p
LEFT JOIN kafka.compactions c ON c.topic = p.topic AND c.partition = p.partition
LEFT JOIN kafka.log_starts s ON s.topic = p.topic AND s.partition = p.partition
WHERE p.topic = ANY ($1::bigint[])
  AND p.next_offset > greatest(coalesce(c.first_dirty_offset, 0), coalesce(s.log_start_offset, 0))
ORDER BY p.topic, p.partition;

-- name: partitions
-- All partitions of a topic that have rows, as candidates.
SELECT x.partition, coalesce(s.log_start_offset, 0) AS log_start_offset,
       greatest(coalesce(c.first_dirty_offset, 0), coalesce(s.log_start_offset, 0)) AS first_dirty_offset,
       coalesce(p.next_offset, 0) AS next_offset, coalesce(p.open_transactions::text, '[]') AS open_transactions
FROM (SELECT DISTINCT e.partition FROM kafka.extents e WHERE e.topic = $1) AS x
LEFT JOIN kafka.partition_checkpoints p ON p.topic = $1 AND p.partition = x.partition
LEFT JOIN kafka.compactions c ON c.topic = $1 AND c.partition = x.partition
LEFT JOIN kafka.log_starts s ON s.topic = $1 AND s.partition = x.partition
ORDER BY x.partition;

-- name: extents
-- The extents of a topic's partitions, with the state of their segments.
SELECT x.partition, x.first_offset, x.series, x.segment, x.generation, g.state, x.packed_from IS NOT NULL AS is_packed, x.bytes, x.records,
       x.first_timestamp
FROM kafka.extents x JOIN kafka.segments g ON g.series = x.series AND g.segment = x.segment
WHERE x.topic = $1 AND g.state NOT IN ('freed', 'detached')
ORDER BY x.partition, x.first_offset;

-- name: ask_for_unpacking
-- The topic's batches that are kept as they came are taken apart (storage/layouts.py).
UPDATE kafka.topics SET sql_asked_at = clock_timestamp() WHERE id = $1 AND keeps_batches AND sql_asked_at IS NULL;

-- name: active_from
-- The part of a partition in a shared segment that counts as its active segment: of the rows from $3 up to below $4, the last ones that were
-- appended after $5 (ms) and that have, with the $6 bytes above them, no more than $7 bytes. NULL when there is none.
SELECT min(base_offset) AS active_from, coalesce(max(above), $6)::bigint AS bytes_above
FROM (
    SELECT r.base_offset, r.append_time,
           $6::bigint + sum(coalesce(r.wire_bytes, r.row_bytes)) OVER (ORDER BY r.base_offset DESC) AS above
    FROM kafka.{leaf} r WHERE r.topic = $1 AND r.partition = $2 AND r.base_offset >= $3 AND r.base_offset < $4
) AS t
WHERE t.append_time > $5 AND t.above <= $7;

-- name: first_younger
-- The first row from $3 up to below $4 with a record that is younger than $5 (ms).
SELECT min(base_offset) FROM kafka.{leaf}
WHERE topic = $1 AND partition = $2 AND base_offset >= $3 AND base_offset < $4 AND max_timestamp > $5;

-- name: figures
-- What of a partition's rows from $3 up to below $5 is clean, below $4, and what is not.
SELECT coalesce(sum(coalesce(wire_bytes, row_bytes)) FILTER (WHERE base_offset < $4), 0) AS clean_bytes,
       coalesce(sum(coalesce(wire_bytes, row_bytes)) FILTER (WHERE base_offset >= $4), 0) AS dirty_bytes,
       coalesce(sum(record_count) FILTER (WHERE base_offset < $4), 0) AS clean_records,
       coalesce(sum(record_count) FILTER (WHERE base_offset >= $4), 0) AS dirty_records,
       min(first_timestamp) FILTER (WHERE base_offset >= $4 AND first_timestamp > 0) AS first_dirty_timestamp
FROM kafka.{leaf} WHERE topic = $1 AND partition = $2 AND last_offset >= $3 AND base_offset < $5;

-- name: work_mem
SET work_mem = {kilobytes};

-- name: make_tables
-- rows: the rows of a round, in order, and what becomes of them; kept: the records that stay of each row, counted from 1.
CREATE TEMPORARY TABLE IF NOT EXISTS compaction_rows (
    ordinal        integer NOT NULL,
    extent         integer NOT NULL,
    series         bigint  NOT NULL,
    base_offset    bigint  NOT NULL,
    last_offset    bigint  NOT NULL,
    delete_horizon bigint,
    producer_id    bigint,
    partition      integer NOT NULL,
    segment        integer NOT NULL,
    record_count   integer NOT NULL,
    row_bytes      integer NOT NULL,
    is_whole       boolean NOT NULL,
    is_control     boolean NOT NULL,
    is_transactional boolean NOT NULL,
    is_aborted     boolean NOT NULL,
    has_keys       boolean NOT NULL
);
CREATE TEMPORARY TABLE IF NOT EXISTS compaction_kept (ordinal integer NOT NULL, kept integer[] NOT NULL);
CREATE TEMPORARY TABLE IF NOT EXISTS compaction_plan (
    ordinal        integer NOT NULL,
    piece          integer NOT NULL,
    series         bigint  NOT NULL,
    base_offset    bigint  NOT NULL,
    last_offset    bigint  NOT NULL,
    new_horizon    bigint,
    producer_id    bigint,
    partition      integer NOT NULL,
    segment        integer NOT NULL,
    fate           text    NOT NULL,
    is_control     boolean NOT NULL,
    kept           integer[]
);

-- name: empty_tables
TRUNCATE pg_temp.compaction_rows, pg_temp.compaction_kept, pg_temp.compaction_plan;

-- name: collect_rows
-- The rows of extent number $7, from $3 up to below $4 and not below the log start $8; those that end at or above $5 stay as they are.
-- $6 is how many there are already.
INSERT INTO pg_temp.compaction_rows
SELECT $6 + row_number() OVER (ORDER BY l.base_offset), $7, l.series, l.base_offset, l.last_offset, l.delete_horizon,
       coalesce(l.producer_id, l.producer_ids[1]), l.partition, l.segment, l.record_count, l.row_bytes,
       l.last_offset >= $5, l.is_control, l.is_transactional,
       coalesce(l.is_transactional AND NOT l.is_control AND l.record_count > 0 AND NOT (
           SELECT m.is_commit FROM kafka.markers m
           WHERE m.topic = l.topic AND m.partition = l.partition
             AND m.producer_id = coalesce(l.producer_id, l.producer_ids[1]) AND m.marker_offset > l.last_offset
           ORDER BY m.marker_offset LIMIT 1), false),
       l.keys IS NOT NULL
FROM kafka.{leaf} l WHERE l.topic = $1 AND l.partition = $2 AND l.base_offset >= $3 AND l.base_offset < $4
  AND l.last_offset >= $8;

-- name: analyze_rows
ANALYZE pg_temp.compaction_rows;

-- name: analyze_plan
ANALYZE pg_temp.compaction_plan (ordinal, piece, series, segment, fate);

-- name: keys_of_leaf
-- Each record with a key that counts, as a place: the row's ordinal and the record's position in it. Values are not read.
SELECT c.partition, unnest(l.keys) AS key, (c.ordinal::bigint << 32) | generate_series(1, l.record_count) AS place
FROM pg_temp.compaction_rows c
CROSS JOIN LATERAL (
    SELECT r.keys, r.record_count FROM kafka.{leaf} r
    WHERE r.topic = {topic} AND r.partition = c.partition AND r.base_offset = c.base_offset OFFSET 0) AS l
WHERE c.series = {series} AND c.segment = {segment} AND c.has_keys AND c.record_count > 0
  AND NOT (c.is_control OR c.is_aborted OR c.is_whole)

-- name: keep_latest
-- What stays: of each key the last record. {keys} are the statements above, one for each segment.
INSERT INTO pg_temp.compaction_kept
SELECT (place >> 32)::integer, array_agg((place & 4294967295)::integer ORDER BY place)
FROM (SELECT max(k.place) AS place FROM ({keys}) AS k WHERE k.key IS NOT NULL GROUP BY k.partition, k.key) AS latest
GROUP BY place >> 32;

-- name: drop_tombstones
-- Tombstones whose horizon is not above $2 (ms) go, of one segment. Reads the values of these rows.
UPDATE pg_temp.compaction_kept k SET kept = x.kept
FROM (
    SELECT c.ordinal, ARRAY(SELECT u.i FROM unnest(o.kept, t.cut_values) WITH ORDINALITY AS u (i, value, n)
                            WHERE u.value IS NOT NULL ORDER BY u.n) AS kept
    FROM pg_temp.compaction_rows c
    JOIN pg_temp.compaction_kept o ON o.ordinal = c.ordinal
    CROSS JOIN LATERAL (
        SELECT r.values FROM kafka.{leaf} r
        WHERE r.topic = $1 AND r.partition = c.partition AND r.base_offset = c.base_offset OFFSET 0) AS l
    CROSS JOIN LATERAL kafka.cut_row(o.kept, NULL, l.values, NULL, NULL, NULL, NULL, NULL, 0) AS t
    WHERE c.series = {series} AND c.segment = {segment} AND c.delete_horizon <= $2 AND t.has_tombstone
) AS x
WHERE k.ordinal = x.ordinal;

-- name: make_plan
-- What becomes of each row at $1 (ms), with $2 ms until tombstones and markers without a transaction may go: 'keep' as it is, 'cut',
-- 'fill' (no record is left; the row stays so that offsets have no gap), or 'gone'. A row also takes over the offsets of rows behind
-- it that are gone, but not over the border of an extent, and no row spans more than 2^30 offsets that way. Rows come in pieces of $3 bytes.
INSERT INTO pg_temp.compaction_plan
WITH transactional AS (
    SELECT c.ordinal, c.is_control,
           count(*) FILTER (WHERE NOT c.is_control AND c.record_count > 0)
               OVER (PARTITION BY c.partition, c.producer_id ORDER BY c.ordinal) AS data_rows
    FROM pg_temp.compaction_rows c WHERE c.is_transactional
), markers AS (
    SELECT t.ordinal, t.data_rows - coalesce(lag(t.data_rows) OVER (PARTITION BY c.partition, c.producer_id ORDER BY t.ordinal), 0) = 0
           AS is_without_data
    FROM transactional t JOIN pg_temp.compaction_rows c ON c.ordinal = t.ordinal WHERE t.is_control
), lives AS (
    SELECT c.*, k.kept, coalesce(m.is_without_data, false) AS is_without_data,
           CASE WHEN c.is_whole THEN true
                WHEN c.is_control THEN NOT (m.is_without_data AND coalesce(c.delete_horizon <= $1, false))
                ELSE coalesce(cardinality(k.kept), 0) > 0 END AS lives
    FROM pg_temp.compaction_rows c
    LEFT JOIN pg_temp.compaction_kept k ON k.ordinal = c.ordinal
    LEFT JOIN markers m ON m.ordinal = c.ordinal
), places AS (
    SELECT l.*, l.lives OR (l.base_offset >> 30) IS DISTINCT FROM (lag(l.base_offset) OVER part >> 30) AS stays,
           max(l.last_offset) OVER (PARTITION BY l.extent) AS end_offset
    FROM lives l WINDOW part AS (PARTITION BY l.extent ORDER BY l.ordinal)
), spans AS (
    SELECT p.*,
           coalesce(min(p.base_offset) FILTER (WHERE p.stays)
                        OVER (PARTITION BY p.extent ORDER BY p.ordinal DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) - 1,
                    p.end_offset) AS new_last,
           sum(CASE WHEN p.lives THEN p.row_bytes::bigint * greatest(coalesce(cardinality(p.kept), 1), 1) / greatest(p.record_count, 1)
                    ELSE 0 END + 200) OVER (PARTITION BY p.series, p.segment ORDER BY p.ordinal) AS bytes_so_far
    FROM places p
)
SELECT s.ordinal, floor(s.bytes_so_far / $3::bigint)::integer, s.series, s.base_offset, CASE WHEN s.stays THEN s.new_last ELSE s.last_offset END,
       CASE WHEN s.is_control AND s.is_without_data AND NOT s.is_whole THEN coalesce(s.delete_horizon, $1 + $2)
            ELSE s.delete_horizon END,
       s.producer_id, s.partition, s.segment,
       CASE WHEN NOT s.stays THEN 'gone' WHEN NOT s.lives THEN 'fill'
            WHEN cardinality(s.kept) < s.record_count THEN 'cut' ELSE 'keep' END,
       s.is_control, s.kept
FROM spans s;

-- name: index_plan
CREATE INDEX IF NOT EXISTS compaction_plan_pieces ON pg_temp.compaction_plan (series, segment, piece);

-- name: pieces
-- With the bytes that are read and written for each, roughly: what stays is read and written, of the rest a little.
SELECT p.series, p.segment, p.piece,
       (sum(CASE WHEN p.fate IN ('keep', 'cut') THEN 2 * r.row_bytes::bigint ELSE 0 END) + 200 * count(*))::bigint AS bytes
FROM pg_temp.compaction_plan p JOIN pg_temp.compaction_rows r ON r.ordinal = p.ordinal
GROUP BY p.series, p.segment, p.piece ORDER BY p.series, p.segment, p.piece;

-- name: records
-- How many records of producers there were, and are to be.
SELECT c.partition, coalesce(sum(c.record_count) FILTER (WHERE NOT c.is_control), 0) AS before,
       coalesce(sum(CASE WHEN c.is_whole THEN c.record_count ELSE cardinality(k.kept) END) FILTER (WHERE NOT c.is_control), 0) AS after
FROM pg_temp.compaction_rows c LEFT JOIN pg_temp.compaction_kept k ON k.ordinal = c.ordinal GROUP BY c.partition;

-- name: hold_topic
-- Against its deletion. Held until the end of the transaction.
SELECT configs::text FROM kafka.topics WHERE id = $1 FOR KEY SHARE;

-- name: hold_extents
-- No row when others have moved the partitions' rows of a segment. Locks them until the end of the transaction.
SELECT x.partition, x.first_offset, x.generation FROM kafka.extents x
WHERE x.topic = $1 AND x.series = $2 AND x.segment = $3 ORDER BY x.partition, x.first_offset FOR NO KEY UPDATE;

-- name: delete_gone
-- In place: rows of a piece of which nothing stays.
DELETE FROM kafka.{leaf} l USING pg_temp.compaction_plan p
CROSS JOIN LATERAL (
    SELECT r.ctid AS place FROM kafka.{leaf} r
    WHERE r.topic = $1 AND r.partition = p.partition AND r.base_offset = p.base_offset OFFSET 0) AS o
WHERE p.series = $2 AND p.segment = $3 AND p.piece = $4 AND p.fate = 'gone' AND l.ctid = o.place;

-- name: delete_markers
DELETE FROM kafka.markers m USING pg_temp.compaction_plan p
WHERE p.series = $2 AND p.segment = $3 AND p.piece = $4 AND p.is_control AND p.fate IN ('gone', 'fill')
  AND m.topic = $1 AND m.partition = p.partition AND m.producer_id = p.producer_id AND m.marker_offset = p.base_offset;

-- name: update_kept
-- In place: rows of a piece that keep all records, with the offsets of those behind them, or with a horizon for their tombstones.
UPDATE kafka.{leaf} l
SET last_offset = p.last_offset, delete_horizon = CASE WHEN x.needs_horizon THEN $5 ELSE p.new_horizon END
FROM pg_temp.compaction_plan p
CROSS JOIN LATERAL (
    SELECT r.ctid AS place, r.is_control, r.delete_horizon, r.last_offset, r.values FROM kafka.{leaf} r
    WHERE r.topic = $1 AND r.partition = p.partition AND r.base_offset = p.base_offset OFFSET 0) AS o
CROSS JOIN LATERAL (
    SELECT NOT o.is_control AND o.delete_horizon IS NULL AND array_position(o.values, NULL) IS NOT NULL AS needs_horizon OFFSET 0) AS x
WHERE p.series = $2 AND p.segment = $3 AND p.piece = $4 AND p.fate = 'keep'
  AND (o.last_offset <> p.last_offset OR o.delete_horizon IS DISTINCT FROM p.new_horizon OR (p.kept IS NOT NULL AND x.needs_horizon))
  AND l.ctid = o.place;

-- name: update_filled
-- In place: rows of a piece of which only their offsets stay.
UPDATE kafka.{leaf} l
SET last_offset = p.last_offset, record_count = 0, row_bytes = 0, wire_bytes = 0, max_timestamp = -1, is_transactional = false,
    is_control = false, delete_horizon = NULL, producer_id = NULL, producer_epoch = NULL, batch_base_offset = NULL,
    base_sequence = NULL, batch_count = NULL, producer_ids = NULL, producer_epochs = NULL, batch_base_offsets = NULL,
    base_sequences = NULL, batch_counts = NULL, timestamps = NULL, offset_deltas = NULL, keys = NULL, header_ends = NULL,
    header_keys = NULL, header_values = NULL, values = '{}', codec = 0
FROM pg_temp.compaction_plan p
CROSS JOIN LATERAL (
    SELECT r.ctid AS place FROM kafka.{leaf} r
    WHERE r.topic = $1 AND r.partition = p.partition AND r.base_offset = p.base_offset OFFSET 0) AS o
WHERE p.series = $2 AND p.segment = $3 AND p.piece = $4 AND p.fate = 'fill' AND l.ctid = o.place
  AND NOT (l.record_count = 0 AND l.last_offset = p.last_offset);

-- name: update_cut
-- In place: rows of a piece of which some records stay.
UPDATE kafka.{leaf} l
SET last_offset = p.last_offset, record_count = cardinality(p.kept), keys = t.cut_keys, values = t.cut_values,
    timestamps = t.cut_timestamps, offset_deltas = t.cut_deltas, header_ends = t.cut_header_ends,
    header_keys = t.cut_header_keys, header_values = t.cut_header_values, first_timestamp = t.cut_first_timestamp,
    max_timestamp = t.cut_max_timestamp, row_bytes = t.cut_bytes::integer,
    wire_bytes = 61 + greatest(o.wire_bytes - 61, 0) * t.cut_bytes / greatest(o.row_bytes, 1),
    delete_horizon = CASE WHEN t.has_tombstone THEN coalesce(p.new_horizon, $5) ELSE p.new_horizon END
FROM pg_temp.compaction_plan p
CROSS JOIN LATERAL (
    SELECT r.ctid AS place, r.* FROM kafka.{leaf} r
    WHERE r.topic = $1 AND r.partition = p.partition AND r.base_offset = p.base_offset OFFSET 0) AS o
CROSS JOIN LATERAL kafka.cut_row(p.kept, o.keys, o.values, o.timestamps, o.offset_deltas, o.header_ends, o.header_keys,
                                 o.header_values, o.first_timestamp) AS t
WHERE p.series = $2 AND p.segment = $3 AND p.piece = $4 AND p.fate = 'cut' AND l.ctid = o.place;

-- name: refresh_figures
-- In place: the figures of a segment's extents that are known, after a piece. Rows of one topic, small columns only.
UPDATE kafka.extents x
SET bytes = f.bytes, records = f.records, max_timestamp = f.max_timestamp, last_offset = greatest(f.last_offset, x.first_offset - 1)
FROM (
    SELECT e.partition, e.first_offset, coalesce(sum(coalesce(l.wire_bytes, l.row_bytes)), 0) AS bytes,
           coalesce(sum(l.record_count) FILTER (WHERE NOT l.is_control), 0) AS records,
           coalesce(max(l.max_timestamp), -1) AS max_timestamp, coalesce(max(l.last_offset), -1) AS last_offset
    FROM (SELECT y.partition, y.first_offset, y.series, y.segment, y.last_offset,
                 lead(y.first_offset, 1, 9223372036854775807) OVER (PARTITION BY y.partition ORDER BY y.first_offset) AS next_offset
          FROM kafka.extents y WHERE y.topic = $1) AS e
    LEFT JOIN kafka.{leaf} l ON l.topic = $1 AND l.partition = e.partition
                            AND l.base_offset >= e.first_offset AND l.base_offset < e.next_offset
    WHERE e.series = $2 AND e.segment = $3 AND e.last_offset IS NOT NULL
    GROUP BY e.partition, e.first_offset
) AS f
WHERE x.topic = $1 AND x.partition = f.partition AND x.first_offset = f.first_offset;

-- name: segment_plans
-- What becomes of the segments of series $1: bytes that stay, roughly, and whether anything changes, or may change as it was never cleaned
-- ($2 and $3: partitions, and up to where they are clean).
SELECT p.segment, (sum(CASE WHEN p.fate IN ('keep', 'cut')
                            THEN r.row_bytes::bigint * greatest(coalesce(cardinality(p.kept), 1), 1) / greatest(r.record_count, 1)
                            ELSE 0 END))::bigint AS kept_bytes,
       bool_or(p.fate IN ('cut', 'gone') OR p.last_offset <> r.last_offset OR p.new_horizon IS DISTINCT FROM r.delete_horizon
               OR (NOT r.is_whole AND r.last_offset >= d.first_dirty_offset)) AS is_changed
FROM pg_temp.compaction_plan p
JOIN pg_temp.compaction_rows r ON r.ordinal = p.ordinal
JOIN unnest($2::integer[], $3::bigint[]) AS d (partition, first_dirty_offset) ON d.partition = p.partition
WHERE p.series = $1 GROUP BY p.segment;

-- name: dropped_markers
-- Markers of some segments' rows that go when these are replaced.
SELECT p.partition, p.producer_id, p.base_offset FROM pg_temp.compaction_plan p
WHERE p.series = $1 AND p.segment = ANY ($2::integer[]) AND p.is_control AND p.fate IN ('gone', 'fill') AND p.producer_id IS NOT NULL;

-- name: delete_dropped_markers
DELETE FROM kafka.markers m USING unnest($2::integer[], $3::bigint[], $4::bigint[]) AS u (p, i, o)
WHERE m.topic = $1 AND m.partition = u.p AND m.producer_id = u.i AND m.marker_offset = u.o;

-- name: fill_piece
-- What stays of a piece of a segment's rows goes to the segment that replaces it. Tombstones may go from $5 (ms) on.
INSERT INTO kafka.{target} (
    series, topic, base_offset, last_offset, global_base, max_timestamp, running_max_timestamp, append_time, first_timestamp, segment,
    partition, record_count, row_bytes, leader_epoch, timestamp_type, codec, is_transactional, is_control, delete_horizon,
    producer_id, batch_base_offset, base_sequence, batch_count, producer_epoch, producer_ids, batch_base_offsets, base_sequences,
    batch_counts, producer_epochs, timestamps, offset_deltas, keys, header_ends, header_keys, header_values, values, wire_bytes, batch)
SELECT l.series, l.topic, l.base_offset, p.last_offset, l.global_base,
       CASE WHEN f.is_cut THEN t.cut_max_timestamp WHEN f.is_fill THEN -1 ELSE l.max_timestamp END, l.running_max_timestamp,
       l.append_time, CASE WHEN f.is_cut THEN t.cut_first_timestamp ELSE l.first_timestamp END, {segment}, l.partition,
       CASE WHEN f.is_cut THEN cardinality(p.kept) WHEN f.is_fill THEN 0 ELSE l.record_count END,
       CASE WHEN f.is_cut THEN t.cut_bytes::integer WHEN f.is_fill THEN 0 ELSE l.row_bytes END,
       l.leader_epoch, l.timestamp_type, CASE WHEN f.is_fill THEN 0 ELSE l.codec END,
       l.is_transactional AND NOT f.is_fill, l.is_control AND NOT f.is_fill,
       CASE WHEN f.is_fill THEN NULL
            WHEN f.is_cut AND t.has_tombstone THEN coalesce(p.new_horizon, $5)
            WHEN NOT f.is_cut AND p.kept IS NOT NULL AND p.new_horizon IS NULL AND array_position(l.values, NULL) IS NOT NULL THEN $5
            ELSE p.new_horizon END,
       CASE WHEN NOT f.is_fill THEN l.producer_id END, CASE WHEN NOT f.is_fill THEN l.batch_base_offset END,
       CASE WHEN NOT f.is_fill THEN l.base_sequence END, CASE WHEN NOT f.is_fill THEN l.batch_count END,
       CASE WHEN NOT f.is_fill THEN l.producer_epoch END, CASE WHEN NOT f.is_fill THEN l.producer_ids END,
       CASE WHEN NOT f.is_fill THEN l.batch_base_offsets END, CASE WHEN NOT f.is_fill THEN l.base_sequences END,
       CASE WHEN NOT f.is_fill THEN l.batch_counts END, CASE WHEN NOT f.is_fill THEN l.producer_epochs END,
       CASE WHEN f.is_cut THEN t.cut_timestamps WHEN NOT f.is_fill THEN l.timestamps END,
       CASE WHEN f.is_cut THEN t.cut_deltas WHEN NOT f.is_fill THEN l.offset_deltas END,
       CASE WHEN f.is_cut THEN t.cut_keys WHEN NOT f.is_fill THEN l.keys END,
       CASE WHEN f.is_cut THEN t.cut_header_ends WHEN NOT f.is_fill THEN l.header_ends END,
       CASE WHEN f.is_cut THEN t.cut_header_keys WHEN NOT f.is_fill THEN l.header_keys END,
       CASE WHEN f.is_cut THEN t.cut_header_values WHEN NOT f.is_fill THEN l.header_values END,
       CASE WHEN f.is_cut THEN t.cut_values WHEN f.is_fill THEN '{}' ELSE l.values END,
       CASE WHEN f.is_cut THEN 61 + greatest(l.wire_bytes - 61, 0) * t.cut_bytes / greatest(l.row_bytes, 1)
            WHEN f.is_fill THEN 0 ELSE l.wire_bytes END,
       CASE WHEN NOT f.is_fill THEN l.batch END
FROM pg_temp.compaction_plan p
CROSS JOIN LATERAL (
    SELECT * FROM kafka.{leaf} r
    WHERE r.topic = $1 AND r.partition = p.partition AND r.base_offset = p.base_offset OFFSET 0) AS l
CROSS JOIN LATERAL (SELECT p.fate = 'cut' AS is_cut, p.fate = 'fill' AS is_fill) AS f
-- Arrays that are handed to the function are taken out of TOAST for it.
CROSS JOIN LATERAL kafka.cut_row(
    CASE WHEN f.is_cut THEN p.kept END, CASE WHEN f.is_cut THEN l.keys END, CASE WHEN f.is_cut THEN l.values END,
    CASE WHEN f.is_cut THEN l.timestamps END, CASE WHEN f.is_cut THEN l.offset_deltas END, CASE WHEN f.is_cut THEN l.header_ends END,
    CASE WHEN f.is_cut THEN l.header_keys END, CASE WHEN f.is_cut THEN l.header_values END, l.first_timestamp) AS t
WHERE p.series = $2 AND p.segment = $3 AND p.piece = $4 AND p.fate <> 'gone'
ORDER BY p.ordinal;

-- name: is_clean
-- Unless the topic is gone.
WITH held AS (SELECT FROM kafka.topics WHERE id = $1 FOR KEY SHARE)
INSERT INTO kafka.compactions AS c (topic, partition, first_dirty_offset, records_before, records_after)
SELECT $1, u.p, u.o, u.b, u.a FROM held, unnest($2::integer[], $3::bigint[], $4::bigint[], $5::bigint[]) AS u (p, o, b, a)
ON CONFLICT (topic, partition) DO UPDATE
SET first_dirty_offset = excluded.first_dirty_offset, records_before = excluded.records_before,
    records_after = excluded.records_after, compacted_at = clock_timestamp();
