-- How much partitions hold.

-- name: of_topics
-- Of topics $1 the partitions that have rows: bytes of complete segments, bytes of others as of the last checkpoint, and where the
-- newest part in a complete segment begins. kafka.extents is read by its primary key.
SELECT z.topic_id, z.partition_id,
       coalesce(sum(z.bytes) FILTER (WHERE z.is_complete), 0)::bigint AS complete_bytes,
       coalesce(sum(z.bytes) FILTER (WHERE NOT z.is_complete), 0)::bigint AS other_bytes,
       coalesce(max(z.first_offset) FILTER (WHERE z.is_complete), -1) AS newest_complete
FROM kafka.extent_sizes z WHERE z.topic_id = ANY ($1::bigint[]) GROUP BY z.topic_id, z.partition_id;

-- name: places
-- Where partitions $1, $2 begin and end; those of topics that are gone are left out. Index look-ups only.
SELECT u.topic, u.partition, coalesce(s.log_start_offset, 0) AS start_offset, kafka.end_offset(u.topic, u.partition) AS end_offset
FROM unnest($1::bigint[], $2::integer[]) AS u (topic, partition)
JOIN kafka.topics t ON t.id = u.topic
LEFT JOIN kafka.log_starts s ON s.topic = u.topic AND s.partition = u.partition;
