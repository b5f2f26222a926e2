-- Sessions: pinning and fencing. Locks are (1885825894, number from kafka.lock_ids).

-- name: current_settings
-- Read back what is pinned.
SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY ($1::text[]);

-- name: pin
-- Set one parameter for the session.
SELECT pg_catalog.set_config($1, $2, false);

-- name: identity
-- Where the session is: a change of any of the first three is a failover, a restore or a restart.
SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system())::text AS system_identifier,
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL
            ELSE pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END AS timeline,
       pg_catalog.pg_postmaster_start_time() AS started_at,
       pg_catalog.pg_is_in_recovery() AS in_recovery,
       pg_catalog.pg_backend_pid() AS pid;

-- name: next_lock_id
SELECT nextval('kafka.lock_ids')::integer;

-- name: lock_shared
SELECT pg_catalog.pg_advisory_lock_shared(1885825894, $1);

-- name: lock_exclusive
SELECT pg_catalog.pg_advisory_lock(1885825894, $1);

-- name: unlock_exclusive
SELECT pg_catalog.pg_advisory_unlock(1885825894, $1);

-- name: try_lock_exclusive
SELECT pg_catalog.pg_try_advisory_lock(1885825894, $1);

-- name: incarnation_status
SELECT status FROM kafka.brokers WHERE incarnation = $1;

-- name: terminate
-- End a backend of ours that was lost; false when it is gone already.
SELECT pg_catalog.pg_terminate_backend($1);
