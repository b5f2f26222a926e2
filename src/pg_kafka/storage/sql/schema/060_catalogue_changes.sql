-- What changes in the catalogue: topics, settings, configs of groups. Brokers and operators learn it here without rereading all.
--
-- No counter that each change updates: one SQL user's open transaction would hold up everybody else's changes. And no reader goes by
-- the number alone: number 7 may be there while 6 is not committed yet. A reader remembers the snapshot of its last look, and asks
-- for what is visible and was not visible in that (queries/catalogue.sql).

CREATE TABLE kafka.catalogue_changes (
    number          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind            text  NOT NULL,
    object_id       bigint,
    name            text  NOT NULL,
    what            text  NOT NULL CHECK (what IN ('created', 'changed', 'deleted')),
    changed_by      name  NOT NULL DEFAULT session_user,
    application     text  NOT NULL DEFAULT current_setting('application_name'),
    changed_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    transaction_id  xid8  NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX catalogue_changes_transaction ON kafka.catalogue_changes (transaction_id);
COMMENT ON TABLE kafka.catalogue_changes IS
    'Who has created, changed or deleted topics, settings of brokers and configs of groups, and when; some 10,000 changes are kept. Written by triggers, also for changes by SQL.';
COMMENT ON COLUMN kafka.catalogue_changes.number IS 'Grows, but not in the order of commits: a transaction that has stayed open adds lower numbers later.';
COMMENT ON COLUMN kafka.catalogue_changes.kind IS 'topic, setting, group config, sql group: a consumer group that SQL drives, notification: a topic that notifies, client metrics, user, acl, quota, or log start: where partitions of a topic begin.';
COMMENT ON COLUMN kafka.catalogue_changes.object_id IS 'kafka.topics.id of a topic or a log start; NULL for what is known by its name alone.';
COMMENT ON COLUMN kafka.catalogue_changes.what IS 'changed, of a topic: its configs or its number of partitions.';
COMMENT ON COLUMN kafka.catalogue_changes.changed_by IS 'Role that the session belongs to. What clients of Kafka ask for has the broker''s role.';
COMMENT ON COLUMN kafka.catalogue_changes.application IS 'application_name of the session; brokers call theirs pg_kafka.';
COMMENT ON COLUMN kafka.catalogue_changes.transaction_id IS 'By it and the snapshot of its last look a reader finds what has been committed since then. 0 when it came with a dump of another server.';

CREATE TABLE kafka.catalogue_forgotten (
    only_row        boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    transaction_id  xid8 NOT NULL DEFAULT '0',
    newest          xid8 NOT NULL DEFAULT '0'
);
INSERT INTO kafka.catalogue_forgotten DEFAULT VALUES;
COMMENT ON TABLE kafka.catalogue_forgotten IS 'One row: how far kafka.catalogue_changes lacks old changes. Who has not looked since then rereads everything.';
COMMENT ON COLUMN kafka.catalogue_forgotten.transaction_id IS 'The transaction that has removed changes last.';
COMMENT ON COLUMN kafka.catalogue_forgotten.newest IS 'The newest transaction of which a change was removed.';

-- All are SECURITY DEFINER: who may change a topic or setting need not have a right on kafka.catalogue_changes.
CREATE FUNCTION kafka.note_topics() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO kafka.catalogue_changes (kind, object_id, name, what)
    SELECT 'topic', n.id, n.name, CASE TG_OP WHEN 'INSERT' THEN 'created' ELSE 'deleted' END FROM noted n ORDER BY n.id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.note_topics() IS 'Trigger of kafka.topics: notes topics that one statement has created or deleted.';

CREATE FUNCTION kafka.note_changed_topic() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO kafka.catalogue_changes (kind, object_id, name, what) VALUES ('topic', NEW.id, NEW.name, 'changed');
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.note_changed_topic() IS 'Trigger of kafka.topics: notes a topic whose configs or partitions have changed.';

CREATE FUNCTION kafka.note_named() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO kafka.catalogue_changes (kind, name, what)
    VALUES (TG_ARGV[0], to_jsonb(CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END) ->> TG_ARGV[1],
            CASE TG_OP WHEN 'INSERT' THEN 'created' WHEN 'UPDATE' THEN 'changed' ELSE 'deleted' END);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.note_named() IS 'Trigger of tables whose rows are known by their names: notes what has become of a row.';

CREATE TRIGGER note_created AFTER INSERT ON kafka.topics
REFERENCING NEW TABLE AS noted FOR EACH STATEMENT EXECUTE FUNCTION kafka.note_topics();
CREATE TRIGGER note_deleted AFTER DELETE ON kafka.topics
REFERENCING OLD TABLE AS noted FOR EACH STATEMENT EXECUTE FUNCTION kafka.note_topics();
-- A view or a series that the janitor has made is no change of a topic.
CREATE TRIGGER note_changed AFTER UPDATE OF configs, partitions ON kafka.topics
FOR EACH ROW WHEN (OLD.configs IS DISTINCT FROM NEW.configs OR OLD.partitions IS DISTINCT FROM NEW.partitions)
EXECUTE FUNCTION kafka.note_changed_topic();

CREATE TRIGGER note_new AFTER INSERT OR DELETE ON kafka.settings
FOR EACH ROW EXECUTE FUNCTION kafka.note_named('setting', 'name');
CREATE TRIGGER note_changed AFTER UPDATE ON kafka.settings
FOR EACH ROW WHEN (OLD IS DISTINCT FROM NEW) EXECUTE FUNCTION kafka.note_named('setting', 'name');
CREATE TRIGGER note_new AFTER INSERT OR DELETE ON kafka.group_configs
FOR EACH ROW EXECUTE FUNCTION kafka.note_named('group config', 'group_id');
CREATE TRIGGER note_changed AFTER UPDATE ON kafka.group_configs
FOR EACH ROW WHEN (OLD IS DISTINCT FROM NEW) EXECUTE FUNCTION kafka.note_named('group config', 'group_id');
