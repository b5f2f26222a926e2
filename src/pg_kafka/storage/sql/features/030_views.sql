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

CREATE OR REPLACE FUNCTION kafka.topic_view_columns(topic text, view_name text)
RETURNS TABLE (name text, type text, expression text, is_stale boolean)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT coalesce(v.name, w.name), coalesce(v.type, w.type), w.expression, v.name IS NOT NULL AND w.type IS DISTINCT FROM v.type
    FROM (SELECT c.name, format_type(c.type::regtype, NULL) AS type, kafka.column_expression(c.type, c.path) AS expression,
                 10000 + c.position AS place
          FROM kafka.topic_columns c WHERE c.topic = topic_view_columns.topic
          UNION ALL
          SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), format('m.%I', a.attname), a.attnum
          FROM pg_attribute a
          WHERE a.attrelid = 'kafka.topic_messages'::regclass AND a.attnum > 0
            -- What a later version has brought gives way to what was defined before.
            AND NOT EXISTS (SELECT FROM kafka.topic_columns c WHERE c.topic = topic_view_columns.topic AND c.name = a.attname)) AS w
    FULL JOIN (SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnum AS place
               FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
               WHERE c.relnamespace = 'topics'::regnamespace AND c.relname = topic_view_columns.view_name AND a.attnum > 0
                 AND kafka.is_topic_view(topic_view_columns.view_name)) AS v ON v.name = w.name
    -- CREATE OR REPLACE VIEW takes new columns behind the old ones only: these keep their places.
    ORDER BY v.place NULLS LAST, w.place;
END
$$;
COMMENT ON FUNCTION kafka.topic_view_columns(text, text) IS
    'Part of kafka.create_topic_view(): the columns that a topic''s view gets, in order. is_stale: the view has one that is not wanted any more, or with another type.';

CREATE OR REPLACE FUNCTION kafka.make_topic_view(topic_id bigint, must_fit boolean) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    topic kafka.topics;
    made text;
    is_there boolean;
    has_columns boolean;
    shown text := 'm.*';
    kept text[];
    stands_on_it text;
    typed record;
    statement text;
BEGIN
    -- Locks the topic's row: a topic that is being deleted gets no view. The broker may write the row: this transaction may go on to wait
    -- until it has unpacked the topic's batches.
    SELECT * INTO topic FROM kafka.topics t WHERE t.id = topic_id FOR KEY SHARE;
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
    has_columns := EXISTS (SELECT FROM kafka.topic_columns c WHERE c.topic = topic.name);
    is_there := kafka.is_topic_view(made);
    -- Nobody else makes it meanwhile.
    IF is_there THEN
        PERFORM kafka.touch_topic_view(made);
    ELSE
        PERFORM FROM kafka.topics t WHERE t.id = topic_id FOR NO KEY UPDATE;
    END IF;
    IF is_there AND EXISTS (SELECT FROM kafka.topic_view_columns(topic.name, made) c WHERE c.is_stale) THEN
        -- A view loses a column, or gets it with another type, only by being made anew: with the rights, triggers and comments that it had.
        kept := ARRAY(
            SELECT format('GRANT %s ON topics.%I TO %s%s', x.privilege_type, made,
                          CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END,
                          CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' END)
            FROM pg_class c CROSS JOIN aclexplode(c.relacl) AS x
            WHERE c.oid = to_regclass('topics.' || quote_ident(made)) AND x.grantee <> c.relowner
            UNION ALL
            SELECT format('GRANT %s (%I) ON topics.%I TO %s%s', x.privilege_type, a.attname, made,
                          CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END,
                          CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' END)
            FROM pg_attribute a CROSS JOIN aclexplode(a.attacl) AS x
            WHERE a.attrelid = to_regclass('topics.' || quote_ident(made)) AND a.attnum > 0
              AND EXISTS (SELECT FROM kafka.topic_view_columns(topic.name, made) w WHERE w.name = a.attname AND w.expression IS NOT NULL)
            UNION ALL
            SELECT pg_get_triggerdef(g.oid) FROM pg_trigger g
            WHERE g.tgrelid = to_regclass('topics.' || quote_ident(made)) AND NOT g.tgisinternal AND g.tgname NOT IN ('produce', 'check_columns')
            UNION ALL
            SELECT format('COMMENT ON COLUMN topics.%I.%I IS %L', made, a.attname, col_description(a.attrelid, a.attnum)) FROM pg_attribute a
            WHERE a.attrelid = to_regclass('topics.' || quote_ident(made)) AND col_description(a.attrelid, a.attnum) IS NOT NULL
              AND EXISTS (SELECT FROM kafka.topic_view_columns(topic.name, made) w WHERE w.name = a.attname AND w.expression IS NOT NULL));
        BEGIN
            EXECUTE format('DROP VIEW topics.%I', made);
        EXCEPTION WHEN dependent_objects_still_exist THEN
            GET STACKED DIAGNOSTICS stands_on_it = PG_EXCEPTION_DETAIL;
            IF must_fit THEN
                RAISE EXCEPTION 'columns of topics.% cannot go or change their types while others stand on it', quote_ident(made)
                    USING ERRCODE = 'KF021', DETAIL = stands_on_it,
                          HINT = 'Drop what stands on it, change the columns, and make it again, in one transaction. Columns can be added at any time.';
            END IF;
            kept := NULL;
        END;
    END IF;
    IF is_there OR has_columns THEN
        -- What somebody's view stands on, and nobody defines any more, is NULL.
        shown := (SELECT string_agg(format('%s AS %I', CASE WHEN c.is_stale THEN 'NULL::' || c.type ELSE c.expression END, c.name), ', ' ORDER BY c.n)
                  FROM kafka.topic_view_columns(topic.name, made) WITH ORDINALITY AS c (name, type, expression, is_stale, n));
    END IF;
    -- OR REPLACE: views of users may still stand on that of a deleted topic with this name; they follow to the new one.
    EXECUTE format('CREATE OR REPLACE VIEW topics.%I AS SELECT %s FROM kafka.topic_messages m', made, shown)
        || CASE WHEN has_columns
                -- The value is parsed once for each record that passes the other conditions, and not at all when nobody asks for a column of it.
                -- A volatile condition, which is never evaluated, keeps the planner from remembering answers by value.
                THEN ' CROSS JOIN LATERAL (SELECT kafka.as_json(m.value) AS document, true AS is_there OFFSET 0) AS d' ELSE '' END
        || format(' WHERE m.series IN (0, %s) AND m.topic_id = %s AND kafka.is_unpacked(%s)', topic.id, topic.id, topic.id)
        || CASE WHEN has_columns THEN ' AND (d.is_there OR random() < 0)' ELSE '' END;
    IF kept IS NOT NULL THEN
        FOR statement IN
            -- What default privileges have given is not what the view had.
            SELECT DISTINCT format('REVOKE ALL ON topics.%I FROM %s', made,
                                   CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END)
            FROM pg_class c CROSS JOIN aclexplode(c.relacl) AS x
            WHERE c.oid = to_regclass('topics.' || quote_ident(made)) AND x.grantee <> c.relowner
        LOOP
            EXECUTE statement;
        END LOOP;
        FOREACH statement IN ARRAY kept LOOP
            EXECUTE statement;
        END LOOP;
    END IF;
    EXECUTE format('CREATE OR REPLACE TRIGGER produce INSTEAD OF INSERT ON topics.%I FOR EACH ROW EXECUTE FUNCTION kafka.produce_inserted(%L)',
                   made, topic.id);
    IF has_columns THEN
        -- Triggers run in the order of their names.
        EXECUTE format('CREATE OR REPLACE TRIGGER check_columns INSTEAD OF INSERT ON topics.%I FOR EACH ROW EXECUTE FUNCTION kafka.refuse_columns(%L)',
                       made, topic.name);
    ELSIF EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = to_regclass('topics.' || quote_ident(made)) AND g.tgname = 'check_columns') THEN
        EXECUTE format('DROP TRIGGER check_columns ON topics.%I', made);
    END IF;
    EXECUTE format('COMMENT ON VIEW topics.%I IS %L', made, format('Records of topic %s (id %s).', topic.name, topic.id));
    FOR typed IN SELECT c.name, c.path FROM kafka.topic_columns c WHERE c.topic = topic.name LOOP
        EXECUTE format('COMMENT ON COLUMN topics.%I.%I IS %L', made, typed.name,
                       format('%s of the value. NULL where there is none, and where it does not fit the type.', typed.path));
    END LOOP;
    UPDATE kafka.deleted_topics d SET view_name = NULL WHERE d.view_name = made;
    UPDATE kafka.topics t SET view_name = made WHERE t.id = topic_id AND t.view_name IS DISTINCT FROM made;
    RETURN made;
END
$$;
COMMENT ON FUNCTION kafka.make_topic_view(bigint, boolean) IS
    'Part of kafka.create_topic_view() and kafka.define_columns(). must_fit: an error when others stand on columns that should go; otherwise these become NULL.';

CREATE OR REPLACE FUNCTION kafka.create_topic_view(topic_id bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN kafka.make_topic_view(topic_id, false);
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
        EXECUTE format('CREATE OR REPLACE VIEW topics.%I AS SELECT %s FROM kafka.topic_messages WHERE false', view_name, (
            SELECT string_agg(format('NULL::%s AS %I', format_type(a.atttypid, a.atttypmod), a.attname), ', ' ORDER BY a.attnum)
            FROM pg_attribute a WHERE a.attrelid = to_regclass('topics.' || quote_ident(view_name)) AND a.attnum > 0));
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
