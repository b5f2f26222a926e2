-- Version 5: extents know what is in them. The figures of what is sealed already are filled by the janitor.
-- Locks: ACCESS EXCLUSIVE on kafka.extents, which is read once for the index.

ALTER TABLE kafka.extents
    ADD COLUMN last_offset bigint, ADD COLUMN bytes bigint, ADD COLUMN records bigint, ADD COLUMN first_timestamp bigint,
    ADD COLUMN max_timestamp bigint,
    ADD CONSTRAINT extents_figures_check CHECK (num_nulls(last_offset, bytes, records, first_timestamp, max_timestamp) IN (0, 5));
CREATE INDEX extents_unknown ON kafka.extents (series, segment) WHERE last_offset IS NULL;
COMMENT ON TABLE kafka.extents IS
    'Which segment holds which offsets of a partition: from first_offset to the next extent''s. Written with the first append into a segment; generation grows when rows move. The figures are NULL until the segment is sealed.';
COMMENT ON COLUMN kafka.extents.last_offset IS 'Last offset that has a row here; first_offset - 1 when there are no rows.';
COMMENT ON COLUMN kafka.extents.bytes IS 'Bytes in Kafka''s format, markers of transactions included: what kafka.log.wire_bytes adds up to, or row_bytes where that is not known.';
COMMENT ON COLUMN kafka.extents.records IS 'Records of producers; markers of transactions are not counted.';
COMMENT ON COLUMN kafka.extents.first_timestamp IS 'Timestamp of the first record, ms, not always the smallest; -1 when there are no rows. Says how old the extent is where max_timestamp is of the future.';
COMMENT ON COLUMN kafka.extents.max_timestamp IS 'Largest timestamp, ms, markers of transactions included; -1 when no record has one. Retention by time goes by it.';
