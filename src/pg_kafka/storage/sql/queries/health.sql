-- What `doctor` asks about the health of a server: what makes it slow, and what keeps it from cleaning up. All of it is read.

-- name: server
-- $1 are names of settings that a service has, $2 names of roles.
SELECT version() AS version, current_database()::text AS database, current_user::text AS role,
       ARRAY(SELECT n FROM unnest($1::text[]) AS n WHERE current_setting(n, true) IS NOT NULL) AS settings,
       ARRAY(SELECT r.rolname::text FROM pg_catalog.pg_roles r WHERE r.rolname = ANY ($2::text[])) AS roles,
       to_regproc('pg_catalog.aurora_version') IS NOT NULL AS is_aurora,
       pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS may_see_sessions,
       has_database_privilege(current_database(), 'TEMPORARY') AS may_make_temporary_tables,
       pg_catalog.pg_is_in_recovery() AS in_recovery;

-- name: settings
-- What holds for a session that sets nothing itself. `unit` is PostgreSQL's: kB, 8kB, MB, ms, s or NULL.
SELECT name, reset_val AS value, unit, context FROM pg_catalog.pg_settings WHERE name = ANY ($1::text[]);

-- name: own_defaults
-- Where defaults of the settings $1 are set for this database, this role, or both: the strongest first.
SELECT split_part(c, '=', 1) AS name, substr(c, strpos(c, '=') + 1) AS value, s.setdatabase <> 0 AS of_database, s.setrole <> 0 AS of_role
FROM pg_catalog.pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS c
WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()))
  AND s.setrole IN (0, (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = current_user))
  AND split_part(c, '=', 1) = ANY ($1::text[])
ORDER BY s.setrole <> 0 DESC, s.setdatabase <> 0 DESC;

-- name: sessions
-- Transactions of this database that have been open for $1 seconds: they see what was there when they began, so that it stays.
-- Of other roles' sessions this is shown to members of pg_read_all_stats alone.
SELECT a.pid, coalesce(a.usename, '')::text AS role, coalesce(a.application_name, '') AS application, coalesce(a.state, '') AS state,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS open_s
FROM pg_catalog.pg_stat_activity a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
  AND clock_timestamp() - a.xact_start >= $1::float8 * interval '1 second'
ORDER BY a.xact_start LIMIT $2;

-- name: prepared
-- Prepared transactions of this database, $1 seconds old: they hold what an open one holds, and survive a restart.
SELECT p.gid, p.owner::text AS owner, extract(epoch FROM clock_timestamp() - p.prepared)::float8 AS open_s
FROM pg_catalog.pg_prepared_xacts p
WHERE p.database = current_database() AND clock_timestamp() - p.prepared >= $1::float8 * interval '1 second'
ORDER BY p.prepared LIMIT $2;

-- name: slots
-- Replication slots of the whole server. What one keeps of WAL is NULL where it has never been used.
SELECT s.slot_name::text AS name, s.slot_type AS kind, s.active, s.wal_status,
       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), s.restart_lsn)::bigint AS kept_bytes,
       s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL AS holds_rows
FROM pg_catalog.pg_replication_slots s ORDER BY kept_bytes DESC NULLS LAST, s.slot_name LIMIT $1;

-- name: standbys
-- Standbys whose queries hold rows here (hot_standby_feedback), and since how many transactions.
SELECT coalesce(r.application_name, '') AS name, age(r.backend_xmin) AS held_transactions
FROM pg_catalog.pg_stat_replication r WHERE age(r.backend_xmin) >= $1::integer ORDER BY 2 DESC LIMIT $2;

-- name: dead_rows
-- Tables with at least $1 dead rows, and more of them than live ones.
SELECT s.schemaname::text AS schema, s.relname::text AS name, s.n_dead_tup AS dead, s.n_live_tup AS live
FROM pg_catalog.pg_stat_all_tables s
WHERE s.schemaname IN ('kafka', 'pg_catalog') AND s.n_dead_tup >= $1::bigint AND s.n_dead_tup > s.n_live_tup
ORDER BY s.n_dead_tup DESC LIMIT $2;

-- name: tables_without_autovacuum
SELECT c.relname::text AS name FROM pg_catalog.pg_class c
WHERE c.relnamespace = to_regnamespace('kafka') AND c.relkind = 'r'
  -- The outbox's tables are emptied, never vacuumed (schema/100_outbox.sql).
  AND c.relname !~ '^outbox_[0-3]$'
  AND EXISTS (SELECT FROM unnest(c.reloptions) AS o WHERE o ~* '^autovacuum_enabled=(false|off|no|0|f|n|of)$')
ORDER BY 1 LIMIT $1;

-- name: frozen_age
-- Transactions since the oldest row of this database that is not frozen, of some two thousand million that there may be.
SELECT age(d.datfrozenxid) AS age FROM pg_catalog.pg_database d WHERE d.datname = current_database();

-- name: journals
-- The two tables of each journal together, and what in them counts.
SELECT j.journal, j.live_bytes,
       (SELECT sum(pg_catalog.pg_table_size(to_regclass(format('kafka.%s_journal_%s', rtrim(j.journal, 's'), n))))
        FROM generate_series(0, 1) AS n)::bigint AS bytes
FROM kafka.journals j ORDER BY j.journal;

-- name: lockers
-- Sessions that have locked tables of schema kafka against everybody for more than a moment, the broker's own included.
SELECT l.pid, min(c.relname::text) AS name, count(*)::integer AS tables, coalesce(min(a.usename), '')::text AS role,
       coalesce(min(a.application_name), '') AS application
FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_class c ON c.oid = l.relation AND c.relnamespace = to_regnamespace('kafka')
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.mode = 'AccessExclusiveLock' AND l.granted AND l.pid <> pg_backend_pid()
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
  AND (a.xact_start < clock_timestamp() - interval '5 seconds'
       OR EXISTS (SELECT FROM pg_catalog.pg_locks w WHERE w.relation = l.relation AND NOT w.granted
                  AND w.waitstart < clock_timestamp() - interval '1 second'))
GROUP BY l.pid ORDER BY l.pid LIMIT $1;

-- name: checkpoints
-- Up to version 16: how many checkpoints came by the clock, and how many because the WAL was full, or somebody asked, as
-- CREATE DATABASE does; and how much WAL there was.
SELECT b.checkpoints_timed AS timed, b.checkpoints_req AS asked, w.wal_bytes::bigint AS wal_bytes
FROM pg_catalog.pg_stat_bgwriter b, pg_catalog.pg_stat_wal w;

-- name: checkpoints_since_17
SELECT c.num_timed AS timed, c.num_requested AS asked, w.wal_bytes::bigint AS wal_bytes
FROM pg_catalog.pg_stat_checkpointer c, pg_catalog.pg_stat_wal w;

-- name: nothing
-- As far as the server and back.
SELECT 1;

-- name: commit
-- A transaction whose COMMIT waits for the flush of its WAL, as that of every batch does. Nothing is written but a message in
-- the WAL, which nobody reads.
SELECT pg_catalog.pg_logical_emit_message(true, 'pg_kafka doctor', '');

-- name: rights
-- What the role lacks of what a broker needs; made of the catalogue, which everybody may read.
SELECT current_user::text AS role, pg_catalog.pg_get_userbyid(n.nspowner)::text AS owner,
       has_schema_privilege(n.oid, 'USAGE') AS may_use,
       ARRAY(SELECT format('%s on kafka.%s', w.privilege, c.relname)
             FROM (VALUES ('cluster', 'SELECT'), ('log', 'SELECT'), ('log', 'INSERT'), ('brokers', 'INSERT'), ('brokers', 'UPDATE'),
                          ('topics', 'SELECT'), ('topics', 'INSERT'), ('topics', 'UPDATE'), ('segments', 'INSERT'),
                          ('settings', 'SELECT')) AS w (relation, privilege)
             JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.relation
             WHERE NOT has_table_privilege(c.oid, w.privilege)) AS lacks
FROM pg_catalog.pg_namespace n
WHERE n.nspname = 'kafka' AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid AND c.relname = 'cluster');
