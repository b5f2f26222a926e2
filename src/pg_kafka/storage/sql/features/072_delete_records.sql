-- Deleting records by SQL: partitions begin later, for SQL when the transaction commits, for Kafka's clients two seconds later at most.

CREATE OR REPLACE FUNCTION kafka.delete_before(topic_id bigint, partition integer, before_offset bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    moved bigint;
BEGIN
    INSERT INTO kafka.log_starts AS s (topic, partition, log_start_offset)
    VALUES (topic_id, delete_before.partition, before_offset)
    ON CONFLICT ON CONSTRAINT log_starts_pkey DO UPDATE
    SET log_start_offset = greatest(s.log_start_offset, EXCLUDED.log_start_offset)
    RETURNING s.log_start_offset INTO moved;
    RETURN moved;
END
$$;
COMMENT ON FUNCTION kafka.delete_before(bigint, integer, bigint) IS
    'Part of kafka.delete_records(), which checks what this does not. Returns where the partition begins afterwards.';

CREATE OR REPLACE FUNCTION kafka.topic_to_delete_from(topic text) RETURNS kafka.topics
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_topic kafka.topics;
    policy text;
BEGIN
    -- No lock on the topic: the caller's transaction may stay open, and others may delete the topic meanwhile.
    SELECT * INTO found_topic FROM kafka.topics t WHERE t.name = topic_to_delete_from.topic;
    IF found_topic.id IS NULL THEN
        RAISE EXCEPTION 'topic "%" does not exist', topic USING ERRCODE = 'undefined_object';
    END IF;
    policy := coalesce(found_topic.configs ->> 'cleanup.policy',
                       (SELECT s.value FROM kafka.settings s WHERE s.name = 'pg_kafka.log_cleanup_policy'), 'delete');
    IF policy ~ '\mcompact\M' AND policy !~ '\mdelete\M' THEN
        RAISE EXCEPTION 'topic "%" is compacted, and records are not deleted from it otherwise', topic
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Its config cleanup.policy would have to contain "delete".';
    END IF;
    RETURN found_topic;
END
$$;
COMMENT ON FUNCTION kafka.topic_to_delete_from(text) IS
    'Part of kafka.delete_records(): the topic, or an error when there is none or its cleanup.policy is "compact" alone.';

CREATE OR REPLACE FUNCTION kafka.delete_records(topic text, partition integer, before_offset bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place kafka.topics;
    ends_at bigint;
    begins_at bigint;
BEGIN
    IF topic IS NULL OR partition IS NULL OR before_offset IS NULL THEN
        RAISE EXCEPTION 'topic, partition and before_offset must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    place := kafka.topic_to_delete_from(topic);
    IF partition NOT BETWEEN 0 AND place.partitions - 1 THEN
        RAISE EXCEPTION 'topic "%" has no partition %', topic, partition
            USING ERRCODE = 'undefined_object', DETAIL = format('Its partitions are 0 to %s.', place.partitions - 1);
    END IF;
    ends_at := kafka.end_offset(place.id, partition);
    IF before_offset NOT BETWEEN -1 AND ends_at THEN
        RAISE EXCEPTION 'offset % is not in partition % of topic "%"', before_offset, partition, topic
            USING ERRCODE = 'numeric_value_out_of_range',
                  DETAIL = format('The partition ends at %s.', ends_at), HINT = 'Offset -1 means its end.';
    END IF;
    begins_at := kafka.delete_before(place.id, partition, CASE before_offset WHEN -1 THEN ends_at ELSE before_offset END);
    INSERT INTO kafka.catalogue_changes (kind, object_id, name, what) VALUES ('log start', place.id, place.name, 'changed');
    RETURN begins_at;
END
$$;
COMMENT ON FUNCTION kafka.delete_records(text, integer, bigint) IS
    'Delete the records of a partition below an offset, -1 for all that there are. Returns the offset at which the partition begins then. For SQL they are gone when the transaction commits, for Kafka''s clients two seconds later at most; the disk space comes back later.';

CREATE OR REPLACE FUNCTION kafka.offset_at(topic_id bigint, partition integer, at_ms bigint) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    start constant bigint := coalesce((SELECT s.log_start_offset FROM kafka.log_starts s
                                       WHERE s.topic = topic_id AND s.partition = offset_at.partition), 0);
    place record;
    stored record;
    found_offset bigint;
BEGIN
    FOR place IN
        SELECT format('kafka.log_%s_%s', e.series, e.segment) AS leaf, e.first_offset
        FROM kafka.extents e
        WHERE e.topic = topic_id AND e.partition = offset_at.partition
          AND coalesce(e.last_offset, start) >= start AND coalesce(e.max_timestamp, at_ms) >= at_ms
        ORDER BY e.first_offset
    LOOP
        CONTINUE WHEN to_regclass(place.leaf) IS NULL;
        FOR stored IN EXECUTE format(
            'SELECT l.base_offset, l.first_timestamp, l.timestamps, l.offset_deltas, l.record_count, l.batch IS NOT NULL AS is_packed
             FROM %s l
             WHERE l.topic = $1 AND l.partition = $2 AND l.base_offset >= $3 AND l.last_offset >= $4 AND l.max_timestamp >= $5
             ORDER BY l.base_offset', place.leaf) USING topic_id, partition, place.first_offset, start, at_ms
        LOOP
            IF stored.is_packed THEN
                -- SQL cannot look into it: the whole row stays.
                RETURN greatest(stored.base_offset, start);
            END IF;
            SELECT min(stored.base_offset + coalesce(stored.offset_deltas[n], n - 1)) INTO found_offset
            FROM generate_series(1, stored.record_count) AS n
            WHERE coalesce(stored.timestamps[n], stored.first_timestamp) >= at_ms
              AND stored.base_offset + coalesce(stored.offset_deltas[n], n - 1) >= start;
            IF found_offset IS NOT NULL THEN
                RETURN found_offset;
            END IF;
        END LOOP;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION kafka.offset_at(bigint, integer, bigint) IS
    'Part of kafka.delete_records(): the first offset of a partition whose record has this timestamp (ms) or a later one; the first of its stored row where that is compressed as it came. NULL when there is none.';

CREATE OR REPLACE FUNCTION kafka.delete_records(topic text, before timestamptz)
RETURNS TABLE (partition_id integer, log_start_offset bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    place kafka.topics;
    at_ms bigint;
BEGIN
    IF topic IS NULL OR before IS NULL THEN
        RAISE EXCEPTION 'topic and before must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF NOT isfinite(before) THEN
        RAISE EXCEPTION 'before must be a time' USING ERRCODE = 'datetime_field_overflow';
    END IF;
    at_ms := ceil(extract(epoch FROM before) * 1000);
    place := kafka.topic_to_delete_from(topic);
    INSERT INTO kafka.catalogue_changes (kind, object_id, name, what) VALUES ('log start', place.id, place.name, 'changed');
    RETURN QUERY
        SELECT p.n, kafka.delete_before(place.id, p.n, coalesce(kafka.offset_at(place.id, p.n, at_ms), kafka.end_offset(place.id, p.n)))
        FROM generate_series(0, place.partitions - 1) AS p (n) ORDER BY p.n;
END
$$;
COMMENT ON FUNCTION kafka.delete_records(text, timestamptz) IS
    'Delete from each partition of a topic the records before the first one with this timestamp or a later one; all, where there is none. Returns where the partitions begin then. See kafka.delete_records(text, integer, bigint).';
