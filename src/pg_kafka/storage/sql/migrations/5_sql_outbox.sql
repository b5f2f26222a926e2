-- Version 5: the outbox, see schema/100_outbox.sql.
-- Locks: SHARE ROW EXCLUSIVE on kafka.settings and kafka.broker_configs, for a moment.

CREATE SEQUENCE kafka.outbox_ids AS bigint INCREMENT BY 65536 MINVALUE 0 START 65536;
COMMENT ON SEQUENCE kafka.outbox_ids IS 'Ids of records in the outbox; each value is the first of 65536. In the order of calls.';

-- A sequence: what is set is seen at once, whatever snapshot one has, stays when the transaction fails, and leaves no dead row.
CREATE SEQUENCE kafka.outbox_turn AS smallint MINVALUE 0 MAXVALUE 7 START 0;
COMMENT ON SEQUENCE kafka.outbox_turn IS 'last_value & 3 is the number of the outbox table that is written; last_value is 4 more while the outbox is full.';

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

-- What brokers' settings say to producers, so that a call reads one row instead of twenty.
CREATE TABLE kafka.produce_limits (
    only_row                 boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    max_message_bytes        integer NOT NULL DEFAULT 1048588,
    is_compacted             boolean NOT NULL DEFAULT false,
    is_append_time           boolean NOT NULL DEFAULT false,
    timestamp_before_max_ms  bigint  NOT NULL DEFAULT 9223372036854775807,
    timestamp_after_max_ms   bigint  NOT NULL DEFAULT 3600000,
    outbox_max_bytes         bigint  NOT NULL DEFAULT 1073741824,
    dedup_window_ms          bigint  NOT NULL DEFAULT 300000
);
COMMENT ON TABLE kafka.produce_limits IS 'One row: what settings of the broker mean for kafka.produce(), where a topic has no config of its own. Kept by triggers.';
COMMENT ON COLUMN kafka.produce_limits.is_compacted IS 'log.cleanup.policy has compact: records must have keys.';
COMMENT ON COLUMN kafka.produce_limits.is_append_time IS 'log.message.timestamp.type is LogAppendTime: timestamps of records do not matter.';
INSERT INTO kafka.produce_limits DEFAULT VALUES;

-- SECURITY DEFINER: who may change a setting need not have a right on kafka.produce_limits.
CREATE FUNCTION kafka.note_produce_limits() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found jsonb;
BEGIN
    SELECT jsonb_object_agg(k.name, CASE
        WHEN k.scope = 'topic' THEN coalesce(kafka.broker_value(k), k.default_value)
        -- What is set for all brokers holds at once, also while none runs.
        ELSE coalesce((SELECT s.value FROM kafka.settings s
                       WHERE s.name = k.name AND s.node_id = 0 AND kafka.config_fault('broker', k.name, s.value) IS NULL),
                      kafka.broker_value(jsonb_populate_record(k, jsonb_build_object('synonyms', jsonb_build_array(k.name))))) END)
    INTO found
    FROM kafka.config_keys k
    WHERE k.scope = 'topic' AND k.name IN ('max.message.bytes', 'cleanup.policy', 'message.timestamp.type',
                                           'message.timestamp.before.max.ms', 'message.timestamp.after.max.ms')
       OR k.scope = 'broker' AND k.name IN ('pg_kafka.outbox_max_bytes', 'pg_kafka.dedup_window_ms');
    UPDATE kafka.produce_limits l
    SET (max_message_bytes, is_compacted, is_append_time, timestamp_before_max_ms, timestamp_after_max_ms,
         outbox_max_bytes, dedup_window_ms)
        = (SELECT n.*)
    FROM (SELECT coalesce((found ->> 'max.message.bytes')::integer, p.max_message_bytes),
                 coalesce('compact' = ANY (string_to_array(found ->> 'cleanup.policy', ',')), p.is_compacted),
                 coalesce(found ->> 'message.timestamp.type' = 'LogAppendTime', p.is_append_time),
                 coalesce((found ->> 'message.timestamp.before.max.ms')::bigint, p.timestamp_before_max_ms),
                 coalesce((found ->> 'message.timestamp.after.max.ms')::bigint, p.timestamp_after_max_ms),
                 coalesce((found ->> 'pg_kafka.outbox_max_bytes')::bigint, p.outbox_max_bytes),
                 coalesce((found ->> 'pg_kafka.dedup_window_ms')::bigint, p.dedup_window_ms)
          FROM kafka.produce_limits p) AS n
    WHERE n IS DISTINCT FROM ROW(l.max_message_bytes, l.is_compacted, l.is_append_time, l.timestamp_before_max_ms,
                                 l.timestamp_after_max_ms, l.outbox_max_bytes, l.dedup_window_ms);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.note_produce_limits() IS 'Trigger of kafka.settings and kafka.broker_configs: keeps kafka.produce_limits.';

CREATE TRIGGER note_produce_limits AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON kafka.settings
FOR EACH STATEMENT EXECUTE FUNCTION kafka.note_produce_limits();
CREATE TRIGGER note_produce_limits AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON kafka.broker_configs
FOR EACH STATEMENT EXECUTE FUNCTION kafka.note_produce_limits();
