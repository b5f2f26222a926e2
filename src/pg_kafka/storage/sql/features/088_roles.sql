-- Least privilege: an owner who migrates, and a role for brokers that cannot change the schema (docs/security.md, "PostgreSQL's side").
--
-- The owner has the schemas, the functions, the views and all tables but those of the log's segments. A broker must own these: VACUUM and
-- DETACH CONCURRENTLY are for owners alone, and run in no function. It makes them in the schema kafka_new, for it may create nothing in
-- kafka; the functions below move them to their place, attach them to kafka.log and take them out of it.

CREATE OR REPLACE FUNCTION kafka.adopt_table(table_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF table_name !~ '^log_[0-9]{1,19}(_[0-9]{1,10})?$' OR NOT EXISTS (
        SELECT FROM pg_class c WHERE c.relnamespace = to_regnamespace('kafka_new') AND c.relname = table_name AND c.relkind IN ('r', 'p')
    ) THEN
        RAISE EXCEPTION 'there is no table "%" of the log to take over', table_name USING ERRCODE = 'undefined_table';
    END IF;
    EXECUTE format('ALTER TABLE kafka_new.%I SET SCHEMA kafka', table_name);
END
$$;
COMMENT ON FUNCTION kafka.adopt_table(text) IS 'Move a new table of the log from schema kafka_new to schema kafka. For brokers that may create nothing there.';

CREATE OR REPLACE FUNCTION kafka.attach_series(series bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('ALTER TABLE kafka.log ATTACH PARTITION kafka.%I FOR VALUES IN (%s)', 'log_' || series, series);
END
$$;
COMMENT ON FUNCTION kafka.attach_series(bigint) IS 'Make the table of a series part of the log. For brokers that do not own kafka.log.';

CREATE OR REPLACE FUNCTION kafka.detach_series(series bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    is_pending boolean;
BEGIN
    IF series = 0 THEN
        RAISE EXCEPTION 'the shared series stays' USING ERRCODE = 'object_in_use';
    END IF;
    SELECT i.inhdetachpending INTO is_pending FROM pg_inherits i
    WHERE i.inhparent = 'kafka.log'::regclass AND i.inhrelid = to_regclass(format('kafka.%I', 'log_' || series));
    IF FOUND THEN
        EXECUTE format('ALTER TABLE kafka.log DETACH PARTITION kafka.%I %s', 'log_' || series, CASE WHEN is_pending THEN 'FINALIZE' END);
    END IF;
END
$$;
COMMENT ON FUNCTION kafka.detach_series(bigint) IS
    'Take the table of a deleted topic''s series out of the log, within the lock_timeout of the caller. For brokers that do not own kafka.log.';

CREATE OR REPLACE FUNCTION kafka.grant_broker(role name) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    object record;
    owner name := (SELECT pg_get_userbyid(n.nspowner) FROM pg_namespace n WHERE n.nspname = 'kafka');
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = grant_broker.role) THEN
        RAISE EXCEPTION 'role "%" does not exist', role
            USING ERRCODE = 'undefined_object', HINT = format('CREATE ROLE %I LOGIN PASSWORD ...', role);
    ELSIF NOT pg_has_role(current_user, owner, 'USAGE') THEN
        RAISE EXCEPTION 'only "%", who owns the schema kafka, gives rights in it', owner USING ERRCODE = 'insufficient_privilege';
    ELSIF role = owner THEN
        RAISE EXCEPTION 'role "%" owns the schema kafka and has all rights', role USING ERRCODE = 'invalid_parameter_value';
    ELSIF pg_has_role(role, owner, 'MEMBER') THEN
        RAISE EXCEPTION 'role "%" is a member of "%", or a superuser, and has all rights', role, owner
            USING ERRCODE = 'invalid_parameter_value';
    ELSIF NOT pg_has_role(owner, role, 'USAGE') THEN
        RAISE EXCEPTION 'role "%" cannot take over tables that "%" makes', owner, role
            USING ERRCODE = 'insufficient_privilege', HINT = format('GRANT %I TO %I', role, owner);
    END IF;
    BEGIN
        EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO %I', current_database(), role);
    EXCEPTION WHEN insufficient_privilege THEN
        -- Who does not own the database cannot; everybody has both unless they were taken away.
        IF NOT has_database_privilege(role, current_database(), 'CONNECT') OR NOT has_database_privilege(role, current_database(), 'TEMPORARY') THEN
            RAISE EXCEPTION 'role "%" needs CONNECT and TEMPORARY on the database', role
                USING ERRCODE = 'insufficient_privilege',
                      HINT = format('As its owner: GRANT CONNECT, TEMPORARY ON DATABASE %I TO %I', current_database(), role);
        END IF;
    END;
    CREATE SCHEMA IF NOT EXISTS kafka_new;
    COMMENT ON SCHEMA kafka_new IS 'pg_kafka: where a broker makes tables of the log, before they are moved to schema kafka.';
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA kafka_new TO %I', role);
    EXECUTE format('GRANT USAGE ON SCHEMA kafka, topics TO %I', role);
    FOR object IN
        SELECT c.oid::regclass AS name, c.relname, c.relkind FROM pg_class c
        WHERE c.relnamespace = 'kafka'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S') AND c.relname !~ '^log_[0-9]'
    LOOP
        EXECUTE format('GRANT %s ON %s TO %I', CASE
            WHEN object.relkind = 'v' THEN 'SELECT'
            WHEN object.relkind = 'S' THEN 'SELECT, USAGE, UPDATE'
            WHEN object.relname = 'audit_log' THEN 'INSERT'
            WHEN object.relname = 'cluster' THEN 'SELECT, UPDATE'
            WHEN object.relname ~ '_journal_[01]$' OR object.relname ~ '^(lag_minutes|sql_commits)_[0-3]$' OR object.relname = 'partition_checkpoints'
                OR object.relname ~ '^(outbox_[0-3]|deduplication_[01]|member_commits_[01])$' THEN 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE'
            ELSE 'SELECT, INSERT, UPDATE, DELETE' END, object.name, role);
    END LOOP;
    FOR object IN
        SELECT p.oid::regprocedure AS name FROM pg_proc p
        WHERE p.pronamespace = 'kafka'::regnamespace AND p.proname NOT IN ('grant_broker', 'grant_reader', 'grant_consumer', 'grant_producer')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', object.name, role);
    END LOOP;
    FOR object IN
        SELECT t.oid::regtype AS name FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
        WHERE t.typnamespace = 'kafka'::regnamespace AND t.typelem = 0 AND (c.oid IS NULL OR c.relkind = 'c')
    LOOP
        EXECUTE format('GRANT USAGE ON TYPE %s TO %I', object.name, role);
    END LOOP;
    -- Who gets a table must be able to create in its schema, at that moment.
    IF EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'kafka'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname ~ '^log_[0-9]'
                                        AND c.relowner <> (SELECT r.oid FROM pg_roles r WHERE r.rolname = grant_broker.role)) THEN
        EXECUTE format('GRANT CREATE ON SCHEMA kafka TO %I', role);
        FOR object IN
            SELECT c.oid::regclass AS name FROM pg_class c
            WHERE c.relnamespace = 'kafka'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname ~ '^log_[0-9]'
            ORDER BY c.relname
        LOOP
            EXECUTE format('ALTER TABLE %s OWNER TO %I', object.name, role);
        END LOOP;
    END IF;
    EXECUTE format('REVOKE CREATE ON SCHEMA kafka FROM %I', role);
END
$$;
COMMENT ON FUNCTION kafka.grant_broker(name) IS
    'Give a role all that a broker needs and no more: it owns the tables of the log''s segments from then on, and can change nothing else of the schema. For the owner of the schema, who must be a member of that role. May be repeated.';

CREATE OR REPLACE FUNCTION kafka.grant_reader(role name, topic text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    view_name text;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA kafka, topics TO %I', role);
    EXECUTE format('GRANT USAGE ON TYPE kafka.header TO %I', role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION kafka.read, kafka.locate, kafka.read_time, kafka.tail, kafka.segments_of_time, kafka.time_ms, kafka.latest, kafka.as_text, kafka.as_json, kafka.header_value TO %I', role);
    IF topic IS NOT NULL THEN
        SELECT t.view_name INTO view_name FROM kafka.topics t WHERE t.name = grant_reader.topic;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'topic "%" does not exist', topic USING ERRCODE = 'undefined_object';
        ELSIF view_name IS NULL THEN
            RAISE EXCEPTION 'topic "%" has no view', topic
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = 'The broker makes it moments after the topic; internal topics get none.';
        END IF;
        EXECUTE format('GRANT SELECT ON topics.%I TO %I', view_name, role);
        RETURN;
    END IF;
    EXECUTE format('GRANT SELECT ON kafka.messages, kafka.topics TO %I', role);
    FOR view_name IN SELECT t.view_name FROM kafka.topics t WHERE t.view_name IS NOT NULL ORDER BY 1 LOOP
        EXECUTE format('GRANT SELECT ON topics.%I TO %I', view_name, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION kafka.grant_reader(name, text) IS
    'Let a role read a topic by SQL; without a topic, kafka.messages and the views of all topics that there are now. For the owner of the schema.';
