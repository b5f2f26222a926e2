-- Version 5: rows may have their records as the producers' batches, and say how many bytes they are on the wire.
-- Locks: ACCESS EXCLUSIVE on every table of the log, for a moment; no table is read or rewritten.

ALTER TABLE kafka.log ADD COLUMN wire_bytes integer, ADD COLUMN batch bytea, ALTER COLUMN values DROP NOT NULL;
COMMENT ON COLUMN kafka.log.values IS 'Record values; a NULL element is a tombstone. NULL when batch has the records.';
COMMENT ON COLUMN kafka.log.wire_bytes IS 'Bytes of the row''s records in Kafka''s format, compressed as the producer sent them; NULL in rows of programs that did not count them.';
COMMENT ON COLUMN kafka.log.batch IS 'The producers'' batches as they go to consumers, one behind the other; NULL when the arrays have the records.';

DO $do$
DECLARE
    leaf regclass;
BEGIN
    FOR leaf IN SELECT relid FROM pg_partition_tree('kafka.log') WHERE isleaf AND level = 2 LOOP
        EXECUTE format('ALTER TABLE %s ALTER batch SET STORAGE EXTERNAL, ALTER batch SET STATISTICS 0', leaf);
    END LOOP;
END
$do$;
