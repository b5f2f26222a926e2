-- kafka.consumer_offsets: what consumer groups have committed. Its columns are a contract with SQL users.

CREATE OR REPLACE VIEW kafka.consumer_offsets AS
SELECT j.group_id, j.topic_id, j.partition_id, j.committed_offset, j.metadata
FROM (SELECT DISTINCT ON (o.group_id, o.topic_id, o.partition_id)
             o.group_id, o.topic_id, o.partition_id, o.committed_offset, o.metadata
      FROM kafka.offset_journal o
      ORDER BY o.group_id, o.topic_id, o.partition_id, o.entry DESC) AS j
JOIN kafka.topics t ON t.id = j.topic_id
WHERE j.committed_offset IS NOT NULL;

COMMENT ON VIEW kafka.consumer_offsets IS 'The latest committed offset of each consumer group and partition.';
COMMENT ON COLUMN kafka.consumer_offsets.committed_offset IS 'Next offset that the group will consume.';
COMMENT ON COLUMN kafka.consumer_offsets.metadata IS 'Text that the consumer stored with the offset.';
