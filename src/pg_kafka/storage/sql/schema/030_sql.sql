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

CREATE TABLE kafka.offset_journal (
    entry             bigint GENERATED ALWAYS AS IDENTITY,
    group_id          text    NOT NULL,
    topic_id          bigint  NOT NULL,
    partition_id      integer NOT NULL,
    committed_offset  bigint,
    leader_epoch      integer,
    metadata          text    NOT NULL DEFAULT '',
    committed_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX offset_journal_latest ON kafka.offset_journal (group_id, topic_id, partition_id, entry DESC);
COMMENT ON TABLE kafka.offset_journal IS
    'Commits of consumer groups, appended only: the entry with the highest number counts. Read it through kafka.consumer_offsets.';
COMMENT ON COLUMN kafka.offset_journal.committed_offset IS 'Next offset to consume; NULL when the commit was deleted or has expired.';
