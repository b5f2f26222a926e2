-- Settings kept in the database, and what `doctor` asks.

-- name: stored
-- Parameters that a superuser has set, with a node_id of NULL; then kafka.settings, whose node_id is 0 for all brokers.
SELECT name, pg_catalog.current_setting(name, true) AS value, NULL::integer AS node_id FROM kafka.setting_names
WHERE pg_catalog.current_setting(name, true) <> ''
UNION ALL
SELECT name, value, node_id FROM kafka.settings;

-- name: change_for
-- For one node, or 0 for all: the names $2 go, the names $3 have the values $4. Locks: their rows.
WITH gone AS (DELETE FROM kafka.settings WHERE node_id = $1 AND name = ANY ($2::text[]))
INSERT INTO kafka.settings AS s (name, value, node_id)
SELECT n, v, $1 FROM unnest($3::text[], $4::text[]) AS u (n, v) ORDER BY n
ON CONFLICT (name, node_id) DO UPDATE SET value = EXCLUDED.value WHERE s.value <> EXCLUDED.value;

-- name: publish
-- What is in force on node $1: these are all that it has. What is left of nodes that are gone goes.
WITH gone AS (
    DELETE FROM kafka.broker_configs b
    WHERE b.node_id = $1 AND b.name <> ALL ($2::text[])
       OR b.node_id <> $1 AND NOT EXISTS (SELECT FROM kafka.brokers r WHERE r.node_id = b.node_id AND r.status = 'live')
)
INSERT INTO kafka.broker_configs AS b (node_id, name, value, source)
SELECT $1, n, v, s FROM unnest($2::text[], $3::text[], $4::text[]) AS u (n, v, s)
ON CONFLICT (node_id, name) DO UPDATE SET value = EXCLUDED.value, source = EXCLUDED.source
WHERE (b.value, b.source) IS DISTINCT FROM (EXCLUDED.value, EXCLUDED.source);

-- name: sync_standbys
-- Standbys that a COMMIT waits for. Without the right to see them their rows hold NULLs.
SELECT pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS may_see,
       (SELECT count(*) FROM pg_catalog.pg_stat_replication
        WHERE sync_state IN ('sync', 'quorum') AND state = 'streaming')::integer AS connected;

-- name: lock_timeout
-- For doctor: whoever holds a lock on tables for long must not keep it from being said.
SELECT pg_catalog.set_config('lock_timeout', '1s', false);

-- name: server
SELECT current_setting('server_version_num')::integer AS version,
       current_setting('server_version') AS version_text,
       current_setting('server_encoding') AS encoding,
       current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('max_locks_per_transaction')::integer AS max_locks,
       current_setting('max_connections')::integer
           - current_setting('superuser_reserved_connections')::integer AS max_connections,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend')::integer AS connections,
       (SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = current_user) AS role_limit,
       (SELECT datconnlimit FROM pg_catalog.pg_database WHERE datname = current_database()) AS database_limit,
       has_database_privilege(current_database(), 'CREATE') AS can_create,
       to_regclass('kafka.cluster') IS NOT NULL AS has_schema,
       -- Roles that may connect only because everybody may, and are not the broker's.
       EXISTS (SELECT FROM pg_catalog.pg_roles r
               WHERE r.rolcanlogin AND NOT r.rolsuper AND NOT pg_catalog.pg_has_role(r.oid, current_user, 'MEMBER')
                 AND has_database_privilege('public', current_database(), 'CONNECT')) AS is_open_to_strangers,
       pg_catalog.pg_is_in_recovery() AS in_recovery,
       current_database() AS database, current_user AS role;

-- name: schema_version
SELECT schema_version FROM kafka.cluster;

-- name: backend_pid
SELECT pg_catalog.pg_backend_pid();

-- name: try_lock
SELECT pg_catalog.pg_try_advisory_lock(1885825894, $1);

-- name: holds_lock
-- Does this very backend hold the session lock that this very client took?
SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted AND classid = 1885825894
               AND objid = $1::integer::oid AND pid = pg_catalog.pg_backend_pid());

-- name: unlock
SELECT pg_catalog.pg_advisory_unlock(1885825894, $1);
