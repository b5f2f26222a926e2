-- Where consumer groups that are driven by SQL are (schema/102_sql_groups.sql). kafka.consumer_offsets has them too.

CREATE OR REPLACE VIEW kafka.sql_offsets AS
SELECT g.group_id, t.id AS topic_id, p.partition_id, c.next_offset AS committed_offset, c.committed_at, c.commit_number
FROM kafka.sql_groups g
JOIN kafka.sql_group_topics s ON s.group_number = g.number
JOIN kafka.topics t ON t.id = s.topic_id
CROSS JOIN LATERAL generate_series(0, t.partitions - 1) AS p (partition_id)
-- Look-ups in the tables' indexes, however many commits they have. In a table whose commits were copied the same ones are found again.
CROSS JOIN LATERAL (
    SELECT x.next_offset, x.committed_at, x.commit_number
    FROM ((SELECT c.next_offset, c.committed_at, c.commit_number FROM kafka.sql_commits_0 c
           WHERE c.group_number = g.number AND c.topic_id = t.id AND c.partition_id = p.partition_id
           ORDER BY c.commit_number DESC LIMIT 1)
          UNION ALL
          (SELECT c.next_offset, c.committed_at, c.commit_number FROM kafka.sql_commits_1 c
           WHERE c.group_number = g.number AND c.topic_id = t.id AND c.partition_id = p.partition_id
           ORDER BY c.commit_number DESC LIMIT 1)
          UNION ALL
          (SELECT c.next_offset, c.committed_at, c.commit_number FROM kafka.sql_commits_2 c
           WHERE c.group_number = g.number AND c.topic_id = t.id AND c.partition_id = p.partition_id
           ORDER BY c.commit_number DESC LIMIT 1)
          UNION ALL
          (SELECT c.next_offset, c.committed_at, c.commit_number FROM kafka.sql_commits_3 c
           WHERE c.group_number = g.number AND c.topic_id = t.id AND c.partition_id = p.partition_id
           ORDER BY c.commit_number DESC LIMIT 1)) AS x
    ORDER BY x.commit_number DESC LIMIT 1
) AS c
WHERE c.next_offset IS NOT NULL;
COMMENT ON VIEW kafka.sql_offsets IS 'The latest committed offset of each consumer group that is driven by SQL, and partition.';
COMMENT ON COLUMN kafka.sql_offsets.committed_offset IS 'Next offset that the group will consume.';
COMMENT ON COLUMN kafka.sql_offsets.commit_number IS 'How many commits of this partition there have been; seeks count too.';
