-- The relay: how far the outbox (100_outbox.sql) is in the log. A journal like those of consumer groups (040_groups.sql), with a
-- row in kafka.journals.
--
-- A pass takes what is visible in a snapshot and was not visible in the one before, by id, in chunks. What a chunk becomes is
-- written in the transaction that appends its records. So after a crash the newest chunk here says where to go on.

CREATE TABLE kafka.relay_journal_0 (
    entry              bigint       NOT NULL,
    chunk              bigint       NOT NULL,
    share              integer      NOT NULL,
    shares             integer      NOT NULL,
    parts              integer[]    NOT NULL,
    system_identifier  text         NOT NULL,
    previous_snapshot  pg_snapshot  NOT NULL,
    snapshot           pg_snapshot  NOT NULL,
    after_id           bigint       NOT NULL,
    last_id            bigint       NOT NULL,
    is_last            boolean      NOT NULL,
    left_over          text         NOT NULL,
    partitions         text         NOT NULL,
    first_row          bigint,
    last_row           bigint,
    rows               bigint[],
    topics             bigint[],
    row_partitions     integer[],
    offsets            bigint[],
    counts             integer[],
    maps               bytea[],
    written_at         timestamptz  NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_insert_threshold = -1, toast.autovacuum_vacuum_insert_threshold = -1);
CREATE INDEX relay_journal_0_rows ON kafka.relay_journal_0 (last_row, first_row);
COMMENT ON TABLE kafka.relay_journal_0 IS
    'How far the outbox is in the log, and where in the log its records are, appended only. A row is written in the transaction that appends the records.';
COMMENT ON COLUMN kafka.relay_journal_0.chunk IS 'Rows of the outbox that were taken together, by a number that grows.';
COMMENT ON COLUMN kafka.relay_journal_0.share IS 'Which part of the chunk: that of the partitions of one of so many lanes (shares). All parts are written before the next chunk.';
COMMENT ON COLUMN kafka.relay_journal_0.parts IS 'The shares that have something of the chunk.';
COMMENT ON COLUMN kafka.relay_journal_0.system_identifier IS 'The server, database and table that the snapshots belong to. They mean nothing after a dump has been restored.';
COMMENT ON COLUMN kafka.relay_journal_0.previous_snapshot IS 'What was visible in this snapshot is no matter of the chunk.';
COMMENT ON COLUMN kafka.relay_journal_0.snapshot IS 'The chunk has rows that are visible in this snapshot, by their ids.';
COMMENT ON COLUMN kafka.relay_journal_0.after_id IS 'The chunk begins above this id.';
COMMENT ON COLUMN kafka.relay_journal_0.last_id IS 'The chunk ends with this id.';
COMMENT ON COLUMN kafka.relay_journal_0.is_last IS 'Nothing that is visible in the snapshot is left after the chunk.';
COMMENT ON COLUMN kafka.relay_journal_0.left_over IS 'JSON: of a chunk that is taken up again, which parts were missing: [shares, [share, ...]] for each time.';
COMMENT ON COLUMN kafka.relay_journal_0.partitions IS 'JSON: by topic id, how many partitions the topic had.';
COMMENT ON COLUMN kafka.relay_journal_0.first_row IS 'The smallest of rows.';
COMMENT ON COLUMN kafka.relay_journal_0.last_row IS 'The largest of rows.';
COMMENT ON COLUMN kafka.relay_journal_0.rows IS 'Ids of rows of the outbox that have records here. An element for each row and partition.';
COMMENT ON COLUMN kafka.relay_journal_0.offsets IS 'Offset of the first of these records. The others follow it.';
COMMENT ON COLUMN kafka.relay_journal_0.counts IS 'How many there are.';
COMMENT ON COLUMN kafka.relay_journal_0.maps IS
    'NULL when all records of the row are there. Else where each of them went: a byte that says how long a number is, and for each record the number of its partition, all ones when it could not be sent.';

CREATE TABLE kafka.relay_journal_1 (LIKE kafka.relay_journal_0 INCLUDING DEFAULTS INCLUDING COMMENTS)
WITH (autovacuum_vacuum_insert_threshold = -1, toast.autovacuum_vacuum_insert_threshold = -1);
CREATE INDEX relay_journal_1_rows ON kafka.relay_journal_1 (last_row, first_row);
COMMENT ON TABLE kafka.relay_journal_1 IS 'Takes turns with kafka.relay_journal_0.';
