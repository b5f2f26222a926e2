-- Where partitions begin for readers.

-- name: advance
-- One row for each partition that could be moved: where it begins afterwards. Left out are topics that are gone or that somebody is
-- deleting, since nothing would remove their rows again, and starts that somebody else's open transaction is moving.
-- Locks: the topics' rows in order of id, against deletion; then the starts. None of them is waited for, but for a partition's first
-- start: two seconds, unless the session has a lock_timeout.
WITH patience AS MATERIALIZED (
    SELECT set_config('lock_timeout', CASE current_setting('lock_timeout') WHEN '0' THEN '2s' ELSE current_setting('lock_timeout') END, true)
), asked AS (
    SELECT * FROM unnest($1::bigint[], $2::integer[], $3::bigint[]) AS u (topic, partition, log_start_offset)
), topics AS MATERIALIZED (
    SELECT t.id FROM kafka.topics t WHERE t.id = ANY ($1::bigint[]) ORDER BY t.id FOR KEY SHARE SKIP LOCKED
), free AS MATERIALIZED (
    SELECT s.topic, s.partition FROM kafka.log_starts s JOIN asked a ON a.topic = s.topic AND a.partition = s.partition
    FOR UPDATE OF s SKIP LOCKED
)
INSERT INTO kafka.log_starts AS s (topic, partition, log_start_offset)
SELECT a.topic, a.partition, a.log_start_offset
FROM patience CROSS JOIN asked a JOIN topics t ON t.id = a.topic
LEFT JOIN free f ON f.topic = a.topic AND f.partition = a.partition
WHERE f.topic IS NOT NULL
   OR NOT EXISTS (SELECT FROM kafka.log_starts o WHERE o.topic = a.topic AND o.partition = a.partition)
ORDER BY a.topic, a.partition
ON CONFLICT (topic, partition) DO UPDATE SET log_start_offset = greatest(s.log_start_offset, excluded.log_start_offset)
RETURNING s.topic, s.partition, s.log_start_offset;

-- name: all
SELECT topic, partition, log_start_offset FROM kafka.log_starts;

-- name: of_topics
SELECT topic, partition, log_start_offset FROM kafka.log_starts WHERE topic = ANY ($1::bigint[]);

-- name: forget_lost
-- Starts that SQL has moved while their topics were being deleted: they would stay, and mean nothing.
DELETE FROM kafka.log_starts s
WHERE NOT EXISTS (SELECT FROM kafka.topics t WHERE t.id = s.topic)
  AND NOT EXISTS (SELECT FROM kafka.deleted_topics d WHERE d.id = s.topic);
