-- Version 5: offsets that members commit by SQL, and topics that notify. See schema/103_member_commits.sql.
-- Locks: none that anybody waits for.

CREATE SEQUENCE kafka.member_commit_ids AS bigint;
COMMENT ON SEQUENCE kafka.member_commit_ids IS
    'Numbers of commits. Taken under the lock of a group''s partition, so that they grow there in the order of the transactions'' ends.';

CREATE TABLE kafka.member_commits_0 (
    id                bigint  NOT NULL DEFAULT nextval('kafka.member_commit_ids'),
    xid               xid8    NOT NULL DEFAULT pg_current_xact_id(),
    group_id          text    NOT NULL,
    topic_id          bigint  NOT NULL,
    partition_id      integer NOT NULL,
    committed_offset  bigint  NOT NULL,
    leader_epoch      integer NOT NULL DEFAULT -1,
    metadata          text    NOT NULL DEFAULT '',
    committed_at      timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE INDEX member_commits_0_xid ON kafka.member_commits_0 (xid);
COMMENT ON TABLE kafka.member_commits_0 IS
    'Offsets of consumer groups from kafka.commit_offsets(), until brokers have taken them over. Read kafka.consumer_offsets instead.';
COMMENT ON COLUMN kafka.member_commits_0.xid IS 'The transaction; brokers look for those that have ended since their last look.';
COMMENT ON COLUMN kafka.member_commits_0.committed_offset IS 'Next offset to consume.';
COMMENT ON COLUMN kafka.member_commits_0.leader_epoch IS 'Of the last record consumed; -1 when it was not given.';

CREATE TABLE kafka.member_commits_1 (LIKE kafka.member_commits_0 INCLUDING DEFAULTS INCLUDING COMMENTS)
WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE INDEX member_commits_1_xid ON kafka.member_commits_1 (xid);
COMMENT ON TABLE kafka.member_commits_1 IS 'Takes turns with kafka.member_commits_0.';

CREATE TABLE kafka.member_commits_turn (
    only_row  boolean  PRIMARY KEY DEFAULT true CHECK (only_row),
    active    smallint NOT NULL DEFAULT 0 CHECK (active IN (0, 1)),
    since     timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO kafka.member_commits_turn DEFAULT VALUES;
COMMENT ON TABLE kafka.member_commits_turn IS 'One row: which table of kafka.member_commits is written, and since when.';

CREATE TABLE kafka.topic_notifications (
    topic_id  bigint PRIMARY KEY  -- no foreign key: a transaction that stays open must not keep a topic from being deleted
);
COMMENT ON TABLE kafka.topic_notifications IS 'Topics whose new records are told by NOTIFY. Change it with kafka.notify_on().';
CREATE TRIGGER note_new AFTER INSERT OR DELETE ON kafka.topic_notifications
FOR EACH ROW EXECUTE FUNCTION kafka.note_named('notification', 'topic_id');
