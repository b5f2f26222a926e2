-- The view of a topic. Made and removed by the janitor; nobody else needs to call these.
--
-- SECURITY DEFINER: views belong to the owner of the schema, whoever the broker is.

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
                        AND d.refclassid = 'pg_class'::regclass
                        AND d.refobjid IN ('kafka.topic_messages'::regclass, 'kafka.messages'::regclass)
        WHERE c.relnamespace = 'topics'::regnamespace AND c.relname = view_name AND c.relkind = 'v');
END;
COMMENT ON FUNCTION kafka.is_topic_view(text) IS 'Is there a view with this name in schema topics that shows records?';

CREATE OR REPLACE FUNCTION kafka.create_topic_view(topic_id bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
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
        'CREATE OR REPLACE VIEW topics.%I AS SELECT * FROM kafka.topic_messages
         WHERE series IN (0, %s) AND topic_id = %s AND kafka.is_unpacked(%s)', made, topic.id, topic.id, topic.id);
    EXECUTE format('COMMENT ON VIEW topics.%I IS %L', made, format('Records of topic %s (id %s).', topic.name, topic.id));
    UPDATE kafka.deleted_topics d SET view_name = NULL WHERE d.view_name = made;
    UPDATE kafka.topics t SET view_name = made WHERE t.id = topic_id;
    EXECUTE format('CREATE OR REPLACE TRIGGER produce INSTEAD OF INSERT ON topics.%I
                    FOR EACH ROW EXECUTE FUNCTION kafka.produce_inserted(%s)', made, topic.id);
    RETURN made;
END
$$;
COMMENT ON FUNCTION kafka.create_topic_view(bigint) IS 'Make the view of a topic in schema topics; returns its name.';

CREATE OR REPLACE FUNCTION kafka.drop_topic_view(view_name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF kafka.is_topic_view(view_name) THEN
        EXECUTE format('DROP VIEW IF EXISTS topics.%I', view_name);
    END IF;
    RETURN true;
EXCEPTION
    WHEN dependent_objects_still_exist THEN
        EXECUTE format('CREATE OR REPLACE VIEW topics.%I AS SELECT * FROM kafka.topic_messages WHERE false', view_name);
        EXECUTE format('COMMENT ON VIEW topics.%I IS %L', view_name, 'Its topic was deleted; a view of yours stands on it.');
        RETURN false;
END
$$;
COMMENT ON FUNCTION kafka.drop_topic_view(text) IS
    'Remove the view of a deleted topic; false when a user''s view depends on it: then it stays, empty.';

CREATE OR REPLACE FUNCTION kafka.touch_topic_view(view_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF kafka.is_topic_view(view_name) THEN
        EXECUTE format('ALTER VIEW topics.%I RESET (check_option)', view_name);
    END IF;
END
$$;
COMMENT ON FUNCTION kafka.touch_topic_view(text) IS
    'Change nothing, but have plans that sessions keep for a topic''s view made anew. ACCESS EXCLUSIVE until the end of the transaction.';
