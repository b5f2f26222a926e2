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
