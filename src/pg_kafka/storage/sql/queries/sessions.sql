-- Sessions: pinning and fencing. Locks are (1885825894, number from kafka.lock_ids).

-- name: current_settings
-- Read back what is pinned. A value with another source than the session's own may change while the session lives.
SELECT name, setting, source IN ('client', 'session') AS is_own FROM pg_catalog.pg_settings WHERE name = ANY ($1::text[]);

-- name: pin
-- Set one parameter for the session.
SELECT pg_catalog.set_config($1, $2, false);

-- name: plan_once
-- From here on each prepared statement of the session keeps its first plan (storage/prepared.py).
SET plan_cache_mode = force_generic_plan;

-- name: identity
-- Where the session is: a change of any of the first three is a failover, a restore or a restart. A dump brings its own
-- copy of the server's number along, so that of the database and that of a table are part of it: a restore makes both anew.
SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system())::text
           || '/' || (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
           || '/' || coalesce((SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                               WHERE n.nspname = 'kafka' AND c.relname = 'cluster'), 0) AS system_identifier,
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL
            ELSE pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END AS timeline,
       pg_catalog.pg_postmaster_start_time() AS started_at,
       pg_catalog.pg_is_in_recovery() AS in_recovery,
       pg_catalog.pg_backend_pid() AS pid;

-- name: next_lock_id
SELECT nextval('kafka.lock_ids')::integer;

-- name: skip_lock_ids
-- Go on at a place that nobody can know beforehand.
SELECT setval('kafka.lock_ids', 1 + floor(random() * 2147483646)::bigint);

-- name: lock_shared
SELECT pg_catalog.pg_advisory_lock_shared(1885825894, $1);

-- name: try_lock_exclusive
SELECT pg_catalog.pg_try_advisory_lock(1885825894, $1);

-- name: incarnation_status
SELECT status, beats FROM kafka.brokers WHERE incarnation = $1;

-- name: terminate_holder
-- End the backend $2 if it still holds one of the locks $1: its number may be another backend's by now.
SELECT pg_catalog.pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks l
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 1885825894 AND l.objid IN (SELECT n::oid FROM unnest($1::integer[]) n)
  AND l.objsubid = 2
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND l.pid = $2;

-- name: holds_lock_still
-- Does the backend $2 hold the lock $1?
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_locks l
    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 1885825894 AND l.objid = $1::integer::oid AND l.objsubid = 2
      AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) AND l.pid = $2
);

-- name: clear_activity
-- Within a transaction pg_stat_activity stays as it was at the first look, unless it is cleared.
SELECT pg_catalog.pg_stat_clear_snapshot();

-- name: lock_users
-- Backends that hold the locks $1, or wait for them, and whether their roles may write the log, by themselves or as another role.
-- A backend that pg_stat_activity does not show is about to end; it counts as one that may write.
SELECT l.pid, l.granted, l.mode = 'ExclusiveLock' AS is_exclusive, coalesce(a.usename, 'unknown')::text AS role,
       coalesce(a.application_name, '') AS application,
       a.usesysid IS NULL OR EXISTS (
           SELECT FROM pg_catalog.pg_roles r
           WHERE pg_catalog.has_table_privilege(r.oid, 'kafka.log', 'INSERT')
             AND pg_catalog.pg_has_role(a.usesysid, r.oid, 'MEMBER')
       ) AS may_write
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.classid = 1885825894 AND l.objid IN (SELECT n::oid FROM unnest($1::integer[]) n)
  AND l.objsubid = 2 AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND l.pid <> pg_catalog.pg_backend_pid()
ORDER BY l.pid;

-- name: terminate_lost
-- As terminate_holder, but one that waits for a synchronous standby is left alone: it has committed on this server, and
-- ends by itself when the standby is back.
SELECT pg_catalog.pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks l
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 1885825894 AND l.objid = $1::integer::oid AND l.objsubid = 2
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND l.pid = $2
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.pid = l.pid AND a.wait_event = 'SyncRep');

-- name: backend_activity
-- What a backend does, what it waits for, and which backends keep it waiting for a lock. A statement that it has not
-- read yet, as it was stopped before, shows as state idle; one that computes waits for nothing.
SELECT state, coalesce(wait_event_type || '/' || wait_event, 'nothing') AS waits_for,
       pg_catalog.array_to_string(pg_catalog.pg_blocking_pids(pid), ',') AS blocked_by
FROM pg_catalog.pg_stat_activity WHERE pid = $1;
