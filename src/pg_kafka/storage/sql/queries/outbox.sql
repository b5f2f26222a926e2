-- The outbox and the relay. What a pass looks for counts on the indexes outbox_<n>_xid_idx: $1 is xmax of the snapshot before,
-- $2 its xip. {number} is the number of an outbox table.

-- name: plan_by_index
-- The tables are never analysed, and grow from nothing. A plan that reads one from its begin would be right for no pass.
SELECT pg_catalog.set_config('enable_seqscan', 'off', false), pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', false);

-- name: listen
LISTEN kafka_outbox;

-- name: due_now
-- What is visible and was not in the snapshot before: at most $3 rows, those with the smallest ids. One row without an id if there is none.
SELECT pg_current_snapshot()::text AS snapshot, d.number, d.place::text AS place, d.id, d.bytes
FROM (SELECT) AS one LEFT JOIN (
    SELECT number, place, id, bytes FROM (
    SELECT 0 AS number, ctid AS place, id, bytes, xid FROM kafka.outbox_0 WHERE xid >= $1::text::xid8 OR xid = ANY ($2::text[]::xid8[])
    UNION ALL
    SELECT 1 AS number, ctid AS place, id, bytes, xid FROM kafka.outbox_1 WHERE xid >= $1::text::xid8 OR xid = ANY ($2::text[]::xid8[])
    UNION ALL
    SELECT 2 AS number, ctid AS place, id, bytes, xid FROM kafka.outbox_2 WHERE xid >= $1::text::xid8 OR xid = ANY ($2::text[]::xid8[])
    UNION ALL
    SELECT 3 AS number, ctid AS place, id, bytes, xid FROM kafka.outbox_3 WHERE xid >= $1::text::xid8 OR xid = ANY ($2::text[]::xid8[])
    ) AS r
    ORDER BY id LIMIT $3
) AS d ON true
ORDER BY d.id;

-- name: due_until
-- The same for what is visible in snapshot $4, with ids above $5 and up to $6.
SELECT number, place::text AS place, id, bytes FROM (
    SELECT 0 AS number, ctid AS place, id, bytes, xid FROM kafka.outbox_0 WHERE xid >= $1::text::xid8 OR xid = ANY ($2::text[]::xid8[])
    UNION ALL
    SELECT 1 AS number, ctid AS place, id, bytes, xid FROM kafka.outbox_1 WHERE xid >= $1::text::xid8 OR xid = ANY ($2::text[]::xid8[])
    UNION ALL
    SELECT 2 AS number, ctid AS place, id, bytes, xid FROM kafka.outbox_2 WHERE xid >= $1::text::xid8 OR xid = ANY ($2::text[]::xid8[])
    UNION ALL
    SELECT 3 AS number, ctid AS place, id, bytes, xid FROM kafka.outbox_3 WHERE xid >= $1::text::xid8 OR xid = ANY ($2::text[]::xid8[])
) AS r
WHERE id > $5 AND id <= $6 AND pg_visible_in_snapshot(xid, $4::text::pg_snapshot)
ORDER BY id LIMIT $3;

-- name: rows
SELECT id, partition, record_count, first_timestamp, array_send(timestamps) AS timestamps, array_send(keys) AS keys,
       array_send(header_ends) AS header_ends, array_send(header_keys) AS header_keys,
       array_send(header_values) AS header_values, array_send(values) AS values, topic, topic_name, ctid::text AS place
FROM kafka.outbox_{number} WHERE ctid = ANY ($1::text[]::tid[]);

-- name: newest_chunk
-- How far the relay has come: the parts of its newest chunk.
WITH newest AS (
    SELECT * FROM kafka.relay_journal_0 UNION ALL SELECT * FROM kafka.relay_journal_1
)
SELECT DISTINCT ON (share) chunk, share, shares, parts, system_identifier, previous_snapshot::text, snapshot::text, after_id, last_id,
       is_last, left_over, partitions
FROM newest WHERE chunk = (SELECT max(chunk) FROM newest) ORDER BY share;

-- name: topics_there
SELECT id FROM kafka.topics WHERE id = ANY ($1::bigint[]);

-- name: note_errors
-- Records that cannot be sent, of the rows at $1: their numbers in the row, why.
INSERT INTO kafka.outbox_errors (id, topic_id, topic, partition, key, value, headers, timestamp_ms, sqlstate, message)
SELECT o.id + n, o.topic, o.topic_name, o.partition, o.keys[n + 1], o.values[n + 1],
       (SELECT array_agg(ROW (convert_from(h.key, 'UTF8'), h.value)::kafka.header)
        FROM unnest(o.header_keys[coalesce(o.header_ends[n], 0) + 1:o.header_ends[n + 1]],
                    o.header_values[coalesce(o.header_ends[n], 0) + 1:o.header_ends[n + 1]]) AS h (key, value)),
       coalesce(o.timestamps[n + 1], o.first_timestamp), f.sqlstate, f.message
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS f (place, records, sqlstate, message)
JOIN LATERAL (
    -- Taken out of TOAST once for each row.
    SELECT id, topic, topic_name, partition, first_timestamp, keys || '{}'::bytea[] AS keys, values || '{}'::bytea[] AS values,
           timestamps || '{}'::bigint[] AS timestamps, header_ends || '{}'::integer[] AS header_ends,
           header_keys || '{}'::bytea[] AS header_keys, header_values || '{}'::bytea[] AS header_values
    FROM kafka.outbox_{number} WHERE ctid = f.place::tid OFFSET 0
) AS o ON true
CROSS JOIN LATERAL unnest(f.records::integer[]) AS n
ON CONFLICT (id) DO NOTHING;

-- name: forget_errors
-- All but the newest: $1 records, and $2 bytes of keys and values.
DELETE FROM kafka.outbox_errors WHERE id IN (
    SELECT id FROM (SELECT id, row_number() OVER newest AS number,
                           sum(coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0)::bigint) OVER newest AS bytes
                    FROM kafka.outbox_errors WINDOW newest AS (ORDER BY id DESC)) AS e
    WHERE number > $1 OR bytes > $2);

-- name: try_sleep
-- While the relay sleeps, producers find this lock taken, and notify.
SELECT pg_catalog.pg_try_advisory_lock(1885825896, 1);

-- name: sleep
-- Waits for a transaction that has produced and is still open. Whoever comes after this request is refused the lock as well.
SELECT pg_catalog.pg_advisory_lock(1885825896, 1);

-- name: is_waiting
SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE pid = $1 AND locktype = 'advisory' AND NOT granted);

-- name: producers
-- Open transactions that have produced and could share the lock. While the relay waits for it, there come no more.
SELECT count(*) FROM pg_catalog.pg_locks
WHERE locktype = 'advisory' AND granted AND classid = 1885825896 AND objid = 1 AND objsubid = 2 AND mode = 'ShareLock'
  AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database());

-- name: wake
SELECT pg_catalog.pg_advisory_unlock(1885825896, 1);

-- name: sizes
-- Which table is written, and how large all are.
SELECT n AS number, n = (SELECT last_value & 3 FROM kafka.outbox_turn) AS is_active,
       pg_catalog.pg_table_size(format('kafka.outbox_%s', n)::regclass) AS bytes
FROM generate_series(0, 3) AS n;

-- name: turn
-- A sequence, so producers see it at once.
SELECT setval('kafka.outbox_turn', $1);

-- name: lock_table
-- Fails while a transaction is open that has written there, or reads it. Later ones wait for the end of this transaction.
LOCK TABLE kafka.outbox_{number} IN ACCESS EXCLUSIVE MODE NOWAIT;

-- name: open_transactions
-- Those that may have a snapshot by now. Everybody sees these locks, whoever's transaction it is.
SELECT l.virtualtransaction AS transaction FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'virtualxid' AND l.granted AND l.mode = 'ExclusiveLock' AND l.pid <> pg_catalog.pg_backend_pid()
  AND a.datid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database());

-- name: has_unsent
-- Everything there is committed or was rolled back. Is there a row that the passes so far have not seen?
SELECT EXISTS (SELECT FROM kafka.outbox_{number} WHERE xid >= $1::text::xid8 OR xid = ANY ($2::text[]::xid8[]));

-- name: empty
TRUNCATE kafka.outbox_{number};

-- name: adopt
-- Rows that a restored dump has brought, whose xid is another server's: written anew, unless they are in the log already by what
-- the snapshots $1 and $2 say, of which the latter counts up to the id $3. A restore makes the index after it has filled the table, and
-- with it an entry of pg_attribute that nothing changes: what was written no later than that was restored.
WITH restored AS (
    DELETE FROM kafka.outbox_{number} AS o
    WHERE age(o.xmin) >= (SELECT age(a.xmin) FROM pg_catalog.pg_attribute a
                          WHERE a.attrelid = 'kafka.outbox_{number}_xid_idx'::regclass AND a.attnum = 1)
    RETURNING o.*
)
INSERT INTO kafka.outbox_{number} (id, xid, topic, first_timestamp, partition, record_count, bytes, topic_name, timestamps, keys, header_ends, header_keys,
    header_values, values)
SELECT id, pg_current_xact_id(), topic, first_timestamp, partition, record_count, bytes, topic_name, timestamps, keys, header_ends, header_keys,
    header_values, values
FROM restored
WHERE NOT (pg_visible_in_snapshot(xid, $1::text::pg_snapshot) OR (pg_visible_in_snapshot(xid, $2::text::pg_snapshot) AND id <= $3));

-- name: active_journal
SELECT active FROM kafka.journals WHERE journal = 'relay';

-- name: begin_anew
-- The snapshots of before mean nothing here, and nothing is sent of what is in the outbox.
INSERT INTO kafka.{relay}
    (entry, chunk, share, shares, parts, system_identifier, previous_snapshot, snapshot, after_id, last_id, is_last, left_over, partitions)
VALUES (nextval('kafka.journal_entries'), $1, 0, 1, '{}', $2, '1:1:', '1:1:', -1, -1, true, '[]', '{}');
