-- Version 5: extents know their smallest timestamp, which the janitor fills in.
-- Locks: ACCESS EXCLUSIVE on kafka.extents, which is read once for the index.

ALTER TABLE kafka.extents ADD COLUMN min_timestamp bigint;
CREATE INDEX extents_unknown_times ON kafka.extents (series, segment) WHERE min_timestamp IS NULL AND packed_from IS NULL;
COMMENT ON COLUMN kafka.extents.min_timestamp IS 'No record of a producer has a smaller timestamp, ms; the largest bigint when there are none. NULL until it is known, soon after the segment is sealed.';
