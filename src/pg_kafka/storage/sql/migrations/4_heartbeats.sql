-- Version 4: heartbeats are counted, so that no clock decides who lives; brokers that wait are known to others. Locks: ACCESS EXCLUSIVE on kafka.brokers, for a moment.

ALTER TABLE kafka.brokers ADD COLUMN beats bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN kafka.brokers.seen_at IS 'Time of the last heartbeat by the server''s clock, for people; nothing is decided by it.';
COMMENT ON COLUMN kafka.brokers.beats IS 'Number of heartbeats. A broker that waits and has seen no change for pg_kafka.eviction_ms may take over.';

ALTER TABLE kafka.brokers DROP CONSTRAINT brokers_status_check;
ALTER TABLE kafka.brokers ADD CONSTRAINT brokers_status_check CHECK (status IN ('live', 'fenced', 'stopped', 'waiting'));
DROP INDEX kafka.brokers_live_node;
CREATE UNIQUE INDEX brokers_live_node ON kafka.brokers (node_id) WHERE status IN ('live', 'waiting');
COMMENT ON TABLE kafka.brokers IS 'Incarnations of brokers, one row for each start; a row that is not live is never revived. Brokers that wait for the one that leads have rows while they do.';
