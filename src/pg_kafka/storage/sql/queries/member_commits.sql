-- Offsets that members of groups commit by kafka.commit_offsets(), and what a broker asks before it tells a new owner where to begin.

-- name: look
-- is_quiet: no transaction has committed offsets by SQL and is still open. Who begins in this moment waits until this has been answered.
-- And a row for each of the groups $1 that SQL drives, or is about to drive. At least one row.
SELECT q.is_quiet, d.group_id, d.is_driven
FROM (SELECT pg_try_advisory_xact_lock(1885825896, 3) AS is_quiet) AS q
LEFT JOIN kafka.driven_by_sql($1) AS d ON true;

-- name: under_way
-- Those of some partitions ($1 groups, $2 topic ids, $3 partitions) whose offsets a transaction has committed that is still open, and
-- the session's process; 0 of a prepared one.
SELECT w.group_id, w.topic_id, w.partition, coalesce(l.pid, 0) AS pid
FROM unnest($1::text[], $2::bigint[], $3::integer[]) AS w (group_id, topic_id, partition)
JOIN pg_locks l ON (l.classid::bigint << 32) | l.objid::bigint = kafka.member_commit_lock(w.group_id, w.topic_id, w.partition)
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.mode = 'ExclusiveLock'
  AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());

-- name: news
-- Of each group and partition the last commit that is there now and was not in the snapshot $1; NULL: of all. At least one row, with
-- the snapshot. Index on xid, unless all is asked.
SELECT n.snapshot, c.id, c.group_id, c.topic_id, c.partition_id, c.committed_offset, c.leader_epoch, c.metadata,
       round(extract(epoch FROM c.committed_at) * 1000)::bigint AS committed_at_ms
FROM (SELECT pg_current_snapshot()::text AS snapshot) AS n
LEFT JOIN (
    SELECT DISTINCT ON (u.group_id, u.topic_id, u.partition_id) u.*
    FROM (SELECT * FROM kafka.member_commits_0 m
          WHERE $1::text IS NULL OR m.xid >= pg_snapshot_xmax($1::text::pg_snapshot)
             OR m.xid = ANY (ARRAY(SELECT pg_snapshot_xip($1::text::pg_snapshot)))
          UNION ALL
          SELECT * FROM kafka.member_commits_1 m
          WHERE $1::text IS NULL OR m.xid >= pg_snapshot_xmax($1::text::pg_snapshot)
             OR m.xid = ANY (ARRAY(SELECT pg_snapshot_xip($1::text::pg_snapshot)))) AS u
    ORDER BY u.group_id, u.topic_id, u.partition_id, u.id DESC
) AS c ON true;

-- name: turn
-- Which table is written, how large it is, whether the other one has rows, and for how long it has been so.
SELECT t.active, pg_relation_size(format('kafka.member_commits_%s', t.active)::regclass) AS bytes,
       CASE t.active WHEN 0 THEN EXISTS (SELECT FROM kafka.member_commits_1) ELSE EXISTS (SELECT FROM kafka.member_commits_0) END AS has_old,
       extract(epoch FROM clock_timestamp() - t.since)::double precision AS since_s
FROM kafka.member_commits_turn t;

-- name: take_turn
UPDATE kafka.member_commits_turn SET active = $1, since = clock_timestamp();

-- name: lock_old
-- Fails at once while a transaction that is open has written there.
LOCK TABLE kafka.member_commits_{turn} IN ACCESS EXCLUSIVE MODE NOWAIT;

-- name: not_taken
-- Is there a commit that no broker has taken over into the journals? Those of topics that are gone never are.
WITH taken AS MATERIALIZED (
    SELECT r.group_id, r.key, (r.value ->> 'id')::bigint AS id FROM kafka.group_records r WHERE r.kind = 'sql commits'
), newest AS MATERIALIZED (
    SELECT m.group_id, m.topic_id, m.partition_id, max(m.id) AS id FROM kafka.member_commits_{turn} m
    WHERE EXISTS (SELECT FROM kafka.topics t WHERE t.id = m.topic_id)
    GROUP BY m.group_id, m.topic_id, m.partition_id
)
SELECT EXISTS (
    SELECT FROM newest n
    LEFT JOIN taken p ON p.group_id = n.group_id AND p.key = n.topic_id || '-' || n.partition_id
    LEFT JOIN taken g ON g.group_id = n.group_id AND g.key = ''
    WHERE n.id > greatest(p.id, g.id, 0)) AS has_some;

-- name: empty
TRUNCATE kafka.member_commits_{turn};
