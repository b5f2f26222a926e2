-- Version 5: a segment has an owner, the broker that appends to it, instead of a series having one active segment.
-- Locks: ACCESS EXCLUSIVE on the two small tables.

ALTER TABLE kafka.segments DROP CONSTRAINT segments_state_check;
ALTER TABLE kafka.segments ADD CONSTRAINT segments_state_check
    CHECK (state IN ('active', 'superseded', 'sealed', 'frozen', 'freed', 'detached'));
ALTER TABLE kafka.segments ADD COLUMN owner integer;
ALTER TABLE kafka.segments ADD CONSTRAINT segments_owner_check CHECK (owner IS NULL OR state IN ('active', 'superseded'));
CREATE UNIQUE INDEX segments_active ON kafka.segments (series, owner) WHERE state = 'active';
COMMENT ON TABLE kafka.segments IS
    'Every segment is the table kafka.log_<series>_<segment>. active: appended to; superseded: its owner''s lanes may still be writing to it, and begin nothing there; sealed: complete; frozen: vacuumed and analysed; freed: truncated; detached: to be dropped.';
COMMENT ON COLUMN kafka.segments.owner IS
    'Node id of the broker that appends to it, or may still be writing to it; NULL when nobody does. A broker has one active segment of a series at most.';

UPDATE kafka.segments g SET state = 'superseded'
FROM kafka.series s WHERE s.id = g.series AND g.state = 'active' AND g.segment < s.active_segment;

ALTER TABLE kafka.series ADD COLUMN next_segment integer NOT NULL DEFAULT 0;
UPDATE kafka.series s SET next_segment = 1 + greatest(s.active_segment, (SELECT max(g.segment) FROM kafka.segments g WHERE g.series = s.id));
ALTER TABLE kafka.series DROP COLUMN active_segment;
COMMENT ON COLUMN kafka.series.next_segment IS 'Number of the segment that is made next. Numbers grow and are never given twice, also when segments are dropped.';
