-- name: try_lock
-- Two programs migrate one after the other. The class is that of all our advisory locks; number 0 is migration's.
SELECT pg_try_advisory_xact_lock(1885825894, 0);

-- name: lock_cluster
-- As above, where a stranger holds that lock.
SELECT 1 FROM kafka.cluster FOR UPDATE;

-- name: lock_timeout
SET LOCAL lock_timeout = '60s';

-- name: search_path
-- Whatever the role's own search_path, names without a schema are PostgreSQL's.
SET LOCAL search_path = pg_catalog;

-- name: server
SELECT current_setting('server_version_num')::int AS version_number,
       current_setting('server_version') AS version,
       pg_is_in_recovery() AS is_in_recovery,
       current_database() AS database,
       current_user AS role,
       (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()) AS encoding;

-- name: schema_state
-- Looks at the catalogue only, so that it works without any privilege in the schema. It reads the tables: what
-- to_regnamespace() answers comes from the session's cache, which may be older than the lock of try_lock.
SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = 'kafka') AS has_schema,
       EXISTS (SELECT FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid
               WHERE n.nspname = 'kafka' AND c.relname = 'cluster') AS has_cluster;

-- name: version
SELECT schema_version FROM kafka.cluster;

-- name: insert_cluster
-- pg_control_checkpoint() lags behind a promotion until the next checkpoint; the name of the current WAL file does not.
INSERT INTO kafka.cluster (cluster_id, schema_version, system_identifier, timeline)
SELECT $1, $2, -- as the query "identity" of sessions has it
       (SELECT system_identifier FROM pg_control_system())
           || '/' || (SELECT oid FROM pg_database WHERE datname = current_database()) || '/' || 'kafka.cluster'::regclass::oid,
       substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8);

-- name: set_version
UPDATE kafka.cluster SET schema_version = $1;

-- name: revoke_all
-- Functions are executable and types usable by PUBLIC unless revoked. ALTER DEFAULT PRIVILEGES does not help:
-- within a schema it can only add to the global defaults.
DO $$
DECLARE
    object record;
BEGIN
    REVOKE ALL ON ALL TABLES IN SCHEMA kafka FROM PUBLIC;
    REVOKE ALL ON ALL SEQUENCES IN SCHEMA kafka FROM PUBLIC;
    REVOKE ALL ON ALL ROUTINES IN SCHEMA kafka FROM PUBLIC;
    REVOKE ALL ON SCHEMA kafka, topics FROM PUBLIC;
    FOR object IN
        SELECT t.oid::regtype AS name FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
        WHERE t.typnamespace = 'kafka'::regnamespace AND t.typelem = 0 AND (c.oid IS NULL OR c.relkind = 'c')
    LOOP
        EXECUTE format('REVOKE ALL ON TYPE %s FROM PUBLIC', object.name);
    END LOOP;
END
$$;

-- name: grant_to_readers
-- PostgreSQL asks for EXECUTE on the functions in a view from whoever reads the view. These return no record.
GRANT EXECUTE ON FUNCTION kafka.is_unpacked(bigint), kafka.are_unpacked(), kafka.refuse_packed(bigint),
    kafka.config_fault(text, text, text), kafka.broker_value(kafka.config_keys),
    kafka.as_json(bytea), kafka.json_as_numeric(jsonb), kafka.json_as_bigint(jsonb), kafka.json_as_integer(jsonb), kafka.json_as_double(jsonb),
    kafka.json_as_boolean(jsonb), kafka.json_as_uuid(jsonb), kafka.json_as_timestamptz(jsonb), kafka.json_as_date(jsonb) TO PUBLIC;

-- name: forget_settings
DELETE FROM kafka.setting_names WHERE NOT (name = ANY ($1::text[]));

-- name: know_settings
INSERT INTO kafka.setting_names (name, description)
SELECT * FROM unnest($1::text[], $2::text[])
ON CONFLICT (name) DO UPDATE SET description = EXCLUDED.description
WHERE kafka.setting_names.description IS DISTINCT FROM EXCLUDED.description;

-- name: forget_configs
DELETE FROM kafka.config_keys WHERE NOT ((scope, name) IN (SELECT * FROM unnest($1::text[], $2::text[])));

-- name: know_configs
-- $1 is an array of objects with the columns' names.
INSERT INTO kafka.config_keys AS k
SELECT r.* FROM jsonb_populate_recordset(NULL::kafka.config_keys, $1::text::jsonb) AS r
ON CONFLICT (scope, name) DO UPDATE
SET type = EXCLUDED.type, default_value = EXCLUDED.default_value, minimum = EXCLUDED.minimum, maximum = EXCLUDED.maximum,
    also_allowed = EXCLUDED.also_allowed, choices = EXCLUDED.choices, pattern = EXCLUDED.pattern, form = EXCLUDED.form,
    must_be_set = EXCLUDED.must_be_set, synonyms = EXCLUDED.synonyms, bounds = EXCLUDED.bounds, unit_ms = EXCLUDED.unit_ms,
    effect = EXCLUDED.effect, refused = EXCLUDED.refused, is_dynamic = EXCLUDED.is_dynamic, documentation = EXCLUDED.documentation
WHERE k IS DISTINCT FROM EXCLUDED;

-- name: lock_holders
-- Who keeps us from the lock of try_lock. kafka.log need not be there.
SELECT l.pid, coalesce(a.usename, 'unknown')::text AS role, coalesce(a.application_name, '') AS application
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 1885825894 AND l.objid = 0 AND l.objsubid = 2
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) AND l.pid <> pg_catalog.pg_backend_pid();

-- name: owner
-- Who owns the schema, and whether this session may do as it does.
SELECT pg_catalog.pg_get_userbyid(n.nspowner)::text AS name, pg_catalog.pg_has_role(current_user, n.nspowner, 'USAGE') AS is_own
FROM pg_catalog.pg_namespace n WHERE n.nspname = 'kafka';

-- name: broker_role
-- Who owns the tables of segments, if that is another role than the owner of the log.
SELECT pg_catalog.pg_get_userbyid(s.relowner)::text FROM pg_catalog.pg_class s, pg_catalog.pg_class l
WHERE s.oid = to_regclass('kafka.log_0') AND l.oid = 'kafka.log'::regclass AND s.relowner <> l.relowner;

-- name: grant_broker
SELECT kafka.grant_broker($1);
