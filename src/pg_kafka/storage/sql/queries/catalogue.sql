-- Changes of the catalogue since a reader's last look.

-- name: forgive_other_servers
-- A dump of another server brings its transaction ids along, which would look like news here when theirs are higher.
-- They are from before any look. Locks: those rows.
WITH changes AS (
    UPDATE kafka.catalogue_changes SET transaction_id = '0' WHERE transaction_id >= pg_snapshot_xmax(pg_current_snapshot())
)
UPDATE kafka.catalogue_forgotten f SET transaction_id = '0', newest = '0'
FROM kafka.catalogue_forgotten o
-- Whoever forgets something at this moment changes the row first, and then it is left alone.
WHERE o.transaction_id >= pg_snapshot_xmax(pg_current_snapshot()) AND f.transaction_id = o.transaction_id;

-- name: look
-- $1 is the snapshot of the last look, NULL at the first; $2 the transaction in which this reader has forgotten changes last.
-- One row at least; is_complete says whether all changes since then are there. Counts on the index on transaction_id.
SELECT n.snapshot, n.is_complete, c.number, c.kind, c.object_id, c.name, c.what, c.changed_by, c.application, c.changed_at
FROM (
    SELECT pg_current_snapshot()::text AS snapshot,
           $1::text IS NOT NULL AND NOT EXISTS (
               SELECT FROM kafka.catalogue_forgotten f
               WHERE f.transaction_id <> $2::text::xid8
                 AND NOT pg_visible_in_snapshot(f.transaction_id, $1::text::pg_snapshot)
                 AND f.newest >= pg_snapshot_xmin($1::text::pg_snapshot)) AS is_complete
) AS n
LEFT JOIN kafka.catalogue_changes c
    ON n.is_complete
   AND c.transaction_id >= pg_snapshot_xmin($1::text::pg_snapshot)
   AND NOT pg_visible_in_snapshot(c.transaction_id, $1::text::pg_snapshot)
ORDER BY c.number;

-- name: forget
-- Of all but the newest $1 changes those that this reader has seen: $2 is its snapshot. Not when another one has forgotten some since
-- its last look, which its next look has to notice; $3 as above. Locks: the one row of kafka.catalogue_forgotten, then the changes.
WITH latest AS (
    SELECT FROM kafka.catalogue_forgotten f
    WHERE f.transaction_id = $3::text::xid8 OR pg_visible_in_snapshot(f.transaction_id, $2::text::pg_snapshot)
    FOR UPDATE
), gone AS (
    DELETE FROM kafka.catalogue_changes d
    WHERE EXISTS (SELECT FROM latest) AND pg_visible_in_snapshot(d.transaction_id, $2::text::pg_snapshot)
      AND d.number <= (SELECT c.number FROM kafka.catalogue_changes c ORDER BY c.number DESC OFFSET $1 LIMIT 1)
    RETURNING d.transaction_id
)
UPDATE kafka.catalogue_forgotten f
SET transaction_id = pg_current_xact_id(), newest = greatest(f.newest, g.newest)
FROM (SELECT gone.transaction_id AS newest FROM gone ORDER BY gone.transaction_id DESC LIMIT 1) AS g
RETURNING f.transaction_id::text;
