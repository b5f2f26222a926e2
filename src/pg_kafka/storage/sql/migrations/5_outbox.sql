-- Version 5: the outbox, see schema/100_outbox.sql.
-- Locks: none that anybody waits for.

CREATE SEQUENCE kafka.outbox_ids AS bigint INCREMENT BY 65536 MINVALUE 0 START 65536;
COMMENT ON SEQUENCE kafka.outbox_ids IS 'Ids of records in the outbox; each value is the first of 65536. In the order of calls.';

CREATE SEQUENCE kafka.outbox_turn AS smallint MINVALUE 0 MAXVALUE 3 START 0 CYCLE;
COMMENT ON SEQUENCE kafka.outbox_turn IS 'last_value is the number of the outbox table that is written. A sequence, so that a switch is seen at once by everybody and leaves no dead row.';

CREATE TABLE kafka.outbox_0 (
    id               bigint   NOT NULL,
    xid              xid8     NOT NULL DEFAULT pg_current_xact_id(),
    topic            bigint   NOT NULL,
    first_timestamp  bigint   NOT NULL,
    partition        integer,
    record_count     integer  NOT NULL CHECK (record_count BETWEEN 1 AND 65536),
    bytes            integer  NOT NULL,
    topic_name       text     NOT NULL,
    timestamps       bigint[],
    keys             bytea[],
    header_ends      integer[],
    header_keys      bytea[],
    header_values    bytea[],
    values           bytea[]  NOT NULL
) WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false);
ALTER TABLE kafka.outbox_0
    ALTER timestamps SET STORAGE EXTERNAL, ALTER keys SET STORAGE EXTERNAL, ALTER header_ends SET STORAGE EXTERNAL,
    ALTER header_keys SET STORAGE EXTERNAL, ALTER header_values SET STORAGE EXTERNAL, ALTER values SET STORAGE EXTERNAL;
CREATE INDEX outbox_0_xid_idx ON kafka.outbox_0 (xid);
COMMENT ON TABLE kafka.outbox_0 IS 'Outbox: rows of records that transactions have produced by SQL, until the broker has them in the log. One of four tables; kafka.outbox_turn says which one is written.';
COMMENT ON COLUMN kafka.outbox_0.id IS 'Id of the first record; record n of the row, from 0, has id + n.';
COMMENT ON COLUMN kafka.outbox_0.xid IS 'The transaction, not the subtransaction, that produced.';
COMMENT ON COLUMN kafka.outbox_0.topic IS 'kafka.topics.id.';
COMMENT ON COLUMN kafka.outbox_0.first_timestamp IS 'Timestamp of the first record, and of all when timestamps is NULL, ms since the epoch.';
COMMENT ON COLUMN kafka.outbox_0.partition IS 'NULL: by the key, as Java''s client does; records without key go to one partition for each row, in turns.';
COMMENT ON COLUMN kafka.outbox_0.bytes IS 'Bytes of keys, values and headers.';
COMMENT ON COLUMN kafka.outbox_0.topic_name IS 'The topic''s name, for kafka.outbox_errors when the topic is gone.';
COMMENT ON COLUMN kafka.outbox_0.timestamps IS 'Timestamp of each record, ms; NULL when all equal first_timestamp.';
COMMENT ON COLUMN kafka.outbox_0.keys IS 'Record keys; NULL when no record has one.';
COMMENT ON COLUMN kafka.outbox_0.header_ends IS 'For each record the number of headers up to and with it; NULL when there are none.';
COMMENT ON COLUMN kafka.outbox_0.header_keys IS 'Header keys of all records of the row, in order.';
COMMENT ON COLUMN kafka.outbox_0.header_values IS 'Header values, parallel to header_keys.';
COMMENT ON COLUMN kafka.outbox_0.values IS 'Record values; a NULL element is a tombstone.';

DO $do$
BEGIN
    FOR turn IN 1..3 LOOP
        EXECUTE format('CREATE TABLE kafka.outbox_%s (LIKE kafka.outbox_0 INCLUDING ALL) '
                       'WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false)', turn);
        EXECUTE format('COMMENT ON TABLE kafka.outbox_%s IS %L', turn, obj_description('kafka.outbox_0'::regclass, 'pg_class'));
    END LOOP;
END
$do$;

CREATE TABLE kafka.outbox_errors (
    id            bigint  PRIMARY KEY,
    topic_id      bigint  NOT NULL,
    topic         text    NOT NULL,
    partition     integer,
    key           bytea,
    value         bytea,
    headers       kafka.header[],
    timestamp_ms  bigint  NOT NULL,
    sqlstate      text    NOT NULL,
    message       text    NOT NULL,
    failed_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE kafka.outbox_errors IS 'Records that were produced by SQL and could not be sent: their topic was deleted or takes less than it did. The oldest go when there are too many.';
COMMENT ON COLUMN kafka.outbox_errors.id IS 'What kafka.produce() returned.';
COMMENT ON COLUMN kafka.outbox_errors.topic_id IS 'kafka.topics.id that the topic had.';
COMMENT ON COLUMN kafka.outbox_errors.partition IS 'The partition that was asked for; NULL when none was.';
COMMENT ON COLUMN kafka.outbox_errors.sqlstate IS 'As kafka.produce() would raise now: KF001 no such topic, KF002 no such partition, KF003 too large, KF004 no key for a compacted topic.';

-- dedup_id: every call that has one is in both tables, and they are emptied in turns. So one of them always has the whole window, no
-- row is ever deleted, and a unique index is all that concurrent repeats need, at each isolation level.
CREATE TABLE kafka.deduplication_0 (
    topic      bigint NOT NULL,
    dedup_id   text   NOT NULL,
    id         bigint NOT NULL,
    called_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (topic, dedup_id)
) WITH (fillfactor = 90);
COMMENT ON TABLE kafka.deduplication_0 IS 'Calls of kafka.produce() that had a dedup_id, each in both tables.';
COMMENT ON COLUMN kafka.deduplication_0.topic IS 'kafka.topics.id.';
COMMENT ON COLUMN kafka.deduplication_0.id IS 'What the call returned, and what its repeats return.';
COMMENT ON COLUMN kafka.deduplication_0.called_at IS 'When the window began.';
CREATE TABLE kafka.deduplication_1 (LIKE kafka.deduplication_0 INCLUDING ALL) WITH (fillfactor = 90);
COMMENT ON TABLE kafka.deduplication_1 IS 'Calls of kafka.produce() that had a dedup_id, each in both tables.';

CREATE TABLE kafka.deduplication_turn (
    only_row     boolean  PRIMARY KEY DEFAULT true CHECK (only_row),
    emptied      smallint NOT NULL DEFAULT 0 CHECK (emptied IN (0, 1)),
    emptied_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE kafka.deduplication_turn IS 'One row: which of the two tables was emptied last, and when. The other one is next when that is longer ago than the window.';
INSERT INTO kafka.deduplication_turn DEFAULT VALUES;
