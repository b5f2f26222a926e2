-- Consumer groups that are driven by SQL (features/102_poll.sql), and their commits.
--
-- A commit is a row that the consuming transaction appends: what rolls back has not consumed. Nothing is updated, so a snapshot that
-- somebody holds for hours keeps no dead rows. Four tables take turns. When the active one has grown, another one is written from then
-- on, while both are read: transactions that are open may still commit to the first. When none is left there, what counts in it is
-- copied to the active one, nobody looks into it any more, and it is truncated (upkeep/sql_commits.py). A transaction that stays open
-- keeps the tables that it has used, and no others.

CREATE TABLE kafka.sql_groups (
    group_id     text PRIMARY KEY CHECK (octet_length(group_id) BETWEEN 1 AND 2000),
    number       bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    created_by   name NOT NULL DEFAULT session_user,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    polled_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE kafka.sql_groups IS
    'Consumer groups that are driven by SQL. The first kafka.poll() or kafka.seek() of a group adds it; a group that is not in here belongs to Kafka''s clients.';
COMMENT ON COLUMN kafka.sql_groups.number IS 'What its commits go by. A group that is deleted and made again has another number, and no commits.';
COMMENT ON COLUMN kafka.sql_groups.polled_at IS
    'About when it was polled last: a transaction that polls moves it when it is older than ten minutes. A group is removed offsets.retention.minutes after that and after its last commit.';

CREATE TABLE kafka.sql_group_topics (
    group_number  bigint NOT NULL REFERENCES kafka.sql_groups (number) ON DELETE CASCADE,
    topic_id      bigint NOT NULL,
    PRIMARY KEY (group_number, topic_id)
);
COMMENT ON TABLE kafka.sql_group_topics IS
    'Topics that a group driven by SQL has begun to read. From then on a partition without a commit is read from its beginning, also one that was added later.';

CREATE TABLE kafka.sql_commits_0 (
    group_number   bigint  NOT NULL,
    topic_id       bigint  NOT NULL,
    commit_number  bigint  NOT NULL,
    next_offset    bigint,
    committed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    partition_id   integer NOT NULL,
    UNIQUE (group_number, topic_id, partition_id, commit_number)
) WITH (autovacuum_vacuum_insert_threshold = -1);
COMMENT ON TABLE kafka.sql_commits_0 IS 'Commits of groups driven by SQL, appended only. Read them through kafka.consumer_offsets.';
COMMENT ON COLUMN kafka.sql_commits_0.commit_number IS
    'Of the commits of one partition the highest counts. Each transaction adds one to what it sees: two that have seen the same collide, and one of them fails.';
COMMENT ON COLUMN kafka.sql_commits_0.next_offset IS 'Next offset to consume; NULL when the commit was deleted.';

CREATE TABLE kafka.sql_commits_1 (LIKE kafka.sql_commits_0 INCLUDING DEFAULTS INCLUDING INDEXES INCLUDING COMMENTS)
WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE TABLE kafka.sql_commits_2 (LIKE kafka.sql_commits_0 INCLUDING DEFAULTS INCLUDING INDEXES INCLUDING COMMENTS)
WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE TABLE kafka.sql_commits_3 (LIKE kafka.sql_commits_0 INCLUDING DEFAULTS INCLUDING INDEXES INCLUDING COMMENTS)
WITH (autovacuum_vacuum_insert_threshold = -1);
COMMENT ON TABLE kafka.sql_commits_1 IS 'Takes turns with kafka.sql_commits_0.';
COMMENT ON TABLE kafka.sql_commits_2 IS 'Takes turns with kafka.sql_commits_0.';
COMMENT ON TABLE kafka.sql_commits_3 IS 'Takes turns with kafka.sql_commits_0.';

CREATE TABLE kafka.sql_commit_state (
    only_row    boolean    PRIMARY KEY DEFAULT true CHECK (only_row),
    turn        bigint     NOT NULL DEFAULT 0,
    active      smallint   NOT NULL DEFAULT 0 CHECK (active BETWEEN 0 AND 3),
    counting    smallint[] NOT NULL DEFAULT '{0}',
    copied_at   timestamptz[] NOT NULL DEFAULT array_fill(NULL::timestamptz, ARRAY[4]) CHECK (cardinality(copied_at) = 4),
    live_bytes  bigint     NOT NULL DEFAULT 0,
    CONSTRAINT sql_commit_state_check CHECK (active = ANY (counting))
);
INSERT INTO kafka.sql_commit_state DEFAULT VALUES;
COMMENT ON TABLE kafka.sql_commit_state IS 'One row: which of the four tables of commits is written, and which are read.';
COMMENT ON COLUMN kafka.sql_commit_state.turn IS 'Grows with each change of this row.';
COMMENT ON COLUMN kafka.sql_commit_state.counting IS 'Tables with commits that no other one has: the active one, and older ones in which transactions may still be open.';
COMMENT ON COLUMN kafka.sql_commit_state.copied_at IS
    'Of each table, from 0: since when other tables have all that counts in it. It is truncated when nobody uses it any more, and is NULL then.';
COMMENT ON COLUMN kafka.sql_commit_state.live_bytes IS 'Size of what still counted when a table was copied last.';

CREATE SEQUENCE kafka.sql_commit_turns AS bigint MINVALUE 0 START 0;
COMMENT ON SEQUENCE kafka.sql_commit_turns IS
    'Its last value is kafka.sql_commit_state.turn, and everybody sees it at once: so a transaction with an older snapshot learns that it must not go by what it sees.';

CREATE TRIGGER note_new AFTER INSERT OR DELETE ON kafka.sql_groups
FOR EACH ROW EXECUTE FUNCTION kafka.note_named('sql group', 'group_id');
