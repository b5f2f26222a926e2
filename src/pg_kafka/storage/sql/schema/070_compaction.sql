-- How far the partitions of compacted topics are clean (docs/storage.md, "Compaction").

CREATE TABLE kafka.compactions (
    topic               bigint  NOT NULL,
    partition           integer NOT NULL,
    first_dirty_offset  bigint  NOT NULL,
    records_before      bigint  NOT NULL,
    records_after       bigint  NOT NULL,
    compacted_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (topic, partition)
);
COMMENT ON TABLE kafka.compactions IS
    'How far each partition of a compacted topic is clean: below first_dirty_offset a key has one record at most. Partitions without a row were never compacted.';
COMMENT ON COLUMN kafka.compactions.first_dirty_offset IS 'Where the last compaction ended, and the next one begins to look for newer records of keys.';
COMMENT ON COLUMN kafka.compactions.records_before IS 'Records of producers below first_dirty_offset before the last compaction.';
COMMENT ON COLUMN kafka.compactions.records_after IS 'And after it.';
