-- The log: one row is a slice of a record batch (or of several that arrived together), records are array elements.
--
--   kafka.log                    partitioned by series
--     kafka.log_<series>         one chain of segments, partitioned by segment
--       kafka.log_<series>_<segment>   a leaf, UNIQUE (topic, partition, base_offset)
--
-- Series 0 is shared by small topics; a topic that outgrows it gets the series whose id is its own.
-- Fixed-width columns come first so that a scan over them never touches TOAST.

CREATE TABLE kafka.log (
    series                bigint   NOT NULL,
    topic                 bigint   NOT NULL,
    base_offset           bigint   NOT NULL,
    last_offset           bigint   NOT NULL,
    global_base           bigint   NOT NULL,
    max_timestamp         bigint   NOT NULL,
    running_max_timestamp bigint   NOT NULL,
    append_time           bigint   NOT NULL,
    first_timestamp       bigint   NOT NULL,
    segment               integer  NOT NULL,
    partition             integer  NOT NULL,
    record_count          integer  NOT NULL,
    row_bytes             integer  NOT NULL,
    leader_epoch          integer  NOT NULL,
    timestamp_type        smallint NOT NULL,
    codec                 smallint NOT NULL,
    is_transactional      boolean  NOT NULL,
    is_control            boolean  NOT NULL,
    delete_horizon        bigint,
    producer_id           bigint,
    batch_base_offset     bigint,
    base_sequence         integer,
    batch_count           integer,
    producer_epoch        smallint,
    producer_ids          bigint[],
    batch_base_offsets    bigint[],
    base_sequences        integer[],
    batch_counts          integer[],
    producer_epochs       smallint[],
    timestamps            bigint[],
    offset_deltas         integer[],
    keys                  bytea[],
    header_ends           integer[],
    header_keys           bytea[],
    header_values         bytea[],
    values                bytea[]  NOT NULL,
    CHECK (last_offset >= base_offset),
    CHECK (record_count >= 0)
) PARTITION BY LIST (series);

COMMENT ON TABLE kafka.log IS
    'The log. One row is a slice of a record batch; read it through kafka.messages, a topic''s view or kafka.read().';
COMMENT ON COLUMN kafka.log.series IS 'Chain of segments: 0 is shared by small topics, otherwise the id of the one topic in it.';
COMMENT ON COLUMN kafka.log.topic IS 'kafka.topics.id.';
COMMENT ON COLUMN kafka.log.base_offset IS 'Kafka offset of the first record of the row.';
COMMENT ON COLUMN kafka.log.last_offset IS 'Kafka offset of the last record of the row, also when compaction has removed that record.';
COMMENT ON COLUMN kafka.log.global_base IS 'global_offset of base_offset; a record''s global offset is global_base + (offset - base_offset).';
COMMENT ON COLUMN kafka.log.max_timestamp IS 'Largest record timestamp of the row, ms since the epoch.';
COMMENT ON COLUMN kafka.log.running_max_timestamp IS 'Largest record timestamp of the partition up to and with this row, ms.';
COMMENT ON COLUMN kafka.log.append_time IS 'When the broker appended the row, ms since the epoch.';
COMMENT ON COLUMN kafka.log.first_timestamp IS 'Timestamp of the first record, and of all when timestamps is NULL, ms.';
COMMENT ON COLUMN kafka.log.segment IS 'Number of the segment within the series.';
COMMENT ON COLUMN kafka.log.partition IS 'Partition of the topic, from 0.';
COMMENT ON COLUMN kafka.log.record_count IS 'Records in the row (the length of values).';
COMMENT ON COLUMN kafka.log.row_bytes IS 'Bytes of keys, values and headers in the row, uncompressed.';
COMMENT ON COLUMN kafka.log.leader_epoch IS 'Leader epoch under which the row was appended.';
COMMENT ON COLUMN kafka.log.timestamp_type IS '0 CreateTime, 1 LogAppendTime.';
COMMENT ON COLUMN kafka.log.codec IS 'Codec the producer used: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.';
COMMENT ON COLUMN kafka.log.is_transactional IS 'The records belong to a transaction of producer_id.';
COMMENT ON COLUMN kafka.log.is_control IS 'The row is a control batch (a transaction marker), not data.';
COMMENT ON COLUMN kafka.log.delete_horizon IS 'When compaction may remove tombstones of the row, ms; NULL until set.';
COMMENT ON COLUMN kafka.log.producer_id IS 'Idempotent producer of the one batch in the row; NULL when none or several.';
COMMENT ON COLUMN kafka.log.batch_base_offset IS 'Base offset of the whole producer batch, repeated in every row it spans.';
COMMENT ON COLUMN kafka.log.base_sequence IS 'First sequence number of the whole producer batch.';
COMMENT ON COLUMN kafka.log.batch_count IS 'Records of the whole producer batch.';
COMMENT ON COLUMN kafka.log.producer_ids IS 'As producer_id, one element for each idempotent batch, when the row holds several batches.';
COMMENT ON COLUMN kafka.log.timestamps IS 'Timestamp of each record, ms; NULL when all equal first_timestamp.';
COMMENT ON COLUMN kafka.log.offset_deltas IS 'Offset of each record minus base_offset; NULL when dense.';
COMMENT ON COLUMN kafka.log.keys IS 'Record keys; NULL when no record has one.';
COMMENT ON COLUMN kafka.log.header_ends IS 'For each record the number of headers up to and with it (cumulative within the row); NULL when there are none.';
COMMENT ON COLUMN kafka.log.header_keys IS 'Header keys of all records of the row, in order.';
COMMENT ON COLUMN kafka.log.header_values IS 'Header values, parallel to header_keys.';
COMMENT ON COLUMN kafka.log.values IS 'Record values; a NULL element is a tombstone.';

CREATE TABLE kafka.series (
    id              bigint PRIMARY KEY,
    active_segment  integer NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE kafka.series IS 'Chains of segments. 0 is shared by small topics; any other id is the topic that has it to itself.';

CREATE TABLE kafka.segments (
    series       bigint  NOT NULL REFERENCES kafka.series (id),
    segment      integer NOT NULL,
    state        text    NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'sealed', 'frozen', 'freed', 'detached')),
    compression  text    NOT NULL DEFAULT 'none' CHECK (compression IN ('none', 'pglz', 'lz4')),
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    sealed_at    timestamptz,
    PRIMARY KEY (series, segment)
);
COMMENT ON TABLE kafka.segments IS
    'Every segment is the table kafka.log_<series>_<segment>. active: appended to; sealed: complete; frozen: vacuumed and analysed; freed: truncated; detached: to be dropped.';

CREATE TABLE kafka.extents (
    topic         bigint  NOT NULL,
    partition     integer NOT NULL,
    first_offset  bigint  NOT NULL,
    series        bigint  NOT NULL,
    segment       integer NOT NULL,
    generation    integer NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, partition, first_offset)
);
COMMENT ON TABLE kafka.extents IS
    'Which segment holds which offsets of a partition: from first_offset to the next extent''s. Written with the first append into a segment; generation grows when rows move.';

CREATE TABLE kafka.leader_epochs (
    topic         bigint  NOT NULL,
    partition     integer NOT NULL,
    epoch         integer NOT NULL,
    start_offset  bigint  NOT NULL,
    PRIMARY KEY (topic, partition, epoch)
);
COMMENT ON TABLE kafka.leader_epochs IS 'Where each leader epoch of a partition begins (KIP-101, KIP-320); written with its first append.';

CREATE TABLE kafka.log_starts (
    topic             bigint  NOT NULL,
    partition         integer NOT NULL,
    log_start_offset  bigint  NOT NULL,
    PRIMARY KEY (topic, partition)
);
COMMENT ON TABLE kafka.log_starts IS 'First offset that readers may see; partitions without a row start at 0.';

CREATE TABLE kafka.partition_checkpoints (
    topic                  bigint  NOT NULL,
    partition              integer NOT NULL,
    next_offset            bigint  NOT NULL,
    running_max_timestamp  bigint  NOT NULL,
    appended_bytes         bigint  NOT NULL DEFAULT 0,
    producers              jsonb   NOT NULL DEFAULT '[]',
    open_transactions      jsonb   NOT NULL DEFAULT '[]',
    written_at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);
COMMENT ON TABLE kafka.partition_checkpoints IS
    'State of a partition up to next_offset, so that take-over reads only the rows after it: duplicate windows of producers and the running maximum of timestamps.';

CREATE SEQUENCE kafka.global_offsets AS bigint MINVALUE 0 START 0 INCREMENT BY 1048576;
COMMENT ON SEQUENCE kafka.global_offsets IS 'Blocks of global offsets; each value is the first of 1048576.';

CREATE SEQUENCE kafka.producer_ids AS bigint MINVALUE 0 START 0 INCREMENT BY 1000;
COMMENT ON SEQUENCE kafka.producer_ids IS 'Blocks of producer ids; each value is the first of 1000.';
