-- Wake-ups by LISTEN: a broker notifies a topic's channel after commits, for topics that somebody has asked for.
--
--     SELECT kafka.notify_on('orders');       once; it returns the channel
--     LISTEN kafka_topic_7;                   kafka.channel('orders')

CREATE OR REPLACE FUNCTION kafka.channel(topic text) RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    topic_id bigint;
BEGIN
    IF topic IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT t.id INTO topic_id FROM kafka.topics t WHERE t.name = channel.topic;
    IF topic_id IS NULL THEN
        RAISE EXCEPTION 'topic "%" does not exist', topic
            USING ERRCODE = 'KF001', HINT = 'SELECT name FROM kafka.topics tells which do.';
    END IF;
    -- A topic's name may be longer than a channel's, and a topic that is made again is another one.
    RETURN 'kafka_topic_' || topic_id;
END
$$;
COMMENT ON FUNCTION kafka.channel(text) IS 'The channel to LISTEN on for new records of a topic. kafka.notify_on() has it notified.';

CREATE OR REPLACE FUNCTION kafka.notify_on(topic text, is_on boolean DEFAULT true) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- In whose name the caller's statement runs; current_user is the owner in here.
    asking constant text := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
    found record;
BEGIN
    IF topic IS NULL OR is_on IS NULL THEN
        RAISE EXCEPTION 'topic and is_on must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'SELECT kafka.notify_on(''orders'', false) ends it.';
    END IF;
    SELECT t.id, coalesce(to_regclass('topics.' || quote_ident(t.view_name)), 'kafka.messages'::regclass) AS shown_by INTO found
    FROM kafka.topics t WHERE t.name = notify_on.topic;
    IF found.id IS NULL THEN
        RAISE EXCEPTION 'topic "%" does not exist', topic
            USING ERRCODE = 'KF001', HINT = 'SELECT name FROM kafka.topics tells which do.';
    ELSIF NOT has_table_privilege(asking, found.shown_by, 'SELECT') THEN
        RAISE EXCEPTION 'permission denied for topic "%"', topic
            USING ERRCODE = 'insufficient_privilege', HINT = format('GRANT SELECT ON %s TO %I', found.shown_by, asking);
    ELSIF is_on THEN
        INSERT INTO kafka.topic_notifications (topic_id) VALUES (found.id) ON CONFLICT DO NOTHING;
    ELSE
        DELETE FROM kafka.topic_notifications n WHERE n.topic_id = found.id;
    END IF;
    RETURN kafka.channel(topic);
END
$$;
COMMENT ON FUNCTION kafka.notify_on(text, boolean) IS
    'Have the channel of a topic notified when records have come, or not any more; returns the channel. Many commits may have one notification. Needs SELECT on the topic''s view. Brokers follow within a second or two.';
