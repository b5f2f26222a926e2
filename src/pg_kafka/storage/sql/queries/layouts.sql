-- Topics that keep compressed batches as they came, and taking these apart when SQL asks. See storage/layouts.py.

-- name: begin_to_keep
-- Locks the topic's row, before its view. `view` is NULL while there is none, and for what somebody else has put in its place.
UPDATE kafka.topics t SET keeps_batches = true, sql_asked_at = NULL WHERE t.id = $1
RETURNING (SELECT c.relname FROM pg_catalog.pg_class c
           WHERE c.relnamespace = 'topics'::regnamespace AND c.relname = t.view_name AND c.relkind = 'v') AS view;

-- name: touch_view
-- Plans that sessions keep for the view are made anew, and ask.
SELECT kafka.touch_topic_view($1);

-- name: asked
-- Topics that keep batches, or have not long ago, and that running transactions ask for.
WITH locks AS (
    SELECT l.pid, l.objid::bigint AS asked, l.locktype = 'relation' AS may_ask
    FROM pg_catalog.pg_locks l
    WHERE l.granted AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
      -- In this mode nobody else locks the table, neither a dump nor a vacuum.
      AND (l.locktype = 'relation' AND l.relation = 'kafka.unpacking_asked'::regclass AND l.mode = 'RowShareLock'
           OR l.locktype = 'advisory' AND l.classid = 1885825895 AND l.objsubid = 2)
),
asked AS (
    -- Who has the first lock alone could not get the second, and asks for all.
    SELECT DISTINCT coalesce(a.asked, 0) AS key
    FROM locks m LEFT JOIN locks a ON a.pid = m.pid AND NOT a.may_ask
    WHERE m.may_ask
)
SELECT t.id, t.keeps_batches, t.sql_asked_at IS NOT NULL AS is_asked
FROM kafka.topics t
WHERE (t.keeps_batches OR t.sql_asked_at IS NOT NULL)
  AND EXISTS (SELECT FROM asked a WHERE a.key = 0 OR a.key = t.id & 2147483647)
ORDER BY t.id;

-- name: keeping
-- Topics that keep batches, whether SQL has asked for them or not.
SELECT t.id, t.sql_asked_at IS NOT NULL AS is_asked FROM kafka.topics t WHERE t.keeps_batches ORDER BY t.id;

-- name: note_asked
UPDATE kafka.topics SET sql_asked_at = clock_timestamp() WHERE id = $1 AND keeps_batches RETURNING id;

-- name: end_keeping
-- Nothing of the topic is packed any more, and nobody writes packed rows of it.
UPDATE kafka.topics t SET keeps_batches = false
WHERE t.id = $1 AND t.sql_asked_at IS NOT NULL
  AND NOT EXISTS (SELECT FROM kafka.extents e WHERE e.topic = t.id AND e.packed_from IS NOT NULL)
RETURNING t.id;

-- name: packed_extent
-- The next extent of a topic that has packed rows, and whether its table is there; index packed_extents.
SELECT e.partition, e.first_offset, e.series, e.segment, e.packed_from,
       to_regclass(format('kafka.log_%s_%s', e.series, e.segment)) IS NOT NULL AS has_leaf
FROM kafka.extents e WHERE e.topic = $1 AND e.packed_from IS NOT NULL
ORDER BY e.partition, e.first_offset LIMIT 1;

-- name: hold_topic
-- A topic that is being deleted is left alone: rows that are put back would outlive it. Held until the end of the transaction.
SELECT 1 FROM kafka.topics WHERE id = $1 FOR KEY SHARE;

-- name: packed_rows
-- Packed rows from offset $3 on that hold $4 bytes uncompressed, at least one; index (topic, partition, base_offset).
SELECT base_offset, last_offset, global_base, running_max_timestamp, append_time, leader_epoch, timestamp_type, codec,
       is_transactional, row_bytes, batch
FROM (
    SELECT l.*, sum(l.row_bytes::bigint) OVER (ORDER BY l.base_offset) - l.row_bytes AS bytes_before
    FROM (
        SELECT r.* FROM kafka.{leaf} r
        WHERE r.topic = $1 AND r.partition = $2 AND r.base_offset >= $3 AND r.batch IS NOT NULL
        ORDER BY r.base_offset LIMIT 500
    ) l
) m
WHERE bytes_before < $4
ORDER BY base_offset;

-- name: delete_packed
DELETE FROM kafka.{leaf} WHERE topic = $1 AND partition = $2 AND base_offset = ANY ($3::bigint[]) AND batch IS NOT NULL;

-- name: has_packed
SELECT EXISTS (SELECT FROM kafka.{leaf} WHERE topic = $1 AND partition = $2 AND base_offset >= $3 AND batch IS NOT NULL);

-- name: advance_packed
-- NULL: none are left. No row when somebody has changed the extent meanwhile. Locks it until the end of the transaction.
UPDATE kafka.extents SET packed_from = $6
WHERE topic = $1 AND partition = $2 AND first_offset = $3 AND (series, segment) = ($4, $5) AND packed_from = $7
RETURNING 1;

-- name: note_change
-- Rows of a complete segment change: who copies it begins anew, and it has dead rows. Was it vacuumed for good before?
UPDATE kafka.segments g
SET changes = g.changes + 1, state = 'sealed', sealed_at = CASE WHEN o.state = 'frozen' THEN clock_timestamp() ELSE g.sealed_at END
FROM (SELECT s.state FROM kafka.segments s WHERE s.series = $1 AND s.segment = $2 FOR UPDATE) AS o
WHERE g.series = $1 AND g.segment = $2 AND g.state IN ('sealed', 'frozen') RETURNING o.state = 'frozen' AS was_frozen;
