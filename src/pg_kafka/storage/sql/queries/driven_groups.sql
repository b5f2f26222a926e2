-- Consumer groups that SQL drives (schema/102_sql_groups.sql), for brokers that answer for them.

-- name: names
SELECT g.group_id FROM kafka.sql_groups g;

-- name: offsets
SELECT o.group_id, o.topic_id, o.partition_id, o.committed_offset, round(extract(epoch FROM o.committed_at) * 1000)::bigint
FROM kafka.sql_offsets o WHERE o.group_id = ANY ($1::text[]);

-- name: delete
SELECT kafka.delete_sql_group($1);
