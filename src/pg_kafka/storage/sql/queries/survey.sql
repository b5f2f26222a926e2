-- What metrics tell and only the database knows. Catalogues and small tables are read, never a row of the log; sizes are what the
-- file system says. Each statement takes locks on nothing but what it reads, and on one table at a time.

-- name: tables
-- Sizes with TOAST and indexes, and dead rows, of the tables in schema kafka by what is in them.
SELECT CASE WHEN c.relname ~ '^log_\d+_\d+$' THEN 'log' WHEN c.relname ~ '_journal_[01]$' THEN 'journals' ELSE 'other' END AS part,
       coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint AS bytes,
       coalesce(sum(pg_stat_get_dead_tuples(c.oid)), 0)::bigint AS dead_rows
FROM pg_catalog.pg_class c WHERE c.relnamespace = 'kafka'::regnamespace AND c.relkind = 'r' GROUP BY 1;

-- name: journals
SELECT j.journal, j.live_bytes,
       coalesce(sum(pg_total_relation_size(to_regclass(format('kafka.%s_journal_%s', rtrim(j.journal, 's'), n.number)))), 0)::bigint AS bytes
FROM kafka.journals j CROSS JOIN (VALUES (0), (1)) AS n (number) GROUP BY j.journal, j.live_bytes;

-- name: segments
SELECT state, count(*) AS segments FROM kafka.segments GROUP BY state;

-- name: server
-- pg_stat_activity has a row for each session, whatever the role may see of it.
SELECT pg_database_size(current_database()) AS database_bytes,
       (SELECT age(d.datfrozenxid) FROM pg_catalog.pg_database d WHERE d.datname = current_database()) AS xid_age,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.backend_type = 'client backend') AS connections,
       current_setting('max_connections')::integer AS max_connections,
       (SELECT count(*) FROM kafka.deleted_topics) AS deleted_topics;

-- name: snapshots
-- Seconds since the oldest snapshot of each kind began, of this database; those of other roles' sessions are seen by pg_read_all_stats alone.
SELECT coalesce((SELECT extract(epoch FROM clock_timestamp() - min(a.xact_start)) FROM pg_catalog.pg_stat_activity a
                 WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
                   AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
                   AND a.backend_type <> 'autovacuum worker'), 0)::float8 AS session_s,
       coalesce((SELECT extract(epoch FROM clock_timestamp() - min(p.prepared)) FROM pg_catalog.pg_prepared_xacts p
                 WHERE p.database = current_database()), 0)::float8 AS prepared_s,
       coalesce((SELECT max(greatest(age(s.xmin), age(s.catalog_xmin))) FROM pg_catalog.pg_replication_slots s), 0) AS slot_xid_age,
       coalesce((SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)) FROM pg_catalog.pg_replication_slots s), 0)::bigint
           AS slot_bytes;

-- name: dirty
-- What topics $1 hold, and what of it lies at or above the offset up to which they are clean, each by topic. An extent that offset lies in
-- counts by its share of the offsets. Read by the primary key of kafka.extents.
WITH parts AS (
    SELECT z.topic_id, z.partition_id, z.first_offset, coalesce(z.bytes, 0) AS bytes,
           lead(z.first_offset) OVER (PARTITION BY z.topic_id, z.partition_id ORDER BY z.first_offset) AS next_offset
    FROM kafka.extent_sizes z WHERE z.topic_id = ANY ($1::bigint[])
), ends AS (
    SELECT x.topic_id, x.first_offset, x.bytes,
           coalesce(x.next_offset, p.next_offset, x.first_offset) AS end_offset,
           greatest(coalesce(c.first_dirty_offset, 0), coalesce(s.log_start_offset, 0), x.first_offset) AS dirty_from
    FROM parts x
    LEFT JOIN kafka.partition_checkpoints p ON p.topic = x.topic_id AND p.partition = x.partition_id
    LEFT JOIN kafka.compactions c ON c.topic = x.topic_id AND c.partition = x.partition_id
    LEFT JOIN kafka.log_starts s ON s.topic = x.topic_id AND s.partition = x.partition_id
)
SELECT e.topic_id, sum(e.bytes)::bigint AS bytes,
       coalesce(sum(e.bytes * greatest(e.end_offset - e.dirty_from, 0) / nullif(e.end_offset - e.first_offset, 0)), 0)::bigint AS dirty_bytes
FROM ends e GROUP BY e.topic_id;
