-- Upkeep of consumer groups that are driven by SQL: their tables of commits, and groups that nobody has used for long.

-- name: state
-- What there is to do: the active table's size, tables to copy and tables to empty. is_ahead: a turn was announced and not committed.
SELECT s.active, pg_table_size(to_regclass('kafka.sql_commits_' || s.active)) AS bytes, s.live_bytes,
       array_remove(s.counting, s.active) AS to_copy,
       ARRAY(SELECT n::smallint FROM generate_series(0, 3) AS n WHERE s.copied_at[n + 1] IS NOT NULL) AS copied,
       ARRAY(SELECT n::smallint FROM generate_series(0, 3) AS n
             WHERE s.copied_at[n + 1] < clock_timestamp() - $1::float8 * interval '1 second') AS to_empty,
       q.last_value <> s.turn AS is_ahead
FROM kafka.sql_commit_state s, kafka.sql_commit_turns q;

-- name: turn
SELECT kafka.turn_sql_commits();

-- name: switch
SELECT kafka.switch_sql_commits();

-- name: copy
-- Locks: the row of the state, SHARE on the table, whose readers go on.
SELECT kafka.copy_sql_commits($1::smallint);

-- name: empty
-- Locks: the row of the state, ACCESS EXCLUSIVE on the table.
SELECT kafka.empty_sql_commits($1::smallint);

-- name: forget_topics
-- What groups have begun of topics that were deleted. Their commits are not copied any more.
DELETE FROM kafka.sql_group_topics s WHERE NOT EXISTS (SELECT FROM kafka.topics t WHERE t.id = s.topic_id);

-- name: expired_groups
-- Groups that nobody has polled for the time that broker $1 keeps offsets, and then some: poll() notes it every ten minutes.
SELECT g.group_id
FROM kafka.sql_groups g
CROSS JOIN (SELECT interval '10 minutes' + coalesce(
                (SELECT c.value FROM kafka.broker_configs c WHERE c.node_id = $1 AND c.name = 'offsets.retention.minutes'),
                (SELECT k.default_value FROM kafka.config_keys k WHERE k.scope = 'broker' AND k.name = 'offsets.retention.minutes'),
                '10080')::integer * interval '1 minute' AS kept_for) AS r
WHERE g.polled_at < clock_timestamp() - r.kept_for
  AND NOT EXISTS (SELECT FROM kafka.sql_offsets o WHERE o.group_id = g.group_id AND o.committed_at >= clock_timestamp() - r.kept_for);

-- name: delete_group
SELECT kafka.delete_sql_group($1);
