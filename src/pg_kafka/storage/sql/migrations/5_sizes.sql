-- Version 5: checkpoints know how much of their partition's last extent is there. Brokers count it once where it is NULL.
-- Locks: ACCESS EXCLUSIVE on kafka.partition_checkpoints, for a moment.

ALTER TABLE kafka.partition_checkpoints ADD COLUMN extent_bytes bigint, ADD COLUMN extent_records bigint;
COMMENT ON COLUMN kafka.partition_checkpoints.extent_bytes IS
    'Bytes in Kafka''s format below next_offset in the extent that next_offset - 1 lies in; NULL when not known. As kafka.extents.bytes, which is not known before the segment is sealed.';
COMMENT ON COLUMN kafka.partition_checkpoints.extent_records IS 'Records of producers there.';
