-- kafka.consumer_offsets: what consumer groups have committed. Its first five columns are a contract with SQL users.

CREATE OR REPLACE VIEW kafka.client_offsets AS
SELECT j.group_id, j.topic_id, j.partition_id, j.committed_offset,
       -- The journal has ␀ for a NUL, ␛␀ for ␀ and ␛␛ for ␛ (storage/client_text.py).
       regexp_replace(regexp_replace(j.metadata, '^((?:[^␛]|␛.)*)␀$', '\1'), '␛(.)', '\1', 'g') AS metadata,
       j.leader_epoch, j.committed_at,
       decode(replace(replace(replace(replace(j.metadata, '\', '\\'), '␛␛', '\342\220\233'), '␛␀', '\342\220\200'), '␀', '\000'),
              'escape') AS metadata_bytes
FROM (SELECT DISTINCT ON (o.group_id, o.topic_id, o.partition_id) o.*
      FROM (SELECT * FROM kafka.offset_journal_0 UNION ALL SELECT * FROM kafka.offset_journal_1) AS o
      ORDER BY o.group_id, o.topic_id, o.partition_id, o.entry DESC) AS j
JOIN kafka.topics t ON t.id = j.topic_id
WHERE j.committed_offset IS NOT NULL;
COMMENT ON VIEW kafka.client_offsets IS
    'The part of kafka.consumer_offsets that Kafka''s clients have committed, and what groups had committed that are driven by SQL now.';

CREATE OR REPLACE VIEW kafka.consumer_offsets AS
SELECT c.group_id, c.topic_id, c.partition_id, c.committed_offset, c.metadata, c.leader_epoch, c.committed_at, c.metadata_bytes
FROM kafka.client_offsets c
-- What a group had committed before SQL drove it is where it began, and no more.
WHERE NOT EXISTS (SELECT FROM kafka.sql_groups g JOIN kafka.sql_group_topics s ON s.group_number = g.number
                  WHERE g.group_id = c.group_id AND s.topic_id = c.topic_id)
UNION ALL
SELECT o.group_id, o.topic_id, o.partition_id, o.committed_offset, '', NULL, o.committed_at, ''
FROM kafka.sql_offsets o;

COMMENT ON VIEW kafka.consumer_offsets IS 'The latest committed offset of each consumer group and partition, whether Kafka''s clients or SQL drive the group.';
COMMENT ON COLUMN kafka.consumer_offsets.committed_offset IS 'Next offset that the group will consume.';
COMMENT ON COLUMN kafka.consumer_offsets.metadata IS
    'Text that the consumer stored with the offset. Without a NUL at its end, which librdkafka adds; others are shown as ␀.';
COMMENT ON COLUMN kafka.consumer_offsets.metadata_bytes IS 'The same in UTF-8 as it is, with each NUL.';
COMMENT ON COLUMN kafka.consumer_offsets.leader_epoch IS 'Leader epoch of the last record consumed; NULL when the consumer gave none.';
COMMENT ON COLUMN kafka.consumer_offsets.committed_at IS 'When it was committed.';
