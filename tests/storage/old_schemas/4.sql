-- Schema version 4 as its program made it: sql/schema and sql/features of that time in one file. Never changed again.

-- Two schemas: ours, and the one that users read topics from.

CREATE SCHEMA kafka;
COMMENT ON SCHEMA kafka IS 'pg_kafka: the log of a Kafka cluster and its state. Contract for SQL: messages, topics, consumer_offsets, read().';

CREATE SCHEMA IF NOT EXISTS topics;
COMMENT ON SCHEMA topics IS 'pg_kafka: one view for each topic, made moments after the topic.';

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

-- Who serves the log, and the topics that there are.

CREATE TABLE kafka.cluster (
    only_row           boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    cluster_id         text    NOT NULL CHECK (length(cluster_id) = 22),
    schema_version     integer NOT NULL,
    epoch              integer NOT NULL DEFAULT 0,
    system_identifier  text    NOT NULL,
    timeline           text    NOT NULL
);
COMMENT ON TABLE kafka.cluster IS 'One row: the Kafka cluster that this database is.';
COMMENT ON COLUMN kafka.cluster.cluster_id IS 'Kafka cluster id, 16 random bytes in base64 without padding.';
COMMENT ON COLUMN kafka.cluster.epoch IS 'Last leader epoch given to an incarnation.';
COMMENT ON COLUMN kafka.cluster.system_identifier IS 'pg_control_system().system_identifier when a broker last served; a change is a restore or another server.';
COMMENT ON COLUMN kafka.cluster.timeline IS 'Timeline (8 hex digits) when a broker last served; a change is a promotion or recovery.';

CREATE SEQUENCE kafka.lock_ids AS integer CYCLE;
COMMENT ON SEQUENCE kafka.lock_ids IS 'Second integer of the advisory locks (class 1885825894) of incarnations and sessions.';

CREATE TABLE kafka.brokers (
    incarnation        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node_id            integer NOT NULL CHECK (node_id > 0),
    status             text    NOT NULL CHECK (status IN ('live', 'fenced', 'stopped', 'waiting')),
    epoch              integer NOT NULL,
    lock_id            integer NOT NULL,
    heartbeat_lock_id  integer NOT NULL,
    host               text    NOT NULL,
    port               integer NOT NULL,
    version            text    NOT NULL,
    started_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at           timestamptz,
    beats              bigint  NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX brokers_live_node ON kafka.brokers (node_id) WHERE status IN ('live', 'waiting');
COMMENT ON TABLE kafka.brokers IS 'Incarnations of brokers, one row for each start; a row that is not live is never revived. Brokers that wait for the one that leads have rows while they do.';
COMMENT ON COLUMN kafka.brokers.seen_at IS 'Time of the last heartbeat by the server''s clock, for people; nothing is decided by it.';
COMMENT ON COLUMN kafka.brokers.beats IS 'Number of heartbeats. A broker that waits and has seen no change for pg_kafka.eviction_ms may take over.';

CREATE TABLE kafka.topics (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text    NOT NULL UNIQUE,
    partitions  integer NOT NULL CHECK (partitions > 0),
    uuid        uuid    NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    configs     jsonb   NOT NULL DEFAULT '{}',
    series      bigint  NOT NULL DEFAULT 0,
    view_name   text,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (series = 0 OR series = id)
);
COMMENT ON TABLE kafka.topics IS 'Topics. A deleted topic leaves this table at once; its id is never used again.';
COMMENT ON COLUMN kafka.topics.configs IS 'Topic configs that were set, by Kafka''s names; others have the broker''s values.';
COMMENT ON COLUMN kafka.topics.series IS 'Where its records go now: 0, the shared series, or its own, whose id is the topic''s.';
COMMENT ON COLUMN kafka.topics.view_name IS 'Its view in schema "topics"; NULL until made, and for internal topics.';

CREATE TABLE kafka.deleted_topics (
    id          bigint PRIMARY KEY,
    name        text   NOT NULL,
    series      bigint NOT NULL,
    view_name   text,
    deleted_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE kafka.deleted_topics IS 'Topics whose rows are still to be freed by the janitor.';

CREATE TABLE kafka.settings (
    name   text PRIMARY KEY,
    value  text NOT NULL
);
COMMENT ON TABLE kafka.settings IS 'Broker settings kept in the database, written by kafka.set_config(); flags, environment and file override them.';

-- What SQL users see and the tables behind it, as far as they are not functions and views (those are in features/).

CREATE TYPE kafka.header AS (
    key    text,
    value  bytea
);
COMMENT ON TYPE kafka.header IS 'A record header. The key is text; bytes that are no text are shown escaped, as encode(key, ''escape'') does.';

CREATE TABLE kafka.setting_names (
    name         text PRIMARY KEY,
    description  text NOT NULL
);
COMMENT ON TABLE kafka.setting_names IS 'The settings that kafka.set_config() knows, written by the program when it starts.';

-- Consumer groups. Their state changes often, so it is appended to journals, and the owner of a group has it in memory.
--
-- A journal has two tables, _0 and _1. One is written. When it has grown to several times what in it still counts, the
-- other is written from then on (kafka.journals: switched), what counts is copied there (copied), and the first is
-- truncated (steady). Copies keep their entry number, so at any time the highest number of a key in both tables counts.
-- Dead rows that a long-held snapshot would keep alive do not arise.

CREATE SEQUENCE kafka.journal_entries AS bigint MINVALUE 0 START 0 INCREMENT BY 1048576;
COMMENT ON SEQUENCE kafka.journal_entries IS 'Blocks of numbers of journal entries; each value is the first of 1048576.';

CREATE TABLE kafka.journals (
    journal    text PRIMARY KEY CHECK (journal IN ('offsets', 'groups', 'history', 'transactions')),
    active     smallint NOT NULL DEFAULT 0 CHECK (active IN (0, 1)),
    state      text     NOT NULL DEFAULT 'steady' CHECK (state IN ('steady', 'switched', 'copied')),
    live_bytes bigint   NOT NULL DEFAULT 0,
    copied_at  timestamptz,
    copied_by  xid8
);
COMMENT ON TABLE kafka.journals IS
    'Which of a journal''s two tables is written. steady: the other is empty; switched: it has entries that still count; copied: it waits to be truncated.';
COMMENT ON COLUMN kafka.journals.live_bytes IS 'Size of what still counted when it was last copied.';
COMMENT ON COLUMN kafka.journals.copied_by IS 'Transaction that copied; whoever sees it needs the other table no more.';

INSERT INTO kafka.journals (journal) VALUES ('offsets'), ('groups'), ('history'), ('transactions');

CREATE TABLE kafka.offset_journal_0 (
    entry             bigint  NOT NULL,
    group_id          text    NOT NULL,
    topic_id          bigint  NOT NULL,
    partition_id      integer NOT NULL,
    committed_offset  bigint,
    leader_epoch      integer,
    metadata          text    NOT NULL DEFAULT '',
    committed_at      timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE INDEX offset_journal_0_latest ON kafka.offset_journal_0 (group_id, topic_id, partition_id, entry DESC);
COMMENT ON TABLE kafka.offset_journal_0 IS 'Commits of consumer groups, appended only. Read them through kafka.consumer_offsets.';
COMMENT ON COLUMN kafka.offset_journal_0.committed_offset IS 'Next offset to consume; NULL when the commit was deleted or has expired.';
COMMENT ON COLUMN kafka.offset_journal_0.metadata IS 'With ␀ for NUL, ␛␀ for ␀ and ␛␛ for ␛, as all text of clients in the journals.';

CREATE TABLE kafka.offset_journal_1 (LIKE kafka.offset_journal_0 INCLUDING DEFAULTS INCLUDING COMMENTS)
WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE INDEX offset_journal_1_latest ON kafka.offset_journal_1 (group_id, topic_id, partition_id, entry DESC);
COMMENT ON TABLE kafka.offset_journal_1 IS 'Takes turns with kafka.offset_journal_0.';

CREATE TABLE kafka.group_journal_0 (
    entry       bigint NOT NULL,
    group_id    text   NOT NULL,
    kind        text   NOT NULL,
    key         text   NOT NULL,
    value       jsonb,
    written_at  timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_insert_threshold = -1, toast.autovacuum_vacuum_insert_threshold = -1);
CREATE INDEX group_journal_0_group ON kafka.group_journal_0 (group_id);
COMMENT ON TABLE kafka.group_journal_0 IS
    'Generations, members and assignments of consumer groups, appended only. Read them through kafka.groups and the views beside it.';
COMMENT ON COLUMN kafka.group_journal_0.kind IS 'What the value describes: a classic group as a whole, or a part of one with the consumer protocol.';
COMMENT ON COLUMN kafka.group_journal_0.key IS 'Member id, or empty for what the group has once.';
COMMENT ON COLUMN kafka.group_journal_0.value IS 'NULL when it is no more.';

CREATE TABLE kafka.group_journal_1 (LIKE kafka.group_journal_0 INCLUDING DEFAULTS INCLUDING COMMENTS)
WITH (autovacuum_vacuum_insert_threshold = -1, toast.autovacuum_vacuum_insert_threshold = -1);
CREATE INDEX group_journal_1_group ON kafka.group_journal_1 (group_id);
COMMENT ON TABLE kafka.group_journal_1 IS 'Takes turns with kafka.group_journal_0.';

CREATE TABLE kafka.history_journal_0 (
    entry        bigint  NOT NULL,
    group_id     text    NOT NULL,
    event        text    NOT NULL,
    generation   integer NOT NULL,
    member_id    text    NOT NULL,
    client_id    text    NOT NULL,
    client_host  text    NOT NULL,
    detail       text    NOT NULL,
    happened_at  timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_insert_threshold = -1, toast.autovacuum_vacuum_insert_threshold = -1);
CREATE INDEX history_journal_0_group ON kafka.history_journal_0 (group_id);
COMMENT ON TABLE kafka.history_journal_0 IS 'What happened to consumer groups, the latest of it. Read it through kafka.group_history.';

CREATE TABLE kafka.history_journal_1 (LIKE kafka.history_journal_0 INCLUDING DEFAULTS INCLUDING COMMENTS)
WITH (autovacuum_vacuum_insert_threshold = -1, toast.autovacuum_vacuum_insert_threshold = -1);
CREATE INDEX history_journal_1_group ON kafka.history_journal_1 (group_id);
COMMENT ON TABLE kafka.history_journal_1 IS 'Takes turns with kafka.history_journal_0.';

CREATE TABLE kafka.group_configs (
    group_id  text  PRIMARY KEY,
    configs   jsonb NOT NULL
);
COMMENT ON TABLE kafka.group_configs IS 'Configs that were set for consumer groups, by Kafka''s names; others have the broker''s values.';

-- Transactions. Their state is a journal like those of consumer groups (040_groups.sql), with a row in kafka.journals.
--
-- What became of a record is decided in the log alone: by the first marker of its producer above it, or by there being
-- none. Brokers find markers by an index of each segment, (topic, partition, producer_id, base_offset) WHERE is_control.
-- SQL cannot: a view would have to plan all segments that a marker might be in, 0.2 ms each. So that the views need one
-- look-up in one table, a trigger of each segment notes its markers in kafka.markers, in the statement that appends them.

CREATE TABLE kafka.markers (
    topic          bigint  NOT NULL,
    producer_id    bigint  NOT NULL,
    marker_offset  bigint  NOT NULL,
    partition      integer NOT NULL,
    is_commit      boolean NOT NULL,
    PRIMARY KEY (topic, partition, producer_id, marker_offset) INCLUDE (is_commit)
);
COMMENT ON TABLE kafka.markers IS
    'Where transactions have ended. A transactional record is what the first marker of its producer above it says, and open when there is none. Written by a trigger with the marker''s row.';
COMMENT ON COLUMN kafka.markers.marker_offset IS 'Offset of the marker in its partition.';

CREATE FUNCTION kafka.note_marker() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The key of a control record is a version and a type, two bytes each; type 1 is COMMIT.
    -- A row that moves to another segment is noted already.
    INSERT INTO kafka.markers (topic, partition, producer_id, marker_offset, is_commit)
    VALUES (NEW.topic, NEW.partition, NEW.producer_id, NEW.base_offset, get_byte(NEW.keys[1], 3) = 1)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.note_marker() IS 'Trigger of each segment, for its control rows alone: keeps kafka.markers.';

CREATE TABLE kafka.transaction_journal_0 (
    entry             bigint NOT NULL,
    transactional_id  text   NOT NULL,
    kind              text   NOT NULL,
    key               text   NOT NULL,
    value             jsonb,
    written_at        timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_insert_threshold = -1, toast.autovacuum_vacuum_insert_threshold = -1);
CREATE INDEX transaction_journal_0_id ON kafka.transaction_journal_0 (transactional_id);
COMMENT ON TABLE kafka.transaction_journal_0 IS
    'Transactional ids and pending offsets of their transactions, appended only. Read them through kafka.transactions and kafka.pending_offsets.';
COMMENT ON COLUMN kafka.transaction_journal_0.kind IS 'transaction: the state of the id; offset: a commit of offsets that waits for the end of its transaction.';
COMMENT ON COLUMN kafka.transaction_journal_0.key IS 'Group, topic id and partition of an offset, one to a line; empty for the state.';
COMMENT ON COLUMN kafka.transaction_journal_0.value IS 'NULL when it is no more.';

CREATE TABLE kafka.transaction_journal_1 (LIKE kafka.transaction_journal_0 INCLUDING DEFAULTS INCLUDING COMMENTS)
WITH (autovacuum_vacuum_insert_threshold = -1, toast.autovacuum_vacuum_insert_threshold = -1);
CREATE INDEX transaction_journal_1_id ON kafka.transaction_journal_1 (transactional_id);
COMMENT ON TABLE kafka.transaction_journal_1 IS 'Takes turns with kafka.transaction_journal_0.';

CREATE TABLE kafka.transaction_requests (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transactional_id  text     NOT NULL,
    producer_id       bigint   NOT NULL,
    producer_epoch    smallint NOT NULL,
    action            text     NOT NULL CHECK (action = 'abort'),
    requested_by      name     NOT NULL,
    requested_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at           timestamptz,
    error             text
);
CREATE INDEX transaction_requests_open ON kafka.transaction_requests (id) WHERE done_at IS NULL;
COMMENT ON TABLE kafka.transaction_requests IS
    'What operators have asked of the broker by kafka.abort_transaction(), and what became of it. The latest 1000 are kept.';
COMMENT ON COLUMN kafka.transaction_requests.producer_epoch IS 'With producer_id: which transaction was meant. A later one of the same id is left alone.';
COMMENT ON COLUMN kafka.transaction_requests.done_at IS 'When the broker had dealt with it; NULL until then.';
COMMENT ON COLUMN kafka.transaction_requests.error IS 'Why it was not done; NULL when it was.';

-- Broker settings in the database.

CREATE OR REPLACE FUNCTION kafka.set_config(name text, value text) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known text;
BEGIN
    -- Kafka's name, num.partitions, means the same as pg_kafka.num_partitions.
    SELECT k.name INTO known FROM kafka.setting_names k
    WHERE k.name = 'pg_kafka.' || translate(regexp_replace(set_config.name, '^pg_kafka[.]', ''), '.', '_');
    IF known IS NULL THEN
        RAISE EXCEPTION 'unknown setting "%"', name
            USING ERRCODE = 'invalid_parameter_value', HINT = 'The names are in kafka.setting_names.';
    END IF;
    IF value IS NULL THEN
        DELETE FROM kafka.settings s WHERE s.name = known;
    ELSE
        INSERT INTO kafka.settings AS s (name, value) VALUES (known, set_config.value)
        ON CONFLICT ON CONSTRAINT settings_pkey DO UPDATE SET value = EXCLUDED.value;
    END IF;
    RETURN value;
END
$$;
COMMENT ON FUNCTION kafka.set_config(text, text) IS
    'Set a broker setting for all brokers of this database, effective when they start; NULL removes it. Takes Kafka''s names and those with pg_kafka., and refuses what no broker knows.';

-- kafka.messages: every committed record of every topic as a row. Its names and columns are a contract with SQL users.
-- kafka.all_messages has in addition what transactions leave in the log.
--
-- Only built-in functions in here: PostgreSQL asks for EXECUTE on a view's functions from whoever reads the view, and a
-- GRANT on a topic's view is meant to be enough.

DO $do$
DECLARE
    -- What both views are made of. A view on the other one would take half as long again to plan.
    body constant text := $body$
SELECT l.topic                                        AS topic_id,
       l.partition                                    AS partition_id,
       l.base_offset + coalesce(r.offset_delta, r.n)  AS partition_offset,
       l.global_base + coalesce(r.offset_delta, r.n)  AS global_offset,
       r.key,
       r.value,
       -- A bigint of milliseconds reaches further than timestamptz does, and Kafka's -1 means that there is none. The bound is 2^53 - 1
       -- (year 287396); PostgreSQL multiplies intervals as doubles, which is exact to the microsecond until the year 2255.
       CASE WHEN coalesce(r.timestamp, l.first_timestamp) BETWEEN 0 AND 9007199254740991
            THEN timestamptz 'epoch' + coalesce(r.timestamp, l.first_timestamp) * interval '1 millisecond'
       END                                            AS timestamp,
       coalesce(r.timestamp, l.first_timestamp)       AS timestamp_ms,
       CASE WHEN r.header_ends[r.n + 1] > coalesce(r.header_ends[r.n], 0) THEN (
           -- encode() never fails and leaves plain ASCII as it is; any backslash in its answer asks for a closer look.
           -- What is UTF-8 becomes text, what is not (or has a NUL) stays escaped.
           SELECT array_agg(ROW (
                      CASE WHEN strpos(encode(h.key, 'escape'), '\') = 0 THEN encode(h.key, 'escape')
                           WHEN position('\x00'::bytea IN h.key) > 0 THEN encode(h.key, 'escape')
                           WHEN convert_from(h.key, 'LATIN1') ~ ('^([\u0001-\u007f]|[\u00c2-\u00df][\u0080-\u00bf]'
                               '|\u00e0[\u00a0-\u00bf][\u0080-\u00bf]|[\u00e1-\u00ec\u00ee\u00ef][\u0080-\u00bf]{2}'
                               '|\u00ed[\u0080-\u009f][\u0080-\u00bf]|\u00f0[\u0090-\u00bf][\u0080-\u00bf]{2}'
                               '|[\u00f1-\u00f3][\u0080-\u00bf]{3}|\u00f4[\u0080-\u008f][\u0080-\u00bf]{2})*$')
                           THEN convert_from(h.key, 'UTF8')
                           ELSE encode(h.key, 'escape')
                      END, h.value)::kafka.header)
           FROM unnest(r.header_keys[coalesce(r.header_ends[r.n], 0) + 1:r.header_ends[r.n + 1]],
                       r.header_values[coalesce(r.header_ends[r.n], 0) + 1:r.header_ends[r.n + 1]]) AS h (key, value)
       ) END                                          AS headers,
       l.base_offset                                  AS batch_base_offset,
       l.last_offset                                  AS batch_last_offset,
       l.max_timestamp                                AS batch_max_timestamp,
       l.series,
       l.segment%1$s
FROM kafka.log l
JOIN kafka.topics t ON t.id = l.topic
LEFT JOIN kafka.log_starts s ON s.topic = l.topic AND s.partition = l.partition
-- Set-returning functions in a select list hand out elements one by one; in FROM each row's arrays would be written to a
-- tuplestore first, which takes twice as long.
CROSS JOIN LATERAL (
    SELECT unnest(l.values)                          AS value,
           unnest(l.keys)                            AS key,
           unnest(l.timestamps)                      AS timestamp,
           unnest(l.offset_deltas)                   AS offset_delta,
           generate_series(0, l.record_count - 1)    AS n,
           d.header_ends, d.header_keys, d.header_values%2$s
    -- Taken out of TOAST once for each row of the log, not for each record; and not at all when nobody asks for headers.
    FROM (SELECT l.header_ends || '{}'::integer[]    AS header_ends,
                 l.header_keys || '{}'::bytea[]      AS header_keys,
                 l.header_values || '{}'::bytea[]    AS header_values%3$s
          OFFSET 0) AS d
) AS r
WHERE %4$sl.last_offset >= coalesce(s.log_start_offset, 0)
  AND l.base_offset + coalesce(r.offset_delta, r.n) >= coalesce(s.log_start_offset, 0)
    $body$;
BEGIN
    EXECUTE 'CREATE OR REPLACE VIEW kafka.messages AS ' || format(body, '', '', '', $where$
          NOT l.is_control
      -- Asked of the stored row, before it is unpacked, and not at all when it is in no transaction.
      AND (NOT l.is_transactional OR (
          SELECT m.is_commit FROM kafka.markers m
          WHERE m.topic = l.topic AND m.partition = l.partition
            AND m.producer_id = coalesce(l.producer_id, l.producer_ids[1]) AND m.marker_offset > l.last_offset
          ORDER BY m.marker_offset LIMIT 1))
      AND $where$);
    EXECUTE 'CREATE OR REPLACE VIEW kafka.all_messages AS ' || format(body, $columns$,
           r.transaction,
           l.is_transactional,
           l.is_control,
           coalesce(l.producer_id, CASE WHEN l.is_transactional THEN l.producer_ids[1] END)        AS producer_id,
           coalesce(l.producer_epoch, CASE WHEN l.is_transactional THEN l.producer_epochs[1] END)  AS producer_epoch
    $columns$, ', d.transaction', $transaction$,
                     CASE WHEN l.is_transactional THEN coalesce((
                         SELECT CASE WHEN m.is_commit THEN 'committed' ELSE 'aborted' END FROM kafka.markers m
                         WHERE m.topic = l.topic AND m.partition = l.partition
                           AND m.producer_id = coalesce(l.producer_id, l.producer_ids[1]) AND m.marker_offset >= l.last_offset
                         ORDER BY m.marker_offset LIMIT 1), 'open') END AS transaction
    $transaction$, '');
END
$do$;

COMMENT ON VIEW kafka.messages IS
    'Every committed record of every topic. Name the topic (a topic''s own view is quicker to plan) and, to read few of many records, bound '
    'batch_base_offset or use kafka.read().';
COMMENT ON COLUMN kafka.messages.topic_id IS 'kafka.topics.id.';
COMMENT ON COLUMN kafka.messages.partition_id IS 'Partition of the topic, from 0.';
COMMENT ON COLUMN kafka.messages.partition_offset IS 'Kafka''s offset: position within the partition.';
COMMENT ON COLUMN kafka.messages.global_offset IS 'Grows within each partition, unique in the database, with gaps.';
COMMENT ON COLUMN kafka.messages.key IS 'Key; NULL when the record has none.';
COMMENT ON COLUMN kafka.messages.value IS 'Value; NULL is a tombstone.';
COMMENT ON COLUMN kafka.messages.timestamp IS 'timestamp_ms as a time; NULL when negative or beyond what PostgreSQL can show.';
COMMENT ON COLUMN kafka.messages.timestamp_ms IS 'Record timestamp, ms since the epoch: the producer''s or, by message.timestamp.type, the broker''s.';
COMMENT ON COLUMN kafka.messages.headers IS 'Headers in their order; NULL when the record has none.';
COMMENT ON COLUMN kafka.messages.batch_base_offset IS 'First offset of the stored row; an index serves conditions on it.';
COMMENT ON COLUMN kafka.messages.batch_last_offset IS 'Last offset of the stored row.';
COMMENT ON COLUMN kafka.messages.batch_max_timestamp IS 'Largest timestamp_ms of the stored row; a condition on it skips rows without unpacking them.';
COMMENT ON COLUMN kafka.messages.series IS 'Chain of segments that holds the record.';
COMMENT ON COLUMN kafka.messages.segment IS 'Segment within the series.';

COMMENT ON VIEW kafka.all_messages IS
    'kafka.messages with all that transactions leave in the log: records that are not committed, or never will be, and markers.';
COMMENT ON COLUMN kafka.all_messages.transaction IS
    'What became of the record''s transaction: committed, aborted or (still) open; NULL when it is in none.';
COMMENT ON COLUMN kafka.all_messages.is_transactional IS 'The record is in a transaction, or ends one.';
COMMENT ON COLUMN kafka.all_messages.is_control IS 'A marker: no record of a producer but the end of its transaction.';
COMMENT ON COLUMN kafka.all_messages.producer_id IS 'Idempotent producer; NULL when there is none, or when the stored row has records of several.';
COMMENT ON COLUMN kafka.all_messages.producer_epoch IS 'Its epoch, or that of the marker.';

-- The view of a topic. Made and removed by the janitor; nobody else needs to call these.

CREATE OR REPLACE FUNCTION kafka.topic_view_name(name text, id bigint) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
-- Topic names are ASCII of up to 249 characters, identifiers end at 63 bytes; no topic has a tilde in its name.
RETURN CASE WHEN octet_length(name) <= 63 THEN name ELSE left(name, 50) || '~' || id END;
COMMENT ON FUNCTION kafka.topic_view_name(text, bigint) IS 'Name of a topic''s view in schema topics.';

CREATE OR REPLACE FUNCTION kafka.is_topic_view(view_name text) RETURNS boolean
LANGUAGE sql STABLE
BEGIN ATOMIC
    -- Whatever else somebody puts in its place, a table or a view on something else, is not ours.
    SELECT EXISTS (
        SELECT FROM pg_class c
        JOIN pg_rewrite r ON r.ev_class = c.oid
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = 'kafka.messages'::regclass
        WHERE c.relnamespace = 'topics'::regnamespace AND c.relname = view_name AND c.relkind = 'v');
END;
COMMENT ON FUNCTION kafka.is_topic_view(text) IS 'Is there a view with this name in schema topics that shows records?';

CREATE OR REPLACE FUNCTION kafka.create_topic_view(topic_id bigint) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    topic kafka.topics;
    made text;
BEGIN
    -- Locks the topic's row: a topic that is being deleted gets no view.
    SELECT * INTO topic FROM kafka.topics t WHERE t.id = topic_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    made := kafka.topic_view_name(topic.name, topic.id);
    IF topic.view_name IS DISTINCT FROM made
       AND EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'topics'::regnamespace AND c.relname = made)
       AND NOT EXISTS (SELECT FROM kafka.deleted_topics d WHERE d.view_name = made) THEN
        -- Somebody else's table or view: leave it.
        made := left(topic.name, 50) || '~' || topic.id;
    END IF;
    -- OR REPLACE: views of users may still stand on that of a deleted topic with this name; they follow to the new one.
    EXECUTE format(
        'CREATE OR REPLACE VIEW topics.%I AS SELECT * FROM kafka.messages WHERE series IN (0, %s) AND topic_id = %s',
        made, topic.id, topic.id);
    EXECUTE format('COMMENT ON VIEW topics.%I IS %L', made, format('Records of topic %s (id %s).', topic.name, topic.id));
    UPDATE kafka.deleted_topics d SET view_name = NULL WHERE d.view_name = made;
    UPDATE kafka.topics t SET view_name = made WHERE t.id = topic_id;
    RETURN made;
END
$$;
COMMENT ON FUNCTION kafka.create_topic_view(bigint) IS 'Make the view of a topic in schema topics; returns its name.';

CREATE OR REPLACE FUNCTION kafka.drop_topic_view(view_name text) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF kafka.is_topic_view(view_name) THEN
        EXECUTE format('DROP VIEW IF EXISTS topics.%I', view_name);
    END IF;
    RETURN true;
EXCEPTION
    WHEN dependent_objects_still_exist THEN
        EXECUTE format('CREATE OR REPLACE VIEW topics.%I AS SELECT * FROM kafka.messages WHERE false', view_name);
        EXECUTE format('COMMENT ON VIEW topics.%I IS %L', view_name, 'Its topic was deleted; a view of yours stands on it.');
        RETURN false;
END
$$;
COMMENT ON FUNCTION kafka.drop_topic_view(text) IS
    'Remove the view of a deleted topic; false when a user''s view depends on it: then it stays, empty.';

-- kafka.read: a range of offsets, found by index whatever the size of the log.

CREATE OR REPLACE FUNCTION kafka.locate(
    topic text, partition integer, "from" bigint, "to" bigint,
    OUT relation text, OUT topic_id bigint, OUT all_series bigint[], OUT segments integer[], OUT first_base bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    first_extent record;
    partitions integer;
BEGIN
    IF topic IS NULL OR partition IS NULL OR "from" IS NULL OR "to" IS NULL THEN
        RAISE EXCEPTION 'topic, partition, "from" and "to" must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- A view that somebody has dropped is made again by the janitor.
    SELECT t.id, t.partitions, CASE WHEN to_regclass('topics.' || quote_ident(t.view_name)) IS NULL THEN 'kafka.messages'
                                    ELSE 'topics.' || quote_ident(t.view_name) END
    INTO topic_id, partitions, relation
    FROM kafka.topics t WHERE t.name = locate.topic;
    IF topic_id IS NULL THEN
        RAISE EXCEPTION 'topic "%" does not exist', topic USING ERRCODE = 'undefined_object';
    END IF;
    IF partition NOT BETWEEN 0 AND partitions - 1 THEN
        RAISE EXCEPTION 'topic "%" has no partition %', topic, partition
            USING ERRCODE = 'undefined_object', DETAIL = format('Its partitions are 0 to %s.', partitions - 1);
    END IF;
    SELECT e.first_offset, e.series, e.segment INTO first_extent
    FROM kafka.extents e
    WHERE e.topic = topic_id AND e.partition = locate.partition AND e.first_offset <= locate."from"
    ORDER BY e.first_offset DESC LIMIT 1;
    SELECT array_agg(DISTINCT e.series), array_agg(DISTINCT e.segment) INTO all_series, segments
    FROM kafka.extents e
    WHERE e.topic = topic_id AND e.partition = locate.partition
      AND e.first_offset >= coalesce(first_extent.first_offset, locate."from") AND e.first_offset < locate."to";
    first_base := "from";
    IF first_extent.segment IS NOT NULL THEN
        -- The row that holds "from" begins at or before it. Dynamic, so that it is planned for this one leaf.
        EXECUTE 'SELECT coalesce(max(l.base_offset), $5) FROM kafka.log l
                 WHERE l.series = $1 AND l.segment = $2 AND l.topic = $3 AND l.partition = $4 AND l.base_offset <= $5'
        INTO first_base
        USING first_extent.series, first_extent.segment, topic_id, partition, "from";
    END IF;
END
$$;
COMMENT ON FUNCTION kafka.locate(text, integer, bigint, bigint) IS
    'Where a range of offsets is: the view to ask, the segments, and the first offset of the stored row that holds "from".';

CREATE OR REPLACE FUNCTION kafka.read(topic text, partition integer, "from" bigint, "to" bigint)
RETURNS SETOF kafka.messages
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place record;
BEGIN
    place := kafka.locate(topic, partition, "from", "to");
    -- Asks the topic's view in the caller's name: who may SELECT from the view may read this way too.
    RETURN QUERY EXECUTE format(
        'SELECT * FROM %s m
         WHERE m.topic_id = $1 AND m.partition_id = $2 AND m.series = ANY ($3) AND m.segment = ANY ($4)
           AND m.batch_base_offset >= $5 AND m.batch_base_offset < $7
           AND m.partition_offset >= $6 AND m.partition_offset < $7
         ORDER BY m.partition_offset', place.relation)
    USING place.topic_id, partition, place.all_series, place.segments, place.first_base, "from", "to";
END
$$;
COMMENT ON FUNCTION kafka.read(text, integer, bigint, bigint) IS
    'Records of a partition with offsets from "from" up to and without "to", in order. Needs SELECT on the topic''s view. An error when there is no such topic or partition, or for NULL.';

-- kafka.consumer_offsets: what consumer groups have committed. Its first five columns are a contract with SQL users.

CREATE OR REPLACE VIEW kafka.consumer_offsets AS
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

COMMENT ON VIEW kafka.consumer_offsets IS 'The latest committed offset of each consumer group and partition.';
COMMENT ON COLUMN kafka.consumer_offsets.committed_offset IS 'Next offset that the group will consume.';
COMMENT ON COLUMN kafka.consumer_offsets.metadata IS
    'Text that the consumer stored with the offset. Without a NUL at its end, which librdkafka adds; others are shown as ␀.';
COMMENT ON COLUMN kafka.consumer_offsets.metadata_bytes IS 'The same in UTF-8 as it is, with each NUL.';
COMMENT ON COLUMN kafka.consumer_offsets.leader_epoch IS 'Leader epoch of the last record consumed; NULL when the consumer gave none.';
COMMENT ON COLUMN kafka.consumer_offsets.committed_at IS 'When it was committed.';

-- What SQL users see of consumer groups, beside kafka.consumer_offsets. Values of records are described where they are
-- made: coordinator/classic_member.py and coordinator/consumer_group.py.

CREATE OR REPLACE VIEW kafka.group_records AS
SELECT j.entry, j.group_id, j.kind, j.key, j.value, j.written_at
FROM (SELECT DISTINCT ON (g.group_id, g.kind, g.key) g.*
      FROM (SELECT * FROM kafka.group_journal_0 UNION ALL SELECT * FROM kafka.group_journal_1) AS g
      ORDER BY g.group_id, g.kind, g.key, g.entry DESC) AS j
WHERE j.value IS NOT NULL;
COMMENT ON VIEW kafka.group_records IS 'The latest records of consumer groups as the broker keeps them; their values may change with any version.';

CREATE OR REPLACE VIEW kafka.groups AS
SELECT g.group_id, 'classic' AS kind, g.value ->> 'state' AS state, (g.value ->> 'generation')::integer AS generation,
       g.value ->> 'protocol_type' AS protocol_type, g.value ->> 'protocol' AS protocol,
       jsonb_array_length(g.value -> 'members') AS members, g.written_at
FROM kafka.group_records g WHERE g.kind = 'classic'
UNION ALL
SELECT g.group_id, 'consumer',
       CASE WHEN m.members IS NULL THEN 'Empty'
            WHEN (g.value ->> 'epoch')::integer > (g.value ->> 'target_epoch')::integer THEN 'Assigning'
            WHEN m.are_stable AND m.oldest_epoch = (g.value ->> 'target_epoch')::integer THEN 'Stable'
            ELSE 'Reconciling' END,
       (g.value ->> 'epoch')::integer, 'consumer', m.assignor, coalesce(m.members, 0), g.written_at
FROM kafka.group_records g
LEFT JOIN (SELECT r.group_id, count(*)::integer AS members, mode() WITHIN GROUP (ORDER BY r.value ->> 'assignor') AS assignor,
                  coalesce(bool_and(c.value ->> 'state' = 'stable'), false) AS are_stable,
                  min((c.value ->> 'epoch')::integer) AS oldest_epoch
           FROM kafka.group_records r
           LEFT JOIN kafka.group_records c ON c.group_id = r.group_id AND c.key = r.key AND c.kind = 'current'
           WHERE r.kind = 'member' GROUP BY r.group_id) AS m ON m.group_id = g.group_id
WHERE g.kind = 'consumer'
UNION ALL
SELECT o.group_id, 'classic', 'Empty', 0, '', NULL, 0, max(o.committed_at)
FROM kafka.consumer_offsets o
WHERE NOT EXISTS (SELECT FROM kafka.group_records g WHERE g.group_id = o.group_id AND g.kind IN ('classic', 'consumer'))
GROUP BY o.group_id;
COMMENT ON VIEW kafka.groups IS
    'Consumer groups, also those that only ever committed offsets. While a classic group prepares a rebalance its last generation is shown.';
COMMENT ON COLUMN kafka.groups.kind IS 'classic (JoinGroup) or consumer (KIP-848).';
COMMENT ON COLUMN kafka.groups.state IS 'Kafka''s word, as of what was written last.';
COMMENT ON COLUMN kafka.groups.generation IS 'Generation of a classic group, epoch of a consumer group.';
COMMENT ON COLUMN kafka.groups.protocol IS 'The assignor: what the classic members agreed on, or what most members of a consumer group asked for; NULL when none did.';
COMMENT ON COLUMN kafka.groups.written_at IS 'When it last changed.';

CREATE OR REPLACE VIEW kafka.group_members AS
SELECT g.group_id,
       m.value ->> 'member_id'                          AS member_id,
       m.value ->> 'group_instance_id'                  AS group_instance_id,
       m.value ->> 'client_id'                          AS client_id,
       ltrim(m.value ->> 'client_host', '/')            AS client_host,
       'classic'                                        AS protocol,
       (g.value ->> 'generation')::integer              AS generation,
       (m.value ->> 'session_timeout_ms')::integer      AS session_timeout_ms,
       (m.value ->> 'rebalance_timeout_ms')::integer    AS rebalance_timeout_ms,
       -- An array subquery keeps the order; a topic list that is not known is JSON's null.
       CASE jsonb_typeof(m.value -> 'topics') WHEN 'array'
            THEN ARRAY(SELECT jsonb_array_elements_text(m.value -> 'topics')) END AS topics,
       NULL::text                                       AS topic_regex
FROM kafka.group_records g, jsonb_array_elements(g.value -> 'members') AS m (value)
WHERE g.kind = 'classic'
UNION ALL
SELECT g.group_id, g.key, g.value ->> 'instance_id', g.value ->> 'client_id', ltrim(g.value ->> 'client_host', '/'),
       CASE WHEN jsonb_typeof(g.value -> 'classic') = 'object' THEN 'classic' ELSE 'consumer' END,
       (c.value ->> 'epoch')::integer, (g.value -> 'classic' ->> 'session_timeout_ms')::integer,
       (g.value ->> 'rebalance_timeout_ms')::integer,
       ARRAY(SELECT jsonb_array_elements_text(g.value -> 'topics')), nullif(g.value ->> 'regex', '')
FROM kafka.group_records g
LEFT JOIN kafka.group_records c ON c.group_id = g.group_id AND c.key = g.key AND c.kind = 'current'
WHERE g.kind = 'member';
COMMENT ON VIEW kafka.group_members IS
    'Members of consumer groups as of the last generation or epoch that was written; a member that joins appears when the rebalance is through.';
COMMENT ON COLUMN kafka.group_members.protocol IS 'classic (JoinGroup) or consumer (KIP-848); a group of the latter may have members of both.';
COMMENT ON COLUMN kafka.group_members.generation IS 'Generation of a classic group, member epoch otherwise; below 0: a static member that is away.';
COMMENT ON COLUMN kafka.group_members.session_timeout_ms IS 'NULL where the group''s config decides.';
COMMENT ON COLUMN kafka.group_members.topics IS 'Topics it subscribes to by name; NULL when the broker cannot read the subscription.';

CREATE OR REPLACE VIEW kafka.group_assignments AS
SELECT g.group_id, m.value ->> 'member_id' AS member_id, a.topic, p.partition::integer AS partition
FROM kafka.group_records g,
     jsonb_array_elements(g.value -> 'members') AS m (value),
     jsonb_each(CASE jsonb_typeof(m.value -> 'assigned') WHEN 'object' THEN m.value -> 'assigned' ELSE '{}' END) AS a (topic, partitions),
     jsonb_array_elements_text(a.partitions) AS p (partition)
WHERE g.kind = 'classic'
UNION ALL
SELECT g.group_id, g.key, t.name, p.partition::integer
FROM kafka.group_records g,
     jsonb_each(g.value -> 'assigned') AS a (topic, partitions),
     jsonb_array_elements_text(a.partitions) AS p (partition),
     kafka.topics t
WHERE g.kind = 'current' AND t.uuid = a.topic::uuid;
COMMENT ON VIEW kafka.group_assignments IS
    'Which member of a consumer group reads which partition. Classic groups of other protocol types than "consumer" (Connect) keep their assignments to themselves.';

CREATE OR REPLACE FUNCTION kafka.end_offset(topic_id bigint, partition integer) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    newest record;
    known bigint;
    stored bigint;
BEGIN
    SELECT greatest(coalesce((SELECT s.log_start_offset FROM kafka.log_starts s
                              WHERE s.topic = topic_id AND s.partition = end_offset.partition), 0),
                    coalesce((SELECT c.next_offset FROM kafka.partition_checkpoints c
                              WHERE c.topic = topic_id AND c.partition = end_offset.partition), 0)) INTO known;
    SELECT e.first_offset, format('kafka.log_%s_%s', e.series, e.segment) AS leaf INTO newest
    FROM kafka.extents e
    WHERE e.topic = topic_id AND e.partition = end_offset.partition ORDER BY e.first_offset DESC LIMIT 1;
    -- The segment may have been freed since, and then nothing in it counts.
    IF to_regclass(newest.leaf) IS NOT NULL THEN
        EXECUTE format('SELECT l.last_offset + 1 FROM %s l WHERE l.topic = $1 AND l.partition = $2
                        ORDER BY l.base_offset DESC LIMIT 1', newest.leaf)
        INTO stored USING topic_id, partition;
    END IF;
    RETURN greatest(known, newest.first_offset, stored);
END
$$;
COMMENT ON FUNCTION kafka.end_offset(bigint, integer) IS
    'Where a partition ends: the offset of its next record. Index look-ups only, whatever the size of the log.';

CREATE OR REPLACE VIEW kafka.consumer_lag AS
SELECT l.group_id, l.topic, l.partition, l.committed_offset, e.end_offset,
       -- A client may commit any number. From one below 0 no record follows, and the difference may be no bigint.
       CASE WHEN l.committed_offset >= 0 THEN greatest(e.end_offset - l.committed_offset, 0) END AS lag,
       l.member_id, m.client_id, m.client_host
FROM (SELECT group_id, t.name AS topic, partition_id AS partition, o.committed_offset, a.member_id, topic_id
      FROM kafka.consumer_offsets o
      FULL JOIN (SELECT x.group_id, y.id AS topic_id, x.partition AS partition_id, x.member_id
                 FROM kafka.group_assignments x JOIN kafka.topics y ON y.name = x.topic) AS a
          USING (group_id, topic_id, partition_id)
      JOIN kafka.topics t ON t.id = topic_id) AS l
LEFT JOIN kafka.group_members m ON m.group_id = l.group_id AND m.member_id = l.member_id
-- OFFSET 0: asked once for each row.
CROSS JOIN LATERAL (SELECT kafka.end_offset(l.topic_id, l.partition) OFFSET 0) AS e (end_offset);
COMMENT ON VIEW kafka.consumer_lag IS
    'How far consumer groups are behind: a row for each partition that a group has committed or that a member reads. Costs an index look-up for each row.';
COMMENT ON COLUMN kafka.consumer_lag.committed_offset IS 'Next offset that the group will consume; NULL when it has committed none there.';
COMMENT ON COLUMN kafka.consumer_lag.end_offset IS 'Offset of the partition''s next record.';
COMMENT ON COLUMN kafka.consumer_lag.lag IS 'Records between the two; NULL without a committed offset, and for one below 0.';
COMMENT ON COLUMN kafka.consumer_lag.member_id IS 'Who reads the partition now; NULL when nobody does.';

CREATE OR REPLACE VIEW kafka.group_history AS
-- UNION: what was copied to the other table may be in both for a moment.
SELECT h.group_id, h.happened_at, h.event, h.generation, h.member_id, h.client_id, h.client_host, h.detail, h.entry
FROM (SELECT * FROM kafka.history_journal_0 UNION SELECT * FROM kafka.history_journal_1) AS h;
COMMENT ON VIEW kafka.group_history IS
    'What happened to consumer groups, and why they rebalanced. At least the last 100 lines of each group are kept, up to 20000 in all.';
COMMENT ON COLUMN kafka.group_history.entry IS 'Grows within a group: order by it.';
COMMENT ON COLUMN kafka.group_history.generation IS 'Generation or group epoch after the event.';

-- What SQL users see of transactions. Values of records are described where they are made: coordinator/transactions.py.

CREATE OR REPLACE VIEW kafka.transaction_records AS
SELECT j.entry, j.transactional_id, j.kind, j.key, j.value, j.written_at
FROM (SELECT DISTINCT ON (t.transactional_id, t.kind, t.key) t.*
      FROM (SELECT * FROM kafka.transaction_journal_0 UNION ALL SELECT * FROM kafka.transaction_journal_1) AS t
      ORDER BY t.transactional_id, t.kind, t.key, t.entry DESC) AS j
WHERE j.value IS NOT NULL;
COMMENT ON VIEW kafka.transaction_records IS
    'The latest records of transactional ids as the broker keeps them; their values may change with any version.';

CREATE OR REPLACE FUNCTION kafka.first_open_offset(topic_id bigint, partition integer, producer_id bigint, from_offset bigint)
RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    lowest bigint;
    place record;
    found_at bigint;
BEGIN
    -- What is below the producer's last marker is decided.
    SELECT greatest(from_offset, coalesce(max(m.marker_offset) + 1, 0)) INTO lowest FROM kafka.markers m
    WHERE m.topic = topic_id AND m.partition = first_open_offset.partition AND m.producer_id = first_open_offset.producer_id;
    FOR place IN
        SELECT format('kafka.log_%s_%s', e.series, e.segment) AS leaf FROM kafka.extents e
        WHERE e.topic = topic_id AND e.partition = first_open_offset.partition
          AND e.first_offset >= coalesce((
              SELECT max(x.first_offset) FROM kafka.extents x
              WHERE x.topic = topic_id AND x.partition = first_open_offset.partition AND x.first_offset <= lowest), 0)
        ORDER BY e.first_offset
    LOOP
        IF to_regclass(place.leaf) IS NOT NULL THEN
            EXECUTE format('SELECT l.base_offset FROM %s l
                            WHERE l.topic = $1 AND l.partition = $2 AND l.base_offset >= $4
                              AND l.is_transactional AND NOT l.is_control AND coalesce(l.producer_id, l.producer_ids[1]) = $3
                            ORDER BY l.base_offset LIMIT 1', place.leaf)
            INTO found_at USING topic_id, partition, producer_id, lowest;
            IF found_at IS NOT NULL THEN
                RETURN found_at;
            END IF;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.first_open_offset(bigint, integer, bigint, bigint) IS
    'Where a producer''s open transaction begins in a partition, at from_offset or above: the last stable offset cannot pass it. NULL when it has no records there.';

CREATE OR REPLACE VIEW kafka.transactions AS
SELECT t.transactional_id, t.state, t.producer_id, t.producer_epoch, t.timeout, t.started_at,
       CASE WHEN t.is_open THEN greatest(clock_timestamp() - t.started_at, interval '0') END AS age,
       p.partitions, t.groups,
       CASE WHEN t.is_open THEN (
           SELECT coalesce(jsonb_agg(jsonb_build_object('topic', o.topic, 'partition', o.partition, 'first_offset', o.first_offset)
                                     ORDER BY o.topic, o.partition), '[]')
           FROM (SELECT e.name AS topic, (x.value ->> 1)::integer AS partition,
                        kafka.first_open_offset(e.id, (x.value ->> 1)::integer, t.producer_id, (x.value ->> 2)::bigint) AS first_offset
                 FROM jsonb_array_elements(t.registered) AS x (value)
                 JOIN kafka.topics e ON e.id = (x.value ->> 0)::bigint) AS o
           WHERE o.first_offset IS NOT NULL
       ) END AS holds_back,
       t.written_at
FROM (SELECT r.transactional_id, r.value ->> 'state' AS state,
             (r.value ->> 'producer_id')::bigint AS producer_id, (r.value ->> 'producer_epoch')::smallint AS producer_epoch,
             (r.value ->> 'timeout_ms')::integer * interval '1 millisecond' AS timeout,
             CASE WHEN r.value ->> 'state' IN ('Ongoing', 'PrepareCommit', 'PrepareAbort')
                  THEN timestamptz 'epoch' + (r.value ->> 'started_ms')::bigint * interval '1 millisecond' END AS started_at,
             r.value ->> 'state' IN ('Ongoing', 'PrepareCommit', 'PrepareAbort') AS is_open,
             r.value -> 'partitions' AS registered,
             ARRAY(SELECT regexp_replace(g.id, '␛(.)', '\1', 'g')
                   FROM jsonb_array_elements_text(r.value -> 'groups') WITH ORDINALITY AS g (id, n) ORDER BY g.n) AS groups,
             r.written_at
      FROM kafka.transaction_records r WHERE r.kind = 'transaction') AS t
CROSS JOIN LATERAL (
    SELECT coalesce(jsonb_agg(jsonb_build_object('topic', e.name, 'partition', (x.value ->> 1)::integer)
                              ORDER BY e.name, (x.value ->> 1)::integer), '[]') AS partitions
    FROM jsonb_array_elements(t.registered) AS x (value) JOIN kafka.topics e ON e.id = (x.value ->> 0)::bigint) AS p;
COMMENT ON VIEW kafka.transactions IS 'Transactional ids, and the transaction that each has open.';
COMMENT ON COLUMN kafka.transactions.state IS
    'Kafka''s word: Empty, Ongoing, PrepareCommit or PrepareAbort (decided, not yet in all partitions), CompleteCommit, CompleteAbort.';
COMMENT ON COLUMN kafka.transactions.timeout IS 'How long a transaction may stay open before the broker aborts it.';
COMMENT ON COLUMN kafka.transactions.started_at IS 'When the open transaction began; NULL when there is none.';
COMMENT ON COLUMN kafka.transactions.age IS 'How long it has been open.';
COMMENT ON COLUMN kafka.transactions.partitions IS 'Partitions that belong to the open transaction: [{topic, partition}].';
COMMENT ON COLUMN kafka.transactions.groups IS 'Consumer groups whose offsets it commits.';
COMMENT ON COLUMN kafka.transactions.holds_back IS
    'Partitions in which it has records, so that read_committed consumers cannot pass its first offset there: [{topic, partition, first_offset}]. NULL when none is open.';
COMMENT ON COLUMN kafka.transactions.written_at IS 'When the state last changed.';

CREATE OR REPLACE VIEW kafka.pending_offsets AS
SELECT regexp_replace(r.value ->> 'group', '␛(.)', '\1', 'g') AS group_id, t.id AS topic_id,
       (r.value ->> 'partition')::integer AS partition_id, (r.value ->> 'offset')::bigint AS pending_offset,
       -- As in kafka.consumer_offsets.
       regexp_replace(regexp_replace(m.stored, '^((?:[^␛]|␛.)*)␀$', '\1'), '␛(.)', '\1', 'g') AS metadata,
       CASE WHEN (r.value ->> 'leader_epoch')::integer >= 0 THEN (r.value ->> 'leader_epoch')::integer END AS leader_epoch,
       r.written_at, r.transactional_id,
       decode(replace(replace(replace(replace(m.stored, '\', '\\'), '␛␛', '\342\220\233'), '␛␀', '\342\220\200'), '␀', '\000'),
              'escape') AS metadata_bytes
FROM kafka.transaction_records r JOIN kafka.topics t ON t.id = (r.value ->> 'topic_id')::bigint
CROSS JOIN LATERAL (SELECT r.value ->> 'metadata') AS m (stored)
WHERE r.kind = 'offset';
COMMENT ON VIEW kafka.pending_offsets IS
    'Offsets of consumer groups in open transactions. They go to kafka.consumer_offsets when their transaction commits, and nowhere when it aborts.';
COMMENT ON COLUMN kafka.pending_offsets.metadata_bytes IS 'See kafka.consumer_offsets.';
COMMENT ON COLUMN kafka.pending_offsets.pending_offset IS 'Next offset that the group will consume, if the transaction commits.';

CREATE OR REPLACE FUNCTION kafka.abort_transaction(transactional_id text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stored jsonb;
    request bigint;
BEGIN
    SELECT r.value INTO stored FROM kafka.transaction_records r
    WHERE r.transactional_id = abort_transaction.transactional_id AND r.kind = 'transaction';
    IF stored IS NULL THEN
        RAISE EXCEPTION 'transactional id "%" does not exist', transactional_id
            USING ERRCODE = 'undefined_object', HINT = 'Those that there are are in kafka.transactions.';
    ELSIF stored ->> 'state' IN ('PrepareCommit', 'PrepareAbort') THEN
        RAISE EXCEPTION 'the transaction of "%" is decided and about to end: it is in state %', transactional_id, stored ->> 'state'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    ELSIF stored ->> 'state' <> 'Ongoing' THEN
        RAISE EXCEPTION 'transactional id "%" has no open transaction: it is in state %', transactional_id, stored ->> 'state'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    INSERT INTO kafka.transaction_requests (transactional_id, producer_id, producer_epoch, action, requested_by)
    VALUES (transactional_id, (stored ->> 'producer_id')::bigint, (stored ->> 'producer_epoch')::smallint, 'abort',
            coalesce(nullif(current_setting('role'), 'none'), session_user))
    RETURNING id INTO request;
    DELETE FROM kafka.transaction_requests q WHERE q.id <= request - 1000 AND q.done_at IS NOT NULL;
    PERFORM pg_notify('pg_kafka_transactions', request::text);
    RETURN request;
END
$$;
COMMENT ON FUNCTION kafka.abort_transaction(text) IS
    'Ask the broker to abort the open transaction of a transactional id, whose producer is fenced by that. Returns the request''s id in kafka.transaction_requests, which tells when it was done.';

-- Small things that make records easier to read in SQL.

CREATE OR REPLACE FUNCTION kafka.as_text(bytes bytea) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN strpos(encode(bytes, 'escape'), '\') = 0 THEN encode(bytes, 'escape')
    WHEN position('\x00'::bytea IN bytes) > 0 THEN NULL
    WHEN convert_from(bytes, 'LATIN1') ~ ('^([\u0001-\u007f]|[\u00c2-\u00df][\u0080-\u00bf]'
        '|\u00e0[\u00a0-\u00bf][\u0080-\u00bf]|[\u00e1-\u00ec\u00ee\u00ef][\u0080-\u00bf]{2}'
        '|\u00ed[\u0080-\u009f][\u0080-\u00bf]|\u00f0[\u0090-\u00bf][\u0080-\u00bf]{2}'
        '|[\u00f1-\u00f3][\u0080-\u00bf]{3}|\u00f4[\u0080-\u008f][\u0080-\u00bf]{2})*$')
    THEN convert_from(bytes, 'UTF8')
END;
COMMENT ON FUNCTION kafka.as_text(bytea) IS
    'A key or value as text; NULL when it is not UTF-8, where convert_from() would end the query with an error.';

CREATE OR REPLACE FUNCTION kafka.as_json(bytes bytea) RETURNS jsonb
-- A subtransaction for each record costs 1 us less than asking pg_input_is_valid() first, which parses twice, stops at deep
-- nesting with an error, and is not there before PostgreSQL 16. No parallel worker may begin one.
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
AS $$
BEGIN
    RETURN pg_catalog.convert_from(bytes, 'UTF8')::pg_catalog.jsonb;
EXCEPTION
    -- Not UTF-8, a NUL, not JSON, a number or a text that jsonb does not take; too deep or too large.
    WHEN data_exception OR program_limit_exceeded THEN
        RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.as_json(bytea) IS
    'A key or value as jsonb; NULL when it is no JSON that jsonb takes, where a cast would end the query with an error.';

CREATE OR REPLACE FUNCTION kafka.header_value(headers kafka.header[], name text) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
    SELECT h.value FROM unnest(headers) WITH ORDINALITY AS h (key, value, n) WHERE h.key = name ORDER BY h.n DESC LIMIT 1;
END;
COMMENT ON FUNCTION kafka.header_value(kafka.header[], text) IS 'Value of the last header with this name; NULL when there is none.';
