-- Consumer groups. Their state changes often, so it is appended to journals, and the owner of a group has it in memory.
--
-- A journal has two tables, _0 and _1. One is written. When it has grown to several times what in it still counts, the
-- other is written from then on (kafka.journals: switched), what counts is copied there (copied), and the first is
-- truncated (steady). Copies keep their entry number, so at any time the highest number of a key in both tables counts.
-- Dead rows that a long-held snapshot would keep alive do not arise.

CREATE SEQUENCE kafka.journal_entries AS bigint MINVALUE 0 START 0 INCREMENT BY 1048576;
COMMENT ON SEQUENCE kafka.journal_entries IS 'Blocks of numbers of journal entries; each value is the first of 1048576.';

CREATE TABLE kafka.journals (
    journal    text PRIMARY KEY CHECK (journal IN ('offsets', 'groups', 'history', 'transactions', 'relay')),
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

INSERT INTO kafka.journals (journal) VALUES ('offsets'), ('groups'), ('history'), ('transactions'), ('relay');

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
