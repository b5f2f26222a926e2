-- Version 5: topics whose compressed batches are kept as they came, and where such rows are.
-- Locks: ACCESS EXCLUSIVE on kafka.topics and kafka.extents, for as long as it takes to build an empty index on each.

ALTER TABLE kafka.topics ADD COLUMN keeps_batches boolean NOT NULL DEFAULT false, ADD COLUMN sql_asked_at timestamptz;
CREATE INDEX topics_with_batches ON kafka.topics (id) WHERE keeps_batches;
COMMENT ON COLUMN kafka.topics.keeps_batches IS 'Rows may have compressed batches as they came: a query of the topic waits until the broker has unpacked them.';
COMMENT ON COLUMN kafka.topics.sql_asked_at IS 'Since when its batches are unpacked, and none are kept, because SQL has asked for its records.';

ALTER TABLE kafka.extents ADD COLUMN packed_from bigint;
CREATE INDEX packed_extents ON kafka.extents (topic, partition, first_offset) WHERE packed_from IS NOT NULL;
COMMENT ON COLUMN kafka.extents.packed_from IS 'No row of the extent below this offset has batches as they came; NULL when none has.';

CREATE TABLE kafka.unpacking_asked ();
COMMENT ON TABLE kafka.unpacking_asked IS 'Always empty. Who holds a ROW SHARE lock on it, and an advisory lock (1885825895, topic), has asked for the records of a topic.';
