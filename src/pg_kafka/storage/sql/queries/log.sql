-- Append and read. Statements with {leaf} are rendered for one segment's table and count on its
-- UNIQUE (topic, partition, base_offset).

-- name: next_global_block
SELECT nextval('kafka.global_offsets');

-- name: next_producer_block
SELECT nextval('kafka.producer_ids');

-- name: copy_log
-- Through the root, which routes to all segments.
COPY kafka.log FROM STDIN (FORMAT binary);

-- name: copy_segment
-- All rows are of one segment; the server checks that they are.
COPY kafka.{leaf} FROM STDIN (FORMAT binary);

-- name: insert_row
-- One row of a segment, with a parameter for each column, in the order of the table.
INSERT INTO kafka.{leaf}
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
    $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37, $38);

-- name: insert_extents
INSERT INTO kafka.extents (topic, partition, first_offset, series, segment, packed_from)
SELECT * FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::bigint[], $5::integer[], $6::bigint[]);

-- name: mark_packed_extents
-- Extents that get their first row with batches as they came. Not UPDATE: the transaction before, which inserts the extent, may not
-- be committed yet. Its row is waited for, and that is committed first.
INSERT INTO kafka.extents AS e (topic, partition, first_offset, series, segment, packed_from)
SELECT * FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::bigint[], $5::integer[], $6::bigint[]) AS u (t, p, f, s, g, o)
ORDER BY u.t, u.p
ON CONFLICT (topic, partition, first_offset) DO UPDATE SET packed_from = least(e.packed_from, excluded.packed_from);

-- name: insert_epochs
INSERT INTO kafka.leader_epochs (topic, partition, epoch, start_offset)
SELECT * FROM unnest($1::bigint[], $2::integer[], $3::integer[], $4::bigint[]);

-- name: write_checkpoints
INSERT INTO kafka.partition_checkpoints AS c
    (topic, partition, next_offset, running_max_timestamp, appended_bytes, producers, open_transactions, extent_bytes, extent_records)
SELECT t, p, n, m, b, d::jsonb, o::jsonb, eb, er
FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::bigint[], $9::bigint[])
    AS u (t, p, n, m, b, d, o, eb, er)
ON CONFLICT (topic, partition) DO UPDATE
SET next_offset = excluded.next_offset, running_max_timestamp = excluded.running_max_timestamp,
    appended_bytes = excluded.appended_bytes, producers = excluded.producers,
    open_transactions = excluded.open_transactions, extent_bytes = excluded.extent_bytes, extent_records = excluded.extent_records,
    written_at = clock_timestamp();

-- name: load_partitions
-- What is known of partitions before their rows are looked at: one row for each that was asked for.
SELECT w.topic, w.partition,
       coalesce(s.log_start_offset, 0) AS log_start_offset,
       c.next_offset, c.running_max_timestamp, coalesce(c.appended_bytes, 0) AS appended_bytes, c.producers::text AS producers,
       c.open_transactions::text AS open_transactions, c.extent_bytes, c.extent_records,
       (SELECT array_agg(ARRAY[x.first_offset, x.series, x.segment::bigint, x.generation::bigint] ORDER BY x.first_offset)
        FROM kafka.extents x WHERE x.topic = w.topic AND x.partition = w.partition) AS extents,
       (SELECT array_agg(ARRAY[e.epoch::bigint, e.start_offset] ORDER BY e.epoch)
        FROM kafka.leader_epochs e WHERE e.topic = w.topic AND e.partition = w.partition) AS epochs
FROM unnest($1::bigint[], $2::integer[]) AS w (topic, partition)
LEFT JOIN kafka.log_starts s ON s.topic = w.topic AND s.partition = w.partition
LEFT JOIN kafka.partition_checkpoints c ON c.topic = w.topic AND c.partition = w.partition;

-- name: rows_after_checkpoints
-- Small columns of the rows after each partition's checkpoint, in one segment; no TOAST is read.
SELECT l.topic, l.partition, l.base_offset, l.last_offset, l.running_max_timestamp, l.append_time,
       CASE WHEN l.batch IS NULL THEN l.row_bytes ELSE l.wire_bytes END AS stored_bytes,
       coalesce(l.wire_bytes, l.row_bytes) AS wire_bytes, l.record_count, l.is_transactional, l.is_control,
       l.producer_id, l.producer_epoch, l.base_sequence, l.batch_base_offset, l.batch_count,
       l.producer_ids, l.producer_epochs, l.base_sequences, l.batch_base_offsets, l.batch_counts,
       -- The value of a marker: a version of two bytes and the epoch of four.
       CASE WHEN l.is_control THEN ('x' || encode(substring(l.values[1] FROM 3 FOR 4), 'hex'))::bit(32)::integer END
           AS coordinator_epoch
FROM unnest($1::bigint[], $2::integer[], $3::bigint[]) AS w (topic, partition, from_offset)
CROSS JOIN LATERAL (
    SELECT * FROM kafka.{leaf} r
    WHERE r.topic = w.topic AND r.partition = w.partition AND r.base_offset >= w.from_offset
    ORDER BY r.base_offset
) l
ORDER BY l.topic, l.partition, l.base_offset;

-- name: extent_figures
-- What partitions $1, $2 have in one segment from offset $3 on, below $4. Scans small columns: asked once, of what a program from before
-- these figures were kept has written.
SELECT w.topic, w.partition, coalesce(sum(coalesce(r.wire_bytes, r.row_bytes)), 0)::bigint AS bytes,
       coalesce(sum(r.record_count) FILTER (WHERE NOT r.is_control), 0)::bigint AS records
FROM unnest($1::bigint[], $2::integer[], $3::bigint[], $4::bigint[]) AS w (topic, partition, from_offset, to_offset)
LEFT JOIN kafka.{leaf} r ON r.topic = w.topic AND r.partition = w.partition
                        AND r.base_offset >= w.from_offset AND r.base_offset < w.to_offset
GROUP BY w.topic, w.partition;

-- name: aborted
-- Transactions of producers $3 in one segment whose markers are at or after $4: those below $5, and the next one, if any.
SELECT m.producer_id, m.base_offset, m.batch_base_offset, get_byte(m.keys[1], 3) = 0 AS is_abort
FROM unnest($3::bigint[]) AS p (producer_id)
CROSS JOIN LATERAL (
    (SELECT * FROM kafka.{leaf} r
     WHERE r.topic = $1 AND r.partition = $2 AND r.producer_id = p.producer_id AND r.is_control
       AND r.base_offset >= $4 AND r.base_offset < $5)
    UNION ALL
    (SELECT * FROM kafka.{leaf} r
     WHERE r.topic = $1 AND r.partition = $2 AND r.producer_id = p.producer_id AND r.is_control AND r.base_offset >= $5
     ORDER BY r.base_offset LIMIT 1)
) m
ORDER BY m.base_offset;

-- name: load_extents
SELECT first_offset, series, segment, generation FROM kafka.extents
WHERE topic = $1 AND partition = $2 ORDER BY first_offset;

-- name: load_start
SELECT log_start_offset FROM kafka.log_starts WHERE topic = $1 AND partition = $2;

-- name: load_extents_of_many
SELECT x.topic, x.partition,
       array_agg(ARRAY[x.first_offset, x.series, x.segment::bigint, x.generation::bigint] ORDER BY x.first_offset) AS extents
FROM unnest($1::bigint[], $2::integer[]) AS w (topic, partition)
JOIN kafka.extents x ON x.topic = w.topic AND x.partition = w.partition
GROUP BY x.topic, x.partition;

-- name: read_rows
-- Rows from the one that holds offset $3 on, below $4, until $5 bytes are reached; at least one, at most $6 looked at.
SELECT base_offset, last_offset, record_count, leader_epoch, first_timestamp, max_timestamp, timestamp_type, codec,
       is_transactional, is_control, delete_horizon, stored_bytes, row_bytes, batch,
       coalesce(producer_id, producer_ids[1]) AS producer_id, coalesce(producer_epoch, producer_epochs[1]) AS producer_epoch,
       coalesce(base_sequence, base_sequences[1]) AS base_sequence,
       coalesce(batch_base_offset, batch_base_offsets[1]) AS batch_base_offset,
       array_send(timestamps) AS timestamps, array_send(offset_deltas) AS offset_deltas, array_send(keys) AS keys,
       array_send(header_ends) AS header_ends, array_send(header_keys) AS header_keys,
       array_send(header_values) AS header_values, array_send(values) AS values
FROM (
    SELECT l.*, sum(l.stored_bytes) OVER (ORDER BY l.base_offset) - l.stored_bytes AS bytes_before
    FROM (
        SELECT r.*, CASE WHEN r.batch IS NULL THEN r.row_bytes ELSE r.wire_bytes END AS stored_bytes FROM kafka.{leaf} r
        WHERE r.topic = $1 AND r.partition = $2 AND r.base_offset < $4
          AND r.base_offset >= coalesce((SELECT max(s.base_offset) FROM kafka.{leaf} s
                                         WHERE s.topic = $1 AND s.partition = $2 AND s.base_offset <= $3), $3)
        ORDER BY r.base_offset
        LIMIT $6
    ) l
) m
WHERE bytes_before < $5
ORDER BY base_offset;

-- name: last_running_max
-- The running maximum of timestamps at the end of a partition's part of a segment.
SELECT running_max_timestamp FROM kafka.{leaf} WHERE topic = $1 AND partition = $2 AND base_offset < $3
ORDER BY base_offset DESC LIMIT 1;

-- name: first_row_by_running_max
SELECT base_offset, last_offset, max_timestamp, first_timestamp, leader_epoch, timestamps, offset_deltas, record_count, row_bytes, batch
FROM kafka.{leaf} WHERE topic = $1 AND partition = $2 
AND base_offset >= coalesce((SELECT max(s.base_offset) FROM kafka.{leaf} s
                             WHERE s.topic = $1 AND s.partition = $2 AND s.base_offset <= $3), $3)
AND last_offset >= $3 AND base_offset < $4 AND running_max_timestamp >= $5
ORDER BY base_offset LIMIT 1;

-- name: first_row_by_max
SELECT base_offset, last_offset, max_timestamp, first_timestamp, leader_epoch, timestamps, offset_deltas, record_count, row_bytes, batch
FROM kafka.{leaf} WHERE topic = $1 AND partition = $2 
AND base_offset >= coalesce((SELECT max(s.base_offset) FROM kafka.{leaf} s
                             WHERE s.topic = $1 AND s.partition = $2 AND s.base_offset <= $3), $3)
AND last_offset >= $3 AND base_offset < $4 AND max_timestamp >= $5
ORDER BY base_offset LIMIT 1;

-- name: largest_timestamps
-- Of the parts of a partition in complete segments that lie at or above offset $3, by their first offsets.
SELECT first_offset, max_timestamp FROM kafka.extents
WHERE topic = $1 AND partition = $2 AND first_offset >= $3 AND last_offset IS NOT NULL;

-- name: largest_timestamp
-- Of the rows of a partition in one segment that begin at or above offset $3; a scan of small columns.
SELECT max(max_timestamp) FROM kafka.{leaf} WHERE topic = $1 AND partition = $2 AND base_offset >= $3;

-- name: row_across
-- The row that begins below offset $3 and reaches up to it, or further.
SELECT base_offset, first_timestamp, timestamps, offset_deltas, record_count, row_bytes, batch
FROM (SELECT * FROM kafka.{leaf} WHERE topic = $1 AND partition = $2 AND base_offset < $3 ORDER BY base_offset DESC LIMIT 1) AS l
WHERE last_offset >= $3;

-- name: row_exists
-- Did a transaction whose outcome is unknown commit? Its rows are there all or not at all.
SELECT EXISTS (SELECT FROM kafka.{leaf} WHERE topic = $1 AND partition = $2 AND base_offset = $3 AND global_base = $4);

-- name: checkpoint_exists
SELECT EXISTS (SELECT FROM kafka.partition_checkpoints WHERE topic = $1 AND partition = $2 AND next_offset >= $3);
