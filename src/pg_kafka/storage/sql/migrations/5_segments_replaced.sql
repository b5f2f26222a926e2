-- Version 5: rows of complete segments may move to a new one, while readers see all of them in either place.
-- Locks: ACCESS EXCLUSIVE on the two small tables.

ALTER TABLE kafka.segments DROP CONSTRAINT segments_state_check;
ALTER TABLE kafka.segments ADD CONSTRAINT segments_state_check
    CHECK (state IN ('active', 'superseded', 'sealed', 'frozen', 'filling', 'replaced', 'freed', 'detached'));
ALTER TABLE kafka.segments
    ADD COLUMN changes integer NOT NULL DEFAULT 0, ADD COLUMN bytes bigint, ADD COLUMN replaces integer[], ADD COLUMN replaced_by xid8;
ALTER TABLE kafka.segments ADD CONSTRAINT segments_replaces_check CHECK ((replaces IS NOT NULL) = (state = 'filling'));
ALTER TABLE kafka.segments ADD CONSTRAINT segments_replaced_by_check CHECK (replaced_by IS NOT NULL OR state <> 'replaced');
CREATE INDEX segments_hidden ON kafka.segments (series, segment) WHERE state IN ('filling', 'replaced');
COMMENT ON TABLE kafka.segments IS
    'Every segment is the table kafka.log_<series>_<segment>. active: appended to; superseded: its owner''s lanes may still be writing to it, and begin nothing there; sealed: complete; frozen: vacuumed and analysed; filling: gets the rows of others that it replaces, and views leave it out; replaced: another segment has its rows, views leave it out, and older snapshots still see it; freed: truncated; detached: to be dropped.';
COMMENT ON COLUMN kafka.segments.changes IS 'One more with each transaction that changes rows of the segment after it was sealed. What is copied from it meanwhile is copied again.';
COMMENT ON COLUMN kafka.segments.bytes IS 'Bytes in Kafka''s format that were in it when it was sealed; NULL when that is not known.';
COMMENT ON COLUMN kafka.segments.replaces IS 'While it is filled: the segments of the same series whose rows it gets.';
COMMENT ON COLUMN kafka.segments.replaced_by IS 'Transaction since which another segment has its rows. Its table is truncated when nobody has an older snapshot.';

CREATE INDEX extents_segments ON kafka.extents (series, segment);
