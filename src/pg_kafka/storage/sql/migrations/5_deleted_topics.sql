-- Version 5: topics that SQL deletes are freed as those that Kafka's clients delete.
-- Locks: SHARE ROW EXCLUSIVE on kafka.topics, for a moment.

CREATE FUNCTION kafka.keep_deleted_topics() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO kafka.deleted_topics (id, name, series, view_name)
    SELECT g.id, g.name, g.series, g.view_name FROM gone g ORDER BY g.id
    ON CONFLICT (id) DO NOTHING;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.keep_deleted_topics() IS 'Trigger of kafka.topics: whoever deletes topics, the janitor frees what they hold.';
CREATE TRIGGER keep_deleted AFTER DELETE ON kafka.topics
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION kafka.keep_deleted_topics();
COMMENT ON TABLE kafka.deleted_topics IS 'Topics whose rows are still to be freed by the janitor. A trigger of kafka.topics fills it.';
