-- Membership and take-over.

-- name: live_brokers
-- The lock of a heartbeat session that has ended is free. To find out takes it until the end of this statement, and waits for nobody.
SELECT incarnation, node_id, epoch, lock_id, heartbeat_lock_id, host, port, endpoints, beats, seen_at,
       pg_catalog.pg_try_advisory_xact_lock(1885825894, heartbeat_lock_id) AS is_heartbeat_gone
FROM kafka.brokers WHERE status = 'live' ORDER BY incarnation;

-- name: signs_of_life
-- What a heartbeat changes. A program of schema version 3 writes the time alone.
SELECT incarnation, beats, seen_at FROM kafka.brokers WHERE status = 'live';

-- name: fence
UPDATE kafka.brokers SET status = 'fenced', ended_at = clock_timestamp() WHERE incarnation = $1 AND status = 'live'
RETURNING incarnation;

-- name: ended_locks
-- Numbers of the locks of incarnations that are over. Whoever marked one may have died before its sessions had ended.
SELECT coalesce(array_agg(lock_id), '{}') FROM kafka.brokers WHERE status IN ('fenced', 'stopped');

-- name: try_lock_in_transaction
SELECT pg_catalog.pg_try_advisory_xact_lock(1885825894, $1);

-- name: cluster_row
-- Locks the one row until the end of the transaction: two brokers never join at once.
SELECT cluster_id, schema_version, epoch, system_identifier, timeline FROM kafka.cluster FOR UPDATE;

-- name: advance_epoch
UPDATE kafka.cluster SET epoch = epoch + $1, system_identifier = $2, timeline = $3 RETURNING epoch;

-- name: join
-- With the node id that it had while it waited ($8), or the lowest that is free.
INSERT INTO kafka.brokers (node_id, status, epoch, lock_id, heartbeat_lock_id, host, port, version, endpoints)
SELECT coalesce($8::integer, (
           SELECT min(n) FROM generate_series(1, (SELECT count(*) + 1 FROM kafka.brokers WHERE status IN ('live', 'waiting'))) n
           WHERE n NOT IN (SELECT node_id FROM kafka.brokers WHERE status IN ('live', 'waiting')))),
       'live', $1, $2, $3, $4, $5, $6, $7::text[]
RETURNING incarnation, node_id, lock_id, heartbeat_lock_id, beats;

-- name: forget_old_incarnations
-- Keep a bounded history of ended incarnations.
DELETE FROM kafka.brokers WHERE status IN ('fenced', 'stopped')
AND incarnation < (SELECT coalesce(max(incarnation), 0) - 1000 FROM kafka.brokers);

-- name: wait
-- A broker that waits. It leads nothing, so it has no epoch, and its session's lock is that of its heartbeat.
INSERT INTO kafka.brokers (node_id, status, epoch, lock_id, heartbeat_lock_id, host, port, version, endpoints)
SELECT min(n), 'waiting', 0, $1, $1, $2, $3, $4, $5::text[]
FROM generate_series(1, (SELECT count(*) + 1 FROM kafka.brokers WHERE status IN ('live', 'waiting'))) n
WHERE n NOT IN (SELECT node_id FROM kafka.brokers WHERE status IN ('live', 'waiting'))
RETURNING incarnation, node_id;

-- name: beat_waiting
-- No row when another broker has taken this one for dead.
UPDATE kafka.brokers SET beats = beats + 1, seen_at = clock_timestamp() WHERE incarnation = $1 AND status = 'waiting'
RETURNING beats;

-- name: waiting_brokers
SELECT incarnation, node_id, host, port, endpoints, beats, seen_at,
       pg_catalog.pg_try_advisory_xact_lock(1885825894, heartbeat_lock_id) AS is_heartbeat_gone
FROM kafka.brokers WHERE status = 'waiting' ORDER BY node_id;

-- name: drop_waiting
DELETE FROM kafka.brokers WHERE incarnation = ANY ($1::bigint[]) AND status = 'waiting' RETURNING node_id;

-- name: cluster_id
SELECT cluster_id FROM kafka.cluster;

-- name: topics_sign
-- What a new, a deleted and a grown topic changes.
SELECT count(*) AS topics, max(id) AS newest, sum(partitions) AS partitions FROM kafka.topics;

-- name: topics
SELECT name, uuid, partitions FROM kafka.topics;

-- name: heartbeat
-- No row when the incarnation is over, or when its last heartbeat ($2) is not there: then something older has been restored.
UPDATE kafka.brokers SET beats = beats + 1, seen_at = clock_timestamp() WHERE incarnation = $1 AND status = 'live' AND beats >= $2
RETURNING beats;

-- name: barrier
-- A write that changes nothing: when its commit returns clean, all before it has reached a synchronous standby.
UPDATE kafka.brokers SET version = version WHERE incarnation = $1;

-- name: leave
UPDATE kafka.brokers SET status = 'stopped', ended_at = clock_timestamp() WHERE incarnation = $1 AND status = 'live';

-- name: skip_producer_ids
-- After a restore the sequence repeats what was given out since the backup; producers that got those ids still use them.
SELECT setval('kafka.producer_ids', nextval('kafka.producer_ids') + 1000000000);
