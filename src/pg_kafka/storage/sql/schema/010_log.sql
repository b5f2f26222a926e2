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
    values                bytea[],
    wire_bytes            integer,
    batch                 bytea,
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
COMMENT ON COLUMN kafka.log.values IS 'Record values; a NULL element is a tombstone. NULL when batch has the records.';
COMMENT ON COLUMN kafka.log.wire_bytes IS 'Bytes of the row''s records in Kafka''s format, compressed as the producer sent them; NULL in rows of programs that did not count them.';
COMMENT ON COLUMN kafka.log.batch IS 'The producers'' batches as they go to consumers, one behind the other; NULL when the arrays have the records.';

CREATE TABLE kafka.series (
    id            bigint PRIMARY KEY,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_segment  integer NOT NULL DEFAULT 0
);
COMMENT ON TABLE kafka.series IS 'Chains of segments. 0 is shared by small topics; any other id is the topic that has it to itself.';
COMMENT ON COLUMN kafka.series.next_segment IS 'Number of the segment that is made next. Numbers grow and are never given twice, also when segments are dropped.';

CREATE TABLE kafka.segments (
    series       bigint  NOT NULL REFERENCES kafka.series (id),
    segment      integer NOT NULL,
    state        text    NOT NULL DEFAULT 'active'
                 CHECK (state IN ('active', 'superseded', 'sealed', 'frozen', 'filling', 'replaced', 'freed', 'detached')),
    compression  text    NOT NULL DEFAULT 'none' CHECK (compression IN ('none', 'pglz', 'lz4')),
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    sealed_at    timestamptz,
    owner        integer,
    changes      integer NOT NULL DEFAULT 0,
    bytes        bigint,
    replaces     integer[],
    replaced_by  xid8,
    PRIMARY KEY (series, segment),
    CONSTRAINT segments_owner_check CHECK (owner IS NULL OR state IN ('active', 'superseded')),
    CONSTRAINT segments_replaces_check CHECK ((replaces IS NOT NULL) = (state = 'filling')),
    CONSTRAINT segments_replaced_by_check CHECK (replaced_by IS NOT NULL OR state <> 'replaced')
);
CREATE UNIQUE INDEX segments_active ON kafka.segments (series, owner) WHERE state = 'active';
CREATE INDEX segments_hidden ON kafka.segments (series, segment) WHERE state IN ('filling', 'replaced');
COMMENT ON TABLE kafka.segments IS
    'Every segment is the table kafka.log_<series>_<segment>. active: appended to; superseded: its owner''s lanes may still be writing to it, and begin nothing there; sealed: complete; frozen: vacuumed and analysed; filling: gets the rows of others that it replaces, and views leave it out; replaced: another segment has its rows, views leave it out, and older snapshots still see it; freed: truncated; detached: to be dropped.';
COMMENT ON COLUMN kafka.segments.owner IS
    'Node id of the broker that appends to it, or may still be writing to it; NULL when nobody does. A broker has one active segment of a series at most.';
COMMENT ON COLUMN kafka.segments.changes IS 'One more with each transaction that changes rows of the segment after it was sealed. What is copied from it meanwhile is copied again.';
COMMENT ON COLUMN kafka.segments.bytes IS 'Bytes in Kafka''s format that were in it when it was sealed; NULL when that is not known.';
COMMENT ON COLUMN kafka.segments.replaces IS 'While it is filled: the segments of the same series whose rows it gets.';
COMMENT ON COLUMN kafka.segments.replaced_by IS 'Transaction since which another segment has its rows. Its table is truncated when nobody has an older snapshot.';

CREATE TABLE kafka.extents (
    topic            bigint  NOT NULL,
    partition        integer NOT NULL,
    first_offset     bigint  NOT NULL,
    series           bigint  NOT NULL,
    segment          integer NOT NULL,
    generation       integer NOT NULL DEFAULT 0,
    last_offset      bigint,
    bytes            bigint,
    records          bigint,
    first_timestamp  bigint,
    max_timestamp    bigint,
    packed_from      bigint,
    min_timestamp    bigint,
    PRIMARY KEY (topic, partition, first_offset),
    CONSTRAINT extents_figures_check CHECK (num_nulls(last_offset, bytes, records, first_timestamp, max_timestamp) IN (0, 5))
);
CREATE INDEX packed_extents ON kafka.extents (topic, partition, first_offset) WHERE packed_from IS NOT NULL;
CREATE INDEX extents_segments ON kafka.extents (series, segment);
CREATE INDEX extents_unknown ON kafka.extents (series, segment) WHERE last_offset IS NULL;
CREATE INDEX extents_unknown_times ON kafka.extents (series, segment) WHERE min_timestamp IS NULL AND packed_from IS NULL;
COMMENT ON TABLE kafka.extents IS
    'Which segment holds which offsets of a partition: from first_offset to the next extent''s. Written with the first append into a segment; generation grows when rows move. The figures are NULL until the segment is sealed.';
COMMENT ON COLUMN kafka.extents.last_offset IS 'Last offset that has a row here; first_offset - 1 when there are no rows.';
COMMENT ON COLUMN kafka.extents.bytes IS 'Bytes in Kafka''s format, markers of transactions included: what kafka.log.wire_bytes adds up to, or row_bytes where that is not known.';
COMMENT ON COLUMN kafka.extents.records IS 'Records of producers; markers of transactions are not counted.';
COMMENT ON COLUMN kafka.extents.first_timestamp IS 'Timestamp of the first record, ms, not always the smallest; -1 when there are no rows. Says how old the extent is where max_timestamp is of the future.';
COMMENT ON COLUMN kafka.extents.max_timestamp IS 'Largest timestamp, ms, markers of transactions included; -1 when no record has one. Retention by time goes by it.';
COMMENT ON COLUMN kafka.extents.min_timestamp IS 'No record of a producer has a smaller timestamp, ms; the largest bigint when there are none. NULL until it is known, soon after the segment is sealed.';
COMMENT ON COLUMN kafka.extents.packed_from IS 'No row of the extent below this offset has batches as they came; NULL when none has.';

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
    extent_bytes           bigint,
    extent_records         bigint,
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);
COMMENT ON COLUMN kafka.partition_checkpoints.extent_bytes IS
    'Bytes in Kafka''s format below next_offset in the extent that next_offset - 1 lies in; NULL when not known. As kafka.extents.bytes, which is not known before the segment is sealed.';
COMMENT ON COLUMN kafka.partition_checkpoints.extent_records IS 'Records of producers there.';
COMMENT ON TABLE kafka.partition_checkpoints IS
    'State of a partition up to next_offset, so that take-over reads only the rows after it: duplicate windows of producers and the running maximum of timestamps.';

CREATE SEQUENCE kafka.global_offsets AS bigint MINVALUE 0 START 0 INCREMENT BY 1048576;
COMMENT ON SEQUENCE kafka.global_offsets IS 'Blocks of global offsets; each value is the first of 1048576.';

CREATE SEQUENCE kafka.producer_ids AS bigint MINVALUE 0 START 0 INCREMENT BY 1000;
COMMENT ON SEQUENCE kafka.producer_ids IS 'Blocks of producer ids; each value is the first of 1000.';
