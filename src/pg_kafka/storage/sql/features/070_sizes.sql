-- How much topics hold. Made of figures that are kept anyway: no row of the log is read, whatever its size.

CREATE OR REPLACE VIEW kafka.extent_sizes AS
SELECT x.topic AS topic_id, x.partition AS partition_id, x.first_offset, x.series, x.segment,
       CASE WHEN x.last_offset IS NOT NULL THEN x.records WHEN c.next_offset IS NOT NULL THEN c.extent_records END AS records,
       CASE WHEN x.last_offset IS NOT NULL THEN x.bytes WHEN c.next_offset IS NOT NULL THEN c.extent_bytes END AS bytes,
       x.last_offset IS NOT NULL AS is_complete
FROM (SELECT e.*, lead(e.first_offset) OVER (PARTITION BY e.topic, e.partition ORDER BY e.first_offset) AS next_extent
      FROM kafka.extents e) AS x
-- The checkpoint is about the extent that it ends in.
LEFT JOIN kafka.partition_checkpoints c
    ON x.last_offset IS NULL AND c.topic = x.topic AND c.partition = x.partition
   AND c.next_offset > x.first_offset AND (c.next_offset <= x.next_extent OR x.next_extent IS NULL);
COMMENT ON VIEW kafka.extent_sizes IS
    'What kafka.partition_sizes and kafka.topic_sizes are made of: the part of each partition in each segment. Before the segment is complete its figures are those of the last checkpoint, NULL before the first one.';

CREATE OR REPLACE VIEW kafka.partition_sizes AS
SELECT t.id AS topic_id, t.name AS topic, p.partition_id, coalesce(s.log_start_offset, 0) AS log_start_offset,
       coalesce(x.records, 0)::bigint AS records, coalesce(x.bytes, 0)::bigint AS bytes
FROM kafka.topics t
CROSS JOIN LATERAL generate_series(0, t.partitions - 1) AS p (partition_id)
LEFT JOIN kafka.log_starts s ON s.topic = t.id AND s.partition = p.partition_id
LEFT JOIN (SELECT z.topic_id, z.partition_id, sum(z.records) AS records, sum(z.bytes) AS bytes
           FROM kafka.extent_sizes z GROUP BY z.topic_id, z.partition_id) AS x
    ON x.topic_id = t.id AND x.partition_id = p.partition_id;
COMMENT ON VIEW kafka.partition_sizes IS
    'What each partition holds. Current to the last checkpoint: a minute old at most, while the broker writes.';
COMMENT ON COLUMN kafka.partition_sizes.log_start_offset IS 'First offset that readers may see.';
COMMENT ON COLUMN kafka.partition_sizes.records IS 'Records that are stored, those below the log start included until they are freed.';
COMMENT ON COLUMN kafka.partition_sizes.bytes IS 'Their bytes in Kafka''s format, compressed as the producers sent them; what retention.bytes goes by.';

CREATE OR REPLACE VIEW kafka.topic_sizes AS
WITH parts AS MATERIALIZED (
    SELECT z.topic_id, z.series, z.segment, sum(z.records) AS records, sum(z.bytes) AS bytes
    FROM kafka.extent_sizes z GROUP BY z.topic_id, z.series, z.segment
), segments AS MATERIALIZED (
    SELECT g.series, g.segment, pg_total_relation_size(to_regclass(format('kafka.log_%s_%s', g.series, g.segment))) AS disk_bytes,
           (SELECT sum(p.bytes) FROM parts p WHERE g.series = 0 AND p.series = 0 AND p.segment = g.segment) AS bytes
    FROM kafka.segments g
)
SELECT t.id AS topic_id, t.name AS topic, t.partitions, coalesce(x.records, 0)::bigint AS records, coalesce(x.bytes, 0)::bigint AS bytes,
       (coalesce(o.disk_bytes, 0) + coalesce(x.shared_disk_bytes, 0))::bigint AS disk_bytes,
       coalesce(x.shared_disk_bytes, 0)::bigint AS estimated_disk_bytes
FROM kafka.topics t
LEFT JOIN (SELECT p.topic_id, sum(p.records) AS records, sum(p.bytes) AS bytes,
                  round(sum(g.disk_bytes * p.bytes / nullif(g.bytes, 0))) AS shared_disk_bytes
           FROM parts p LEFT JOIN segments g ON p.series = 0 AND g.series = 0 AND g.segment = p.segment
           GROUP BY p.topic_id) AS x ON x.topic_id = t.id
LEFT JOIN (SELECT g.series, sum(g.disk_bytes) AS disk_bytes FROM segments g WHERE g.series <> 0 GROUP BY g.series) AS o
    ON o.series = t.id;
COMMENT ON VIEW kafka.topic_sizes IS
    'What each topic holds, in Kafka''s format and on the disk. Records and bytes are current to the last checkpoint: a minute old at most, while the broker writes.';
COMMENT ON COLUMN kafka.topic_sizes.records IS 'Records that are stored, those below the log start included until they are freed.';
COMMENT ON COLUMN kafka.topic_sizes.bytes IS 'Their bytes in Kafka''s format, compressed as the producers sent them.';
COMMENT ON COLUMN kafka.topic_sizes.disk_bytes IS 'Bytes of its tables with TOAST and indexes: exact for its own series, and estimated for what it has in the shared one.';
COMMENT ON COLUMN kafka.topic_sizes.estimated_disk_bytes IS 'How much of disk_bytes is estimated: the topic''s share of each shared segment, by its bytes.';
