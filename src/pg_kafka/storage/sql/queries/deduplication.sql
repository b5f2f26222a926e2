-- What kafka.produce() remembers of dedup_ids.

-- name: rotate
-- Waits for nobody.
SELECT kafka.rotate_deduplication();
