-- How far consumer groups are behind, and the tables of what that was.

-- name: ends
-- Ends of partitions that are not loaded.
SELECT w.topic, w.partition, kafka.end_offset(w.topic, w.partition) AS end_offset
FROM unnest($1::bigint[], $2::integer[]) AS w (topic, partition);

-- name: unread_times
-- When the first records at or behind places were appended.
SELECT n, append_time FROM kafka.unread_times($1::bigint[], $2::integer[], $3::bigint[]);

-- name: write_minute
-- No row when the table has $6 bytes, as the next one could not be emptied for so long.
INSERT INTO kafka.lag_minutes (turn, minute, group_ids, topics, lags, lag_seconds)
SELECT t.turn, timestamptz 'epoch' + $1::bigint * interval '1 millisecond', $2::text[], $3::text[], $4::bigint[], $5::integer[]
FROM kafka.lag_turn t
WHERE pg_total_relation_size(to_regclass('kafka.lag_minutes_' || t.turn)) < $6::bigint
RETURNING turn;

-- name: state
-- The table that is written: its number, bytes, and rows (at most $1 are counted).
SELECT t.turn, pg_total_relation_size(to_regclass('kafka.lag_minutes_' || t.turn)) AS bytes,
       (SELECT count(*) FROM (SELECT FROM kafka.lag_minutes m WHERE m.turn = t.turn LIMIT $1) AS c) AS rows
FROM kafka.lag_turn t;

-- name: empty
-- ACCESS EXCLUSIVE on a table that nobody writes, until the end of the transaction.
TRUNCATE kafka.lag_minutes_{turn};

-- name: take_turn
-- Whoever writes meanwhile writes to the one or the other.
UPDATE kafka.lag_turn SET turn = $1, since = clock_timestamp();
