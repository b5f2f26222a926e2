-- Version 5: log starts that SQL has moved are noted, too. Locks: none that anybody waits for.

COMMENT ON COLUMN kafka.catalogue_changes.kind IS 'topic, setting, group config, or log start: where partitions of a topic begin.';
COMMENT ON COLUMN kafka.catalogue_changes.object_id IS 'kafka.topics.id of a topic or a log start; NULL for what is known by its name alone.';
