-- Version 4: heartbeats are counted, so that no clock decides who lives. Locks: ACCESS EXCLUSIVE on kafka.brokers, for a moment.

ALTER TABLE kafka.brokers ADD COLUMN beats bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN kafka.brokers.seen_at IS 'Time of the last heartbeat by the server''s clock, for people; nothing is decided by it.';
COMMENT ON COLUMN kafka.brokers.beats IS 'Number of heartbeats. A broker that waits and has seen no change for pg_kafka.eviction_ms may take over.';
